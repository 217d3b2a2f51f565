"""Hugging Face text-generation-inference: its own API and its ways with the OpenAI dialect."""
