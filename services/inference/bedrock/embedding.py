"""Vectors by InvokeModel, in the forms of Titan and of Cohere.

https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-titan-embed-text.html and
.../model-parameters-embed.html (read in 2026). Titan takes one text a call; Cohere takes 96, and wants to know what the
vectors are for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from services.inference import texts
from services.inference.bedrock.families import family_of
from services.inference.bedrock.request import Body
from stackmesh.errors import Unsupported
from stackmesh.inference.v1 import inference_service_pb2 as pb

_COUNT: Final = "x-amzn-bedrock-input-token-count"
"""The header that says how many tokens were read."""


@dataclass(frozen=True, slots=True)
class Vectors:
    """Of the texts of one call."""

    values: Sequence[Sequence[float]]
    tokens: int


class Form(Protocol):
    """How a family is asked for vectors."""

    batch: int
    """Texts a call, at most."""

    def body(self, said: Sequence[str]) -> Body: ...

    def vectors(self, answer: Mapping[str, Any], headers: Mapping[str, str]) -> Vectors: ...


class _Titan:
    batch = 1

    def body(self, said: Sequence[str]) -> Body:
        return {"inputText": said[0]}

    def vectors(self, answer: Mapping[str, Any], headers: Mapping[str, str]) -> Vectors:
        return Vectors([answer["embedding"]], answer["inputTextTokenCount"])


class _Cohere:
    batch = 96

    def body(self, said: Sequence[str]) -> Body:
        return {"texts": list(said), "input_type": "search_document"}

    def vectors(self, answer: Mapping[str, Any], headers: Mapping[str, str]) -> Vectors:
        found: Any = answer["embeddings"]
        if "float" in found:  # v4 tells them by type
            found = found["float"]
        return Vectors(found, int(headers.get(_COUNT, 0)))


_FORMS: Final[Mapping[str, Form]] = {"titan": _Titan(), "cohere": _Cohere()}


def form_of(request: pb.EmbeddingsRequest, model: str) -> Form:
    """How the model is asked; `model` is the id of what `request.model_id` stands for. Raises Unsupported."""
    if any(texts.has_image(content) for content in request.contents):
        raise Unsupported("Bedrock's models of text make no vector of an image")
    form = _FORMS.get(family_of(model).embeds)
    if form is None:
        raise Unsupported(f"{request.model_id} is none of the models that make vectors: Titan's, Cohere's")
    return form


def batches(request: pb.EmbeddingsRequest, form: Form) -> Sequence[Sequence[str]]:
    """The texts, as many together as the model takes."""
    said = [texts.plain(content) for content in request.contents]
    return [said[at : at + form.batch] for at in range(0, len(said), form.batch)]


def joined(found: Sequence[Vectors]) -> pb.EmbeddingsResponse:
    return pb.EmbeddingsResponse(
        embeddings=[pb.Embedding(values=values) for vectors in found for values in vectors.values],
        usage=pb.Usage(prompt_tokens=sum(vectors.tokens for vectors in found)),
    )
