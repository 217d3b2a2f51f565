"""Ollama's own API (https://github.com/ollama/ollama/blob/main/docs/api.md): everything its adapter needs."""
