"""The contract of services/inference/provider.py and stackmesh/providers.py as tests, for every inference provider.

A provider's module subclasses `InferenceProviderContract` and overrides the fixture `subject`. What a provider cannot
satisfy it names in `exempt`, with the reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import ClassVar

import pytest

from services.inference import texts
from services.inference.provider import InferenceProvider
from stackmesh.common.v1 import content_pb2
from stackmesh.common.v1.content_pb2 import StopReason
from stackmesh.errors import ContextExceeded, InvalidArgument, MeshError, NotHosted, QueueFull, Unsupported
from stackmesh.inference.v1 import inference_service_pb2 as pb
from stackmesh.providers import Wanted

CANCEL_LIMIT = 0.4
"""Seconds within which the backend has to have stopped."""
PATIENCE = 20.0
"""Seconds after which a test that waits has failed."""

Kind = pb.ChatCompletionEventType


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

    def completion(self, text: str = "1, 2, 3, 4,", *, max_tokens: int = 16) -> pb.CompletionRequest:
        return pb.CompletionRequest(
            model_id=self.model, content=texts.content(text), sampling_params=greedy(max_tokens)
        )

    def chat(self, text: str = "Count from 1 to 20.", *, max_tokens: int = 16) -> pb.ChatCompletionRequest:
        message = content_pb2.Message(user=content_pb2.UserMessage(content=texts.content(text)))
        return pb.ChatCompletionRequest(model_id=self.model, messages=[message], sampling_params=greedy(max_tokens))

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


async def until(condition: Callable[[], Awaitable[bool]], limit: float, what: str) -> None:
    try:
        async with asyncio.timeout(limit):
            while not await condition():  # noqa: ASYNC110 -- a backend in another process sets no asyncio.Event
                await asyncio.sleep(0.002)
    except TimeoutError:
        pytest.fail(f"not within {limit} s: {what}")


async def busy(subject: Subject, count: int = 1) -> None:
    async def condition() -> bool:
        return await subject.working() >= count

    await until(condition, PATIENCE, f"the backend works on {count}")


async def stopped(subject: Subject, limit: float = CANCEL_LIMIT) -> None:
    async def condition() -> bool:
        return await subject.working() == 0

    await until(condition, limit, "the backend has stopped")


async def cancelled(task: asyncio.Task[object]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def deltas(stream: AsyncGenerator[pb.StreamCompletionResponse]) -> list[str]:
    async with aclosing(stream):
        return [message.delta async for message in stream if message.delta]


Leave = Callable[[Subject], Awaitable[None]]


async def check_stops(subject: Subject, leave: Leave, attempts: int = 3) -> None:
    """Soon after a call was left, the backend is idle. Also run against planted bugs.

    A machine with other work may be late once; a backend that goes on is late always.
    """
    for _ in range(attempts - 1):
        await leave(subject)
        try:
            await stopped(subject)
        except pytest.fail.Exception:
            await stopped(subject, PATIENCE)
        else:
            return
    await leave(subject)
    await stopped(subject)


async def leave_reading(subject: Subject) -> None:
    """Cancelled while its prompt is read."""
    task = asyncio.ensure_future(subject.provider.stream_chat_completion(subject.long_prompt()))
    await busy(subject)
    await cancelled(task)


async def leave_decoding(subject: Subject) -> None:
    """Closed after its first text."""
    async with aclosing(await subject.provider.stream_chat_completion(subject.long_chat())) as stream:
        async for response in stream:
            if response.event.text:
                break
        assert await subject.working() == 1, "the first token came when the last had been generated"


async def leave_untaken(subject: Subject) -> None:
    """Closed before its first item is taken."""
    await (await subject.provider.stream_chat_completion(subject.long_chat())).aclose()


async def leave_untaken_completion(subject: Subject) -> None:
    request = subject.completion("Once upon a time", max_tokens=200)
    await (await subject.provider.stream_completion(request)).aclose()


async def leave_unary(subject: Subject) -> None:
    task = asyncio.ensure_future(subject.provider.chat_completion(subject.long_chat()))
    await busy(subject)
    await cancelled(task)


async def leave_unary_completion(subject: Subject) -> None:
    request = subject.completion("Once upon a time", max_tokens=200)
    task = asyncio.ensure_future(subject.provider.completion(request))
    await busy(subject)
    await cancelled(task)


async def leave_consumer(subject: Subject) -> None:
    """The task that reads the stream is cancelled."""

    async def consume() -> None:
        async with aclosing(await subject.provider.stream_chat_completion(subject.long_chat())) as stream:
            async for _ in stream:
                pass

    task = asyncio.ensure_future(consume())
    await busy(subject)
    await cancelled(task)


async def check_closed_decoding(subject: Subject, attempts: int = 3) -> None:
    await check_stops(subject, leave_decoding, attempts)


class InferenceProviderContract:
    exempt: ClassVar[Mapping[str, str]] = {}
    """Test -> why this provider need not pass it."""

    @pytest.fixture
    def subject(self) -> Subject:
        raise NotImplementedError

    @pytest.fixture(autouse=True)
    def _exemptions(self, request: pytest.FixtureRequest) -> None:
        if reason := self.exempt.get(request.node.originalname):
            pytest.skip(reason)

    # Names

    async def test_resolves_its_own_names_to_themselves(self, subject: Subject) -> None:
        served = await subject.provider.list_served()
        assert subject.model in served
        assert [await subject.provider.resolve(Wanted(provider_resource_id=name)) for name in served] == list(served)

    async def test_resolves_aliases_to_its_own_name(self, subject: Subject) -> None:
        assert {await subject.provider.resolve(Wanted(provider_resource_id=alias)) for alias in subject.aliases} <= {
            subject.model
        }

    @pytest.mark.parametrize("name", ["no-such-model", "x" * 255])
    async def test_unknown_name_is_not_hosted_and_names_what_is(self, subject: Subject, name: str) -> None:
        with pytest.raises(NotHosted, match=subject.model):
            await subject.provider.resolve(Wanted(provider_resource_id=name))

    # Registrations

    async def test_loading_what_is_served_returns_and_leaves_it_served(self, subject: Subject) -> None:
        wanted = Wanted(provider_resource_id=subject.model)
        async with asyncio.timeout(PATIENCE):
            await subject.provider.load(wanted)
            await subject.provider.load(wanted)
        assert subject.model in await subject.provider.list_served()

    async def test_unloading_what_was_never_loaded_changes_nothing(self, subject: Subject) -> None:
        before = sorted(await subject.provider.list_served())
        await subject.provider.unload("never-loaded")
        assert sorted(await subject.provider.list_served()) == before

    # What comes, and in which order

    async def test_chat_stream_is_start_progress_complete(self, subject: Subject) -> None:
        stream = await subject.provider.stream_chat_completion(subject.chat())
        events = [response.event async for response in stream]
        kinds = [event.event_type for event in events]
        assert kinds[0] == Kind.CHAT_COMPLETION_EVENT_TYPE_START
        assert kinds[-1] == Kind.CHAT_COMPLETION_EVENT_TYPE_COMPLETE
        assert set(kinds[1:-1]) == {Kind.CHAT_COMPLETION_EVENT_TYPE_PROGRESS}
        assert events[0].WhichOneof("delta") is None
        assert all(event.text for event in events[1:-1])
        assert not any(event.stop_reason or event.HasField("usage") for event in events[:-1])
        _check_end(events[-1].stop_reason, events[-1].usage)

    async def test_completion_stream_ends_with_usage_and_stop_reason(self, subject: Subject) -> None:
        stream = await subject.provider.stream_completion(subject.completion())
        messages = [message async for message in stream]
        assert not any(message.stop_reason or message.HasField("usage") for message in messages[:-1])
        assert all(message.delta for message in messages[:-1])
        _check_end(messages[-1].stop_reason, messages[-1].usage)

    async def test_unary_calls_report_usage_and_stop_reason(self, subject: Subject) -> None:
        completed = await subject.provider.completion(subject.completion(max_tokens=3))
        _check_end(completed.stop_reason, completed.usage)
        assert completed.stop_reason == StopReason.STOP_REASON_OUT_OF_TOKENS
        assert completed.usage.completion_tokens == 3
        chatted = await subject.provider.chat_completion(subject.chat(max_tokens=3))
        _check_end(chatted.completion_message.stop_reason, chatted.usage)
        assert chatted.completion_message.stop_reason == StopReason.STOP_REASON_OUT_OF_TOKENS
        assert chatted.usage.completion_tokens == 3

    async def test_streamed_text_is_the_unary_text(self, subject: Subject) -> None:
        chatted = await subject.provider.chat_completion(subject.chat())
        stream = await subject.provider.stream_chat_completion(subject.chat())
        streamed = "".join([response.event.text async for response in stream])
        assert streamed == texts.plain(chatted.completion_message.content) != ""
        completed = await subject.provider.completion(subject.completion())
        pieces = await deltas(await subject.provider.stream_completion(subject.completion()))
        assert "".join(pieces) == completed.content != ""

    async def test_calls_run_side_by_side(self, subject: Subject) -> None:
        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
            calls = [group.create_task(subject.provider.chat_completion(subject.chat())) for _ in range(2)]
            others = [group.create_task(subject.provider.completion(subject.completion())) for _ in range(2)]
        assert calls[0].result().usage == calls[1].result().usage
        assert others[0].result().usage == others[1].result().usage

    # Exact text

    async def test_same_seed_same_text(self, subject: Subject) -> None:
        request = subject.completion("Once upon a time", max_tokens=12)
        request.sampling_params.CopyFrom(pb.SamplingParams(temperature=1.0, seed=11, max_tokens=12))
        first, second = [await subject.provider.completion(request) for _ in range(2)]
        assert first.content == second.content

    async def test_stop_sequence_over_several_tokens_leaks_nothing(self, subject: Subject) -> None:
        pieces = await deltas(await subject.provider.stream_completion(subject.completion(max_tokens=24)))
        whole = "".join(pieces)
        stop = whole[len(whole) // 2 : len(whole) // 2 + 4]
        assert stop
        assert not any(stop in piece for piece in pieces), "the sequence has to span several tokens"
        request = subject.completion(max_tokens=24)
        request.sampling_params.stop.append(stop)
        stream = await subject.provider.stream_completion(request)
        messages = [message async for message in stream]
        assert "".join(message.delta for message in messages) == whole[: whole.index(stop)]
        assert messages[-1].stop_reason == StopReason.STOP_REASON_END_OF_TURN
        unary = await subject.provider.completion(request)
        assert unary.content == whole[: whole.index(stop)]

    async def test_only_whole_characters_come(self, subject: Subject) -> None:
        async def answer(max_tokens: int) -> list[str]:
            request = pb.CompletionRequest()
            request.CopyFrom(subject.unicode)
            request.sampling_params.max_tokens = max_tokens
            return await deltas(await subject.provider.stream_completion(request))

        whole = "".join(await answer(subject.unicode.sampling_params.max_tokens))
        assert len(whole.encode()) > len(whole)
        for max_tokens in range(1, subject.unicode.sampling_params.max_tokens):
            cut = "".join(await answer(max_tokens))
            assert "\ufffd" not in cut
            assert whole.startswith(cut)

    # What is wrong

    async def test_prompt_over_the_context_is_refused_by_the_await_with_both_numbers(self, subject: Subject) -> None:
        text = "word " * (subject.context_tokens * 2)
        provider = subject.provider
        for call in (
            provider.completion(subject.completion(text)),
            provider.stream_completion(subject.completion(text)),
            provider.chat_completion(subject.chat(text)),
            provider.stream_chat_completion(subject.chat(text)),
        ):
            with pytest.raises(ContextExceeded) as caught:
                await call
            assert int(caught.value.metadata["prompt_tokens"]) > subject.context_tokens
            assert int(caught.value.metadata["context_tokens"]) == subject.context_tokens

    async def test_pictures_are_unsupported(self, subject: Subject) -> None:
        request = subject.chat()
        request.messages[0].user.content.items.add(image=content_pb2.Image(data=b"\x89PNG"))
        with pytest.raises(Unsupported, match="image"):
            await subject.provider.stream_chat_completion(request)

    async def test_tools_are_unsupported(self, subject: Subject) -> None:
        request = subject.chat()
        request.tools.add(tool_name=content_pb2.ToolName(custom="weather"))
        with pytest.raises(Unsupported, match="tool"):
            await subject.provider.stream_chat_completion(request)

    async def test_bad_grammar_is_refused_by_the_await(self, subject: Subject) -> None:
        request = subject.chat()
        request.response_format.grammar = "root ::= (("
        with pytest.raises((InvalidArgument, Unsupported)):
            await subject.provider.stream_chat_completion(request)

    async def test_full_queue_is_refused_with_a_delay(self, subject: Subject) -> None:
        calls = [
            asyncio.ensure_future(subject.provider.chat_completion(subject.long_chat())) for _ in range(subject.places)
        ]
        try:
            await busy(subject)
            with pytest.raises(QueueFull) as caught:
                await subject.provider.chat_completion(subject.chat())
            assert caught.value.retry_after
        finally:
            for call in calls:
                await cancelled(call)
        await stopped(subject, PATIENCE)

    # Embeddings

    async def test_embeddings_are_one_a_text_in_order(self, subject: Subject) -> None:
        contents = [texts.content(text) for text in ("a cat", "the stock exchange of Tokyo", "a cat")]
        response = await subject.provider.embeddings(pb.EmbeddingsRequest(model_id=subject.model, contents=contents))
        first, second, third = (list(embedding.values) for embedding in response.embeddings)
        assert len(first) == len(second) > 1
        assert first == pytest.approx(third, abs=1e-4)
        assert first != pytest.approx(second, abs=1e-4)
        assert response.usage.prompt_tokens > 0
        assert response.usage.completion_tokens == 0

    async def test_a_picture_is_not_embedded(self, subject: Subject) -> None:
        picture = content_pb2.Content(items=[content_pb2.ContentItem(image=content_pb2.Image(data=b"\x89PNG"))])
        with pytest.raises(Unsupported):
            await subject.provider.embeddings(pb.EmbeddingsRequest(model_id=subject.model, contents=[picture]))

    # Stopping

    async def test_cancelled_while_its_prompt_is_read(self, subject: Subject) -> None:
        await check_stops(subject, leave_reading)

    async def test_streams_before_the_answer_is_whole_and_stops_when_closed(self, subject: Subject) -> None:
        await check_closed_decoding(subject)

    @pytest.mark.parametrize("leave", [leave_untaken, leave_untaken_completion])
    async def test_closed_before_its_first_item_is_taken(self, subject: Subject, leave: Leave) -> None:
        await check_stops(subject, leave)

    @pytest.mark.parametrize("leave", [leave_unary, leave_unary_completion])
    async def test_unary_call_cancelled(self, subject: Subject, leave: Leave) -> None:
        await check_stops(subject, leave)

    async def test_consumer_cancelled(self, subject: Subject) -> None:
        await check_stops(subject, leave_consumer)

    async def test_errors_are_those_of_the_mesh(self, subject: Subject) -> None:
        request = subject.chat()
        request.response_format.json_schema.update({"type": "nonsense"})
        with pytest.raises(MeshError):
            await subject.provider.chat_completion(request)


def _check_end(stop_reason: StopReason.ValueType, usage: pb.Usage) -> None:
    assert stop_reason in (StopReason.STOP_REASON_END_OF_TURN, StopReason.STOP_REASON_OUT_OF_TOKENS)
    assert usage.prompt_tokens > 0
    assert usage.completion_tokens > 0
