from __future__ import annotations

import asyncio
import json
import os
import re
import socket
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import pytest
import pytest_asyncio

from services.inference import texts
from services.inference.llamacpp.models import BUNDLED, locate
from services.inference.providers.llamacpp import LlamaCpp, LlamaCppConfig
from stackmesh.common.v1 import content_pb2
from stackmesh.common.v1.content_pb2 import StopReason
from stackmesh.config import ConfigError
from stackmesh.errors import BackendRejected, ContextExceeded, InvalidField, NotServing, QueueFull, Unsupported
from stackmesh.inference.v1 import inference_service_pb2 as pb
from tests.waiting import until

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("llama.cpp")]

MODEL = "smollm2-135m-instruct"
LIMIT = 20.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def provider() -> AsyncGenerator[LlamaCpp]:
    config = LlamaCppConfig(context_tokens=1024, n_parallel=2, max_queue=2, embedding_tokens=64)
    async with LlamaCpp(config) as opened:
        yield opened


def chat(text: str = "Tell me a story.", **params) -> pb.ChatCompletionRequest:
    message = content_pb2.Message(user=content_pb2.UserMessage(content=texts.content(text)))
    params = {"max_tokens": 200, "strategy": pb.SamplingStrategy.SAMPLING_STRATEGY_GREEDY, "seed": 1, **params}
    return pb.ChatCompletionRequest(model_id=MODEL, messages=[message], sampling_params=pb.SamplingParams(**params))


async def busy(provider: LlamaCpp) -> int:
    metrics = await asyncio.to_thread(provider._server.handle_metrics)
    match = re.search(r"^llamacpp:requests_processing (\d+)", metrics, re.MULTILINE)
    assert match is not None
    return int(match[1])


# Configuration


async def test_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.gguf: there is no such model file"):
        await LlamaCpp(LlamaCppConfig(model="mine", path=tmp_path / "gone.gguf")).__aenter__()


async def test_file_that_is_no_model_is_told(tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_text("hello")
    with pytest.raises(ConfigError, match=r"text\.gguf: llama\.cpp cannot load it"):
        await LlamaCpp(LlamaCppConfig(model="mine", path=tmp_path / "text.gguf")).__aenter__()


async def test_own_file_under_an_own_name() -> None:
    path = locate(MODEL, BUNDLED[MODEL])
    config = LlamaCppConfig(model="mine", path=path, context_tokens=256, n_parallel=1, embeddings=False)
    async with LlamaCpp(config) as provider:
        assert await provider.list_served() == ("mine",)
        request = chat("Hi", max_tokens=2)
        request.model_id = "mine"
        assert (await provider.chat_completion(request)).usage.completion_tokens == 2
        with pytest.raises(NotServing, match="mine"):
            await provider.chat_completion(chat())
        with pytest.raises(Unsupported, match="switched off"):
            await provider.embeddings(pb.EmbeddingsRequest(model_id="mine", contents=[texts.content("a")]))


# The process around it


def listening() -> tuple[list[str], list[str]]:
    """Where this process can be reached: TCP addresses, paths of Unix sockets."""
    own = {os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_socket()}  # noqa: PTH115 -- no path

    def rows(table: str, inode: int) -> list[list[str]]:
        lines = [line.split() for line in Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]]
        return [row for row in lines if f"socket:[{row[inode]}]" in own]

    tcp = [row[1] for table in ("tcp", "tcp6") for row in rows(table, 9) if row[3] == "0A"]
    unix = [row[7] for row in rows("unix", 6) if len(row) > 7]
    return sorted(tcp), sorted(path for path in unix if Path(path).exists())


async def test_nobody_else_can_reach_it(tmp_path: Path) -> None:
    before = listening()  # other tests of this process may still have servers
    async with LlamaCpp(LlamaCppConfig(context_tokens=64, n_parallel=1, embeddings=False)):
        assert listening() == before
    with socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "llama.sock"))
        unix.listen()
        more = [len(now) - len(then) for now, then in zip(listening(), before, strict=True)]
        assert more == [1, 1], "others would have been seen"


async def test_llamacpp_writes_nothing_to_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    config = LlamaCppConfig(context_tokens=256, n_parallel=1)
    async with LlamaCpp(config) as provider:
        await provider.chat_completion(chat("Hi", max_tokens=2))
    assert capfd.readouterr() == ("", "")


async def test_closing_ends_open_streams_and_queued_calls() -> None:
    provider = LlamaCpp(LlamaCppConfig(context_tokens=512, n_parallel=1, embeddings=False))
    async with asyncio.timeout(LIMIT), provider:
        stream = await provider.stream_chat_completion(chat())
        queued = asyncio.ensure_future(provider.chat_completion(chat()))
        await until(lambda: provider._engine.waiting == 1)
        engine = provider._engine
    assert engine.running == 0
    results = await asyncio.gather(queued, return_exceptions=True)
    assert "unloaded" in str(results[0])
    await stream.aclose()


# Stopping


async def test_a_queued_call_is_cancelled_at_once_and_never_reaches_llamacpp(provider: LlamaCpp) -> None:
    streams = [await provider.stream_chat_completion(chat()) for _ in range(2)]
    assert await busy(provider) == 2
    queued = asyncio.ensure_future(provider.chat_completion(chat()))
    await until(lambda: provider._engine.waiting == 1)
    async with asyncio.timeout(0.4):
        queued.cancel()
        with pytest.raises(asyncio.CancelledError):
            await queued
    assert provider._engine.waiting == 0
    assert await busy(provider) == 2
    for stream in streams:
        await stream.aclose()
    await until(lambda: provider._engine.running == 0)


async def test_a_cancelled_call_makes_room_for_the_next(provider: LlamaCpp) -> None:
    streams = [await provider.stream_chat_completion(chat()) for _ in range(2)]
    queued = asyncio.ensure_future(provider.stream_chat_completion(chat("Hi", max_tokens=1)))
    await until(lambda: provider._engine.waiting == 1)
    await streams[0].aclose()
    async with asyncio.timeout(LIMIT), aclosing(await queued) as stream:
        assert [response.event.event_type async for response in stream] == [1, 2, 3]
    await streams[1].aclose()
    await until(lambda: provider._engine.running == 0)


async def test_a_full_queue_is_refused_while_the_others_wait(provider: LlamaCpp) -> None:
    calls = [asyncio.ensure_future(provider.chat_completion(chat())) for _ in range(4)]
    await until(lambda: provider._engine.waiting == 2)
    with pytest.raises(QueueFull, match="2 requests are waiting"):
        await provider.stream_chat_completion(chat())
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await until(lambda: provider._engine.running == 0)


async def test_a_slow_reader_gets_what_piled_up_in_one_message(provider: LlamaCpp) -> None:
    whole = await provider.chat_completion(chat(max_tokens=24))
    async with aclosing(await provider.stream_chat_completion(chat(max_tokens=24))) as stream:
        await until(lambda: provider._engine.running == 0)
        events = [response.event async for response in stream]
    assert len(events) < 8
    assert "".join(event.text for event in events) == texts.plain(whole.completion_message.content)


# Text in a shape


def structured(schema: dict, **params) -> pb.ChatCompletionRequest:
    request = chat("Describe Paris.", **params)
    request.response_format.json_schema.update(schema)
    return request


async def test_json_schema(provider: LlamaCpp) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"enum": ["Paris"]}, "flags": {"type": "array", "items": {"type": "boolean"}}},
        "required": ["city", "flags"],
        "additionalProperties": False,
    }
    schema["properties"]["flags"] |= {"minItems": 2, "maxItems": 2}
    chatted = await provider.chat_completion(structured(schema))
    value = json.loads(texts.plain(chatted.completion_message.content))
    assert value["city"] == "Paris"
    assert [type(flag) for flag in value["flags"]] == [bool, bool]
    completion = pb.CompletionRequest(model_id=MODEL, content=texts.content("Paris as JSON:"))
    completion.response_format.json_schema.update(schema)
    assert json.loads((await provider.completion(completion)).content)["city"] == "Paris"


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nonsense"},
        {"type": "string", "pattern": "("},
        {"$ref": "http://nowhere.invalid/x"},
        {"type": "integer", "minimum": "x"},
    ],
)
async def test_a_schema_llamacpp_would_ignore_is_refused(provider: LlamaCpp, schema: dict) -> None:
    with pytest.raises(BackendRejected, match="json_schema"):
        await provider.stream_chat_completion(structured(schema))


async def test_grammar(provider: LlamaCpp) -> None:
    request = chat("Is water wet?")
    request.response_format.grammar = 'root ::= "yes" | "no"'
    answer = await provider.chat_completion(request)
    assert texts.plain(answer.completion_message.content) in ("yes", "no")
    assert answer.completion_message.stop_reason == StopReason.STOP_REASON_END_OF_TURN
    request.response_format.grammar = "root ::= nothing"
    with pytest.raises(BackendRejected, match="grammar"):
        await provider.stream_chat_completion(request)


async def test_whole_characters_in_chat_whatever_the_limit(provider: LlamaCpp) -> None:
    for max_tokens in range(1, 8):
        request = chat("x", max_tokens=max_tokens)
        request.response_format.grammar = 'root ::= "a😀é"'
        said = texts.plain((await provider.chat_completion(request)).completion_message.content)
        assert said in ("a", "a😀", "a😀é")


async def test_logprobs_are_one_a_token(provider: LlamaCpp) -> None:
    request = chat(max_tokens=5)
    request.logprobs.top_k = 3
    answer = await provider.chat_completion(request)
    assert len(answer.logprobs) == answer.usage.completion_tokens == 5
    assert all(3 <= len(position.logprobs_by_token) <= 4 for position in answer.logprobs)
    assert all(value <= 0 for position in answer.logprobs for value in position.logprobs_by_token.values())
    completion = pb.CompletionRequest(model_id=MODEL, content=texts.content("1, 2, 3,"), logprobs=pb.LogProbConfig())
    completion.sampling_params.max_tokens = 4
    completed = await provider.completion(completion)
    assert [len(position.logprobs_by_token) for position in completed.logprobs] == [1] * 4


async def test_stop_and_limit_and_context_end_an_answer(provider: LlamaCpp) -> None:
    def reason(answer: pb.ChatCompletionResponse) -> StopReason.ValueType:
        return answer.completion_message.stop_reason

    assert reason(await provider.chat_completion(chat(max_tokens=2))) == StopReason.STOP_REASON_OUT_OF_TOKENS
    assert reason(await provider.chat_completion(chat("Say yes.", stop=[" "]))) == StopReason.STOP_REASON_END_OF_TURN


async def test_ignore_eos_goes_on_to_the_end_of_the_context() -> None:
    config = LlamaCppConfig(context_tokens=256, n_parallel=1, embeddings=False, ignore_eos=True)
    async with LlamaCpp(config) as provider:
        answer = await provider.chat_completion(chat("Say yes.", max_tokens=0))
    assert answer.completion_message.stop_reason == StopReason.STOP_REASON_OUT_OF_TOKENS
    assert answer.usage.prompt_tokens + answer.usage.completion_tokens in (256, 257)


# Embeddings


async def test_a_text_over_the_embedding_context_is_refused_with_both_numbers(provider: LlamaCpp) -> None:
    request = pb.EmbeddingsRequest(model_id=MODEL, contents=[texts.content("a"), texts.content("word " * 90)])
    with pytest.raises(ContextExceeded) as caught:
        await provider.embeddings(request)
    assert caught.value.metadata == {"prompt_tokens": "91", "context_tokens": "64"}
    request.contents[1].items[0].text = "x" * 20_000
    with pytest.raises(InvalidField, match=r"contents\[1\]"):
        await provider.embeddings(request)


async def test_an_empty_text_is_not_embedded(provider: LlamaCpp) -> None:
    with pytest.raises(BackendRejected, match="empty"):
        await provider.embeddings(pb.EmbeddingsRequest(model_id=MODEL, contents=[texts.content("")]))


async def test_embedding_many_texts_is_cancelled_between_two(provider: LlamaCpp) -> None:
    assert provider._embedder is not None
    engine = provider._embedder._engine
    contents = [texts.content(f"text number {index}") for index in range(2000)]
    call = asyncio.ensure_future(provider.embeddings(pb.EmbeddingsRequest(model_id=MODEL, contents=contents)))
    await until(lambda: engine.running == 1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await until(lambda: engine.running == 0)  # all of them would take a minute
