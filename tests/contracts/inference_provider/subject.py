"""An open provider, as the tests of the contract see it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from services.inference import texts
from services.inference.provider import InferenceProvider
from stackmesh.common.v1 import content_pb2
from stackmesh.inference.v1 import inference_service_pb2 as pb
from tests.fakes.backend import Backend


@dataclass(frozen=True)
class Subject:
    """An open provider, and what a test has to know of it."""

    provider: InferenceProvider
    model: str
    """Its own name for a model it serves."""
    context_tokens: int
    working: Callable[[], Awaitable[int]]
    """How many requests the backend is working on, by the backend's own account."""
    places: int
    """Requests it takes before it raises QueueFull: worked on and waiting."""
    aliases: tuple[str, ...] = ()
    unicode: pb.CompletionRequest = field(default_factory=pb.CompletionRequest)
    """Its greedy answer has characters of several bytes and several tokens."""
    grammar: str = 'root ::= "yes"'
    """Says "yes" and nothing else, in the backend's notation."""
    bad_grammar: str = "root ::= (("
    embedding_model: str = ""
    """That of embeddings, if it is another."""
    backend: Backend | None = None
    """What is behind it, where that is a fake."""

    @classmethod
    def over(cls, backend: Backend, provider: InferenceProvider, model: str, **more: Any) -> Self:
        """Over a fake."""

        async def working() -> int:
            return backend.working

        return cls(provider, model, backend.model.context_tokens, working, backend=backend, **more)

    @property
    def fake(self) -> Backend:
        assert self.backend is not None
        return self.backend

    def completion(self, text: str = "1, 2, 3, 4,", *, max_tokens: int = 16) -> pb.CompletionRequest:
        return pb.CompletionRequest(
            model_id=self.model, content=texts.content(text), sampling_params=greedy(max_tokens)
        )

    def chat(self, text: str = "Count from 1 to 20.", *, max_tokens: int = 16) -> pb.ChatCompletionRequest:
        message = content_pb2.Message(user=content_pb2.UserMessage(content=texts.content(text)))
        return pb.ChatCompletionRequest(model_id=self.model, messages=[message], sampling_params=greedy(max_tokens))

    def texts(self, *said: str) -> pb.EmbeddingsRequest:
        """To be embedded."""
        model = self.embedding_model or self.model
        return pb.EmbeddingsRequest(model_id=model, contents=[texts.content(each) for each in said])

    def long_chat(self) -> pb.ChatCompletionRequest:
        """Decodes for seconds."""
        return self.chat("Write a very long story about a river.", max_tokens=200)

    def long_prompt(self) -> pb.ChatCompletionRequest:
        """500 tokens to be read."""
        return self.chat("word " * 470)


def greedy(max_tokens: int) -> pb.SamplingParams:
    return pb.SamplingParams(
        strategy=pb.SamplingStrategy.SAMPLING_STRATEGY_GREEDY, max_tokens=max_tokens, seed=7, repetition_penalty=1.0
    )


def user(*items: str | bytes, url: str | None = None) -> content_pb2.Message:
    """A user's message of texts and pictures."""
    content = content_pb2.Content()
    for item in items:
        if isinstance(item, bytes):
            content.items.add(image=content_pb2.Image(data=item))
        else:
            content.items.add(text=item)
    if url is not None:
        content.items.add(image=content_pb2.Image(uri=url))
    return content_pb2.Message(user=content_pb2.UserMessage(content=content))


def tool(name: str, **parameters: str) -> content_pb2.ToolDefinition:
    """A tool, with the types of its parameters."""
    return content_pb2.ToolDefinition(
        tool_name=content_pb2.ToolName(custom=name),
        description=f"Tells the {name}.",
        parameters={key: content_pb2.ToolParameter(param_type=kind) for key, kind in parameters.items()},
    )


def schema(request: pb.ChatCompletionRequest, wanted: Mapping[str, Any]) -> pb.ChatCompletionRequest:
    """The request, answered in JSON of that schema."""
    request.response_format.json_schema.update(dict(wanted))
    return request
