"""Plain text continued by Llama models, by InvokeModel: Converse knows conversations only.

https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-meta.html (read in 2026). These models take no
stop sequences there, so text is cut here.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Iterable, Sequence
from typing import Any, Final

from pydantic_core import from_json

from services.inference import texts
from services.inference.bedrock.families import family_of
from services.inference.bedrock.framing import EventDecoder
from services.inference.bedrock.request import Body, check_logprobs, check_sampling, temperatures
from services.inference.remote.errors import sensible
from services.inference.remote.streams import Json
from services.inference.stops import StopFilter
from stackmesh.common.v1.content_pb2 import StopReason
from stackmesh.errors import BackendUnreachable, Unsupported
from stackmesh.inference.v1 import inference_service_pb2 as pb

_MOST: Final = 2048
"""Tokens that these models write at most; left out, it would be 512."""
_Strategy = pb.SamplingStrategy


def completion(request: pb.CompletionRequest, model: str, max_tokens: int | None) -> Body:
    """The parameters of InvokeModel and InvokeModelWithResponseStream.

    `model` is the id of the model that `request.model_id` stands for, as far as it is known; `max_tokens` is for
    requests that set none. Raises Unsupported for models of other families.
    """
    check_logprobs(request)
    if not family_of(model).completes:
        raise Unsupported(f"of the models on Bedrock only Llama continues a text, not {request.model_id}; use chat")
    if texts.has_image(request.content):
        raise Unsupported("Bedrock continues no image")
    if request.response_format.WhichOneof("format"):
        raise Unsupported("Bedrock knows a response_format in chat only")
    params = request.sampling_params
    check_sampling(params)
    body: Body = {
        "prompt": texts.plain(request.content),
        "max_gen_len": params.max_tokens or max_tokens or _MOST,
    }
    if params.strategy == _Strategy.SAMPLING_STRATEGY_GREEDY:
        body["temperature"] = 0.0
    else:
        if params.top_k and params.strategy != _Strategy.SAMPLING_STRATEGY_TOP_P:
            raise Unsupported(f"{request.model_id} has no top_k; use top_p or temperature")
        body |= temperatures(params, "top_p")
    return invocation(request.model_id, body)


def invocation(model_id: str, body: Body) -> Body:
    """The parameters of InvokeModel for a model's own body."""
    return {
        "modelId": model_id,
        "body": json.dumps(body, ensure_ascii=False).encode(),
        "contentType": "application/json",
        "accept": "application/json",
    }


def answered(answer: Json, where: str) -> pb.CompletionResponse:
    """What InvokeModel answered, to a request without stop sequences."""
    with sensible(where):
        return pb.CompletionResponse(
            content=answer["generation"],
            stop_reason=_stop_reason(answer["stop_reason"]),
            usage=pb.Usage(
                prompt_tokens=answer["prompt_token_count"], completion_tokens=answer["generation_token_count"]
            ),
        )


class LlamaFold:
    """The stream of InvokeModelWithResponseStream: chunks, each with the JSON of a piece of text.

    The stream is over where a stop sequence is: `decoder` is told so, and what follows is not waited for.
    """

    def __init__(self, stops: Sequence[str], decoder: EventDecoder, where: str) -> None:
        self._decoder = decoder
        self._where = where
        self._stops = StopFilter(stops)
        self._stop_reason: str | None = None
        self._usage = pb.Usage()
        self.failure: Json | None = None

    def start(self) -> Iterable[pb.StreamCompletionResponse]:
        return ()

    def feed(self, events: Sequence[Json]) -> Sequence[pb.StreamCompletionResponse]:
        said: list[str] = []
        for event in events:
            if "failure" in event:
                self.failure = event
            elif "chunk" in event:
                said.append(self._piece(from_json(b64decode(event["chunk"]["bytes"]))))
            if self._stops.found:
                break
        text = "".join(said)
        return (pb.StreamCompletionResponse(delta=text),) if text else ()

    def _piece(self, piece: Json) -> str:
        """Its text. Counts are running totals; what a piece does not tell is null."""
        if (count := piece.get("prompt_token_count")) is not None:
            self._usage.prompt_tokens = count
        if (count := piece.get("generation_token_count")) is not None:
            self._usage.completion_tokens = count
        self._stop_reason = piece.get("stop_reason") or self._stop_reason
        text = self._stops.feed(piece["generation"] or "")
        if self._stops.found:
            self._stop_reason = "stop"
        self._decoder.done = self._stop_reason is not None
        return text

    def end(self) -> Iterable[pb.StreamCompletionResponse]:
        if self._stop_reason is None:
            raise BackendUnreachable(f"the stream of {self._where} ended early")
        if held := self._stops.rest():
            yield pb.StreamCompletionResponse(delta=held)
        yield pb.StreamCompletionResponse(stop_reason=_stop_reason(self._stop_reason), usage=self._usage)


def _stop_reason(said: Any) -> StopReason.ValueType:
    return StopReason.STOP_REASON_OUT_OF_TOKENS if said == "length" else StopReason.STOP_REASON_END_OF_TURN
