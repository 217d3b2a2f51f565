"""What every inference provider has to do, whatever is behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import ClassVar, Final

import pytest

from services.inference import texts
from services.inference.capabilities import capabilities
from stackmesh.common.v1 import content_pb2
from stackmesh.common.v1.content_pb2 import StopReason
from stackmesh.errors import ContextExceeded, InvalidArgument, MeshError, NotHosted, QueueFull, Unsupported
from stackmesh.inference.v1 import inference_service_pb2 as pb
from stackmesh.providers import Wanted
from tests.contracts.inference_provider.stopping import (
    PATIENCE,
    Leave,
    busy,
    cancelled,
    check_closed_decoding,
    check_stops,
    leave_at_the_deadline,
    leave_consumer,
    leave_reading,
    leave_unary,
    leave_unary_completion,
    leave_untaken,
    leave_untaken_completion,
    stopped,
)
from tests.contracts.inference_provider.subject import Subject, schema, tool, user

Kind = pb.ChatCompletionEventType
PNG: Final = b"\x89PNG\r\n\x1a\n" + b"picture"


async def deltas(stream: AsyncGenerator[pb.StreamCompletionResponse]) -> list[str]:
    async with aclosing(stream):
        return [message.delta async for message in stream if message.delta]


def needs(capability: str) -> Callable[[Callable[..., object]], Callable[..., object]]:
    """The test is for providers that do not decline this in the table of capabilities."""
    return pytest.mark.needs(capability)


def _asking(subject: Subject, capability: str) -> pb.ChatCompletionRequest:
    """A request that cannot be answered without it."""
    request = subject.chat("call weather")
    match capability:
        case "tool_choice_none" | "tool_choice_required" | "required_tool":
            request.tools.extend([tool("weather", city="string"), tool("clock")])
            if capability == "required_tool":
                request.required_tool.custom = "clock"
            else:
                request.tool_choice = content_pb2.ToolChoice.Value(capability.upper())
        case "json_schema":
            schema(request, {"type": "object"})
        case "grammar":
            request.response_format.grammar = subject.grammar
        case "logprobs":
            request.logprobs.top_k = 1
        case "image_bytes":
            request.messages[0].CopyFrom(user("what is this?", PNG))
        case "image_url":
            request.messages[0].CopyFrom(user("what is this?", url="https://example.com/cat.png"))
        case _:
            raise AssertionError(f"no request asks for {capability}")
    return request


class InferenceProviderContract:
    """A provider's module subclasses this, says its provider type and overrides the fixture `subject`."""

    kind: ClassVar[str]
    """Its provider type, with which the table of capabilities says what it declines."""
    exempt: ClassVar[Mapping[str, str]] = {}
    """Test -> why this backend of the provider cannot pass it."""

    @pytest.fixture
    def subject(self) -> Subject:
        raise NotImplementedError

    @pytest.fixture(autouse=True)
    def _exemptions(self, request: pytest.FixtureRequest) -> None:
        gaps = capabilities().gaps(self.kind)
        for mark in request.node.iter_markers("needs"):
            if reason := gaps.get(mark.args[0]):
                pytest.skip(reason)
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

    @needs("seed")
    async def test_same_seed_same_text(self, subject: Subject) -> None:
        request = subject.completion("Once upon a time", max_tokens=12)
        request.sampling_params.CopyFrom(pb.SamplingParams(temperature=1.0, seed=11, max_tokens=12))
        first, second = [await subject.provider.completion(request) for _ in range(2)]
        assert first.content == second.content

    async def test_stop_sequence_over_several_tokens_leaks_nothing(self, subject: Subject) -> None:
        for _ in range(5):  # on a busy machine tokens come together
            pieces = await deltas(await subject.provider.stream_completion(subject.completion(max_tokens=24)))
            whole = "".join(pieces)
            stop = whole[len(whole) // 2 : len(whole) // 2 + 4]
            assert stop
            if apart := not any(stop in piece for piece in pieces):
                break
        assert apart, "the sequence has to span several tokens"
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

    async def test_what_it_declines_is_unsupported(self, subject: Subject) -> None:
        for capability in capabilities().gaps(self.kind):
            if capability == "embeddings":
                continue  # has a test of its own
            if capability == "seed":
                continue  # is ignored, as the proto allows
            if capability == "parallel_tools":
                continue  # cannot be asked for: a model calls as many as it likes
            request = _asking(subject, capability)
            with pytest.raises(Unsupported):
                await subject.provider.stream_chat_completion(request)
            with pytest.raises(Unsupported):
                await subject.provider.chat_completion(request)

    @needs("grammar")
    async def test_bad_grammar_is_refused_by_the_await(self, subject: Subject) -> None:
        request = subject.chat()
        request.response_format.grammar = subject.bad_grammar
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

    @needs("embeddings")
    async def test_embeddings_are_one_a_text_in_order(self, subject: Subject) -> None:
        response = await subject.provider.embeddings(subject.texts("a cat", "the stock exchange of Tokyo", "a cat"))
        first, second, third = (list(embedding.values) for embedding in response.embeddings)
        assert len(first) == len(second) > 1
        assert first == pytest.approx(third, abs=1e-4)
        assert first != pytest.approx(second, abs=1e-4)
        assert response.usage.prompt_tokens > 0
        assert response.usage.completion_tokens == 0

    async def test_a_picture_is_not_embedded(self, subject: Subject) -> None:
        request = subject.texts()
        request.contents.add().items.add(image=content_pb2.Image(data=PNG))
        with pytest.raises(Unsupported):
            await subject.provider.embeddings(request)

    async def test_who_embeds_nothing_says_so(self, subject: Subject) -> None:
        if "embeddings" in capabilities().gaps(self.kind):
            with pytest.raises(Unsupported):
                await subject.provider.embeddings(subject.texts("a cat"))

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

    async def test_deadline_over(self, subject: Subject) -> None:
        await check_stops(subject, leave_at_the_deadline)

    async def test_consumer_cancelled(self, subject: Subject) -> None:
        await check_stops(subject, leave_consumer)

    async def test_errors_are_those_of_the_mesh(self, subject: Subject) -> None:
        with pytest.raises(MeshError):
            await subject.provider.chat_completion(schema(subject.chat(), {"type": "nonsense"}))


def _check_end(stop_reason: StopReason.ValueType, usage: pb.Usage) -> None:
    assert stop_reason in (StopReason.STOP_REASON_END_OF_TURN, StopReason.STOP_REASON_OUT_OF_TOKENS)
    assert usage.prompt_tokens > 0
    assert usage.completion_tokens > 0
