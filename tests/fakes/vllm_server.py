"""vLLM's OpenAI-compatible server (docs.vllm.ai, 0.12: Serving, Structured Outputs)."""

from __future__ import annotations

from typing import Any, ClassVar

from tests.fakes.openai_model import Body, OpenAIDialectServer


class VLLMServer(OpenAIDialectServer):
    """Parameters that it does not know are ignored, as vLLM ignores them."""

    vendor: ClassVar = "vllm"
    fields: ClassVar = {}

    def listed(self) -> Any:
        length = self.model.context_tokens
        return {
            "object": "list",
            "data": [
                {"id": name, "object": "model", "owned_by": "vllm", "root": name, "max_model_len": length}
                for name in self.models
            ],
        }

    def shape(self, body: Body) -> tuple[Any, str | None]:
        """Its own parameter, beside OpenAI's."""
        schema, _ = super().shape(body)
        return schema, (body.get("structured_outputs") or {}).get("grammar")
