"""llama.cpp alone, with the very settings the provider gives it: a process that generates, and says how long it took.

    python -m benchmarks.bare_model '{"model": "smollm2-135m-instruct"}'

The argument is the configuration of an `inline::llamacpp` provider. When the model is loaded it prints
`{"threads": 1, "slots": 1, "batch": 16}`; then it answers each line `{"said": "...", "max_tokens": 96}` with
`{"tokens": 96, "seconds": 1.5}`.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from services.inference.llamacpp.models import BUNDLED, locate
from services.inference.llamacpp.server import LlamaServer, open_server
from services.inference.providers.llamacpp import LlamaCppConfig


def load(config: LlamaCppConfig) -> LlamaServer:
    return open_server(
        locate(config.model, BUNDLED[config.model]),
        slots=config.n_parallel,
        context_tokens=config.context_tokens,
        n_batch=config.n_batch,
        threads=config.threads,
    )


def generate(server: LlamaServer, said: str, max_tokens: int) -> dict[str, float]:
    """Answer greedily. Tokens are llama.cpp's own count; seconds are those of the whole call."""
    tokens = 0

    def hear(message: dict[str, Any]) -> bool:
        nonlocal tokens
        if (usage := message.get("usage")) is not None:
            tokens = usage["completion_tokens"]
        return False

    body = {
        "messages": [{"role": "user", "content": said}],
        "max_tokens": max_tokens,
        "temperature": 0.0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    begin = time.perf_counter()
    server.handle_chat_completions(body, hear)
    return {"tokens": tokens, "seconds": time.perf_counter() - begin}


def main() -> None:
    config = LlamaCppConfig.model_validate_json(sys.argv[1])
    server = load(config)
    print(json.dumps({"threads": config.threads, "slots": config.n_parallel, "batch": config.n_batch}), flush=True)
    for line in sys.stdin:
        print(json.dumps(generate(server, **json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
