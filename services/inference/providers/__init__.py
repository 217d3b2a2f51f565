"""The provider types of inference: one file each, imported when chosen."""

from typing import Final

KINDS: Final = {
    "inline::echo": "services.inference.providers.echo:Echo",
    "inline::llamacpp": "services.inference.providers.llamacpp:LlamaCpp",
    "remote::bedrock": "services.inference.providers.bedrock:Bedrock",
    "remote::fireworks": "services.inference.providers.fireworks:Fireworks",
    "remote::ollama": "services.inference.providers.ollama:Ollama",
    "remote::tgi": "services.inference.providers.tgi:TGI",
    "remote::together": "services.inference.providers.together:Together",
    "remote::vllm": "services.inference.providers.vllm:VLLM",
}
