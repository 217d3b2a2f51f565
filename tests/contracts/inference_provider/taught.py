"""What every inference provider makes of a backend that does as it is told: a toy model, in the vendor's words."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from services.inference import texts
from stackmesh.common.v1 import content_pb2
from stackmesh.common.v1.content_pb2 import StopReason
from stackmesh.errors import MeshError, NotHosted, NotServing
from stackmesh.inference.v1 import inference_service_pb2 as pb
from tests.contracts.inference_provider.contract import PNG, InferenceProviderContract, needs
from tests.contracts.inference_provider.subject import Subject, schema, tool, user
from tests.fakes.toy_model import Said

Choice = content_pb2.ToolChoice
Parse = pb.ToolCallParseStatus


async def streamed(subject: Subject, request: pb.ChatCompletionRequest) -> list[pb.ChatCompletionEvent]:
    return [chunk.event async for chunk in await subject.provider.stream_chat_completion(request)]


def spoken(events: Sequence[pb.ChatCompletionEvent]) -> str:
    return "".join(event.text for event in events)


def called(events: Sequence[pb.ChatCompletionEvent]) -> list[content_pb2.ToolCall]:
    """The calls of a stream, each of which has to have been told in order: begun, its arguments, whole."""
    calls: list[content_pb2.ToolCall] = []
    arguments, begun = "", False
    for delta in (event.tool_call for event in events if event.HasField("tool_call")):
        match delta.parse_status:
            case Parse.TOOL_CALL_PARSE_STATUS_STARTED:
                assert not begun
                begun, arguments = True, ""
            case Parse.TOOL_CALL_PARSE_STATUS_IN_PROGRESS:
                assert begun
                arguments += delta.content
            case Parse.TOOL_CALL_PARSE_STATUS_SUCCESS:
                assert begun
                begun = False
                assert json.loads(arguments or "{}") == dict(delta.call.arguments)
                calls.append(delta.call)
            case other:
                raise AssertionError(f"{Parse.Name(other)} of a call that is right")
    assert not begun
    return calls


def names(calls: Sequence[content_pb2.ToolCall]) -> list[str]:
    return [call.tool_name.custom for call in calls]


class TaughtContract(InferenceProviderContract):
    """For a provider over a fake: `subject.backend` is a Backend."""

    def tools(self, subject: Subject, text: str) -> pb.ChatCompletionRequest:
        request = subject.chat(text, max_tokens=64)
        request.tools.extend([tool("weather", city="string"), tool("clock", zone="string", hour="integer")])
        return request

    # Who says what

    async def test_all_roles_arrive(self, subject: Subject) -> None:
        request = subject.chat()
        del request.messages[:]
        request.messages.add().system.content.CopyFrom(texts.content("Be brief."))
        request.messages.append(user("Hello"))
        request.messages.add().completion.content.CopyFrom(texts.content("Hi"))
        request.messages.append(user("What", " now?"))
        request.messages[-1].user.context.CopyFrom(texts.content("It is noon."))
        await subject.provider.chat_completion(request)
        said = [(message.role, message.text) for message in subject.fake.asked[-1].messages]
        assert said[:3] == [("system", "Be brief."), ("user", "Hello"), ("assistant", "Hi")]
        role, text = said[3]
        assert role == "user"
        assert text.startswith("It is noon.")
        assert text.endswith("What now?")

    async def test_what_was_asked_arrives(self, subject: Subject) -> None:
        request = subject.chat("say a", max_tokens=9)
        request.sampling_params.stop.append("xyz")
        await subject.provider.chat_completion(request)
        asked = subject.fake.asked[-1]
        assert asked.model == subject.model
        assert (asked.max_tokens, list(asked.stop), asked.temperature) == (9, ["xyz"], 0)

    @pytest.mark.parametrize("text", ["say hello there", "say 😀🎉 é日本 zażółć", 'say "quoted" \\ and {"json": 1}'])
    async def test_text_comes_as_it_was_said(self, subject: Subject, text: str) -> None:
        request = subject.chat(text, max_tokens=64)
        answer = await subject.provider.chat_completion(request)
        assert texts.plain(answer.completion_message.content) == text[4:]
        assert answer.completion_message.stop_reason == StopReason.STOP_REASON_END_OF_TURN
        events = await streamed(subject, request)
        assert spoken(events) == text[4:]
        assert (events[-1].stop_reason, events[-1].usage) == (StopReason.STOP_REASON_END_OF_TURN, answer.usage)

    async def test_chat_stops_before_a_stop_sequence(self, subject: Subject) -> None:
        request = subject.chat("say once upon a time", max_tokens=64)
        request.sampling_params.stop.append("on a t")
        events = await streamed(subject, request)
        assert spoken(events) == "once up"
        assert events[-1].stop_reason == StopReason.STOP_REASON_END_OF_TURN
        answer = await subject.provider.chat_completion(request)
        assert texts.plain(answer.completion_message.content) == "once up"

    async def test_a_model_that_is_not_there_is_not_serving(self, subject: Subject) -> None:
        request = subject.chat()
        request.model_id = "gone-model"
        for call in (subject.provider.chat_completion(request), subject.provider.stream_chat_completion(request)):
            with pytest.raises((NotServing, NotHosted), match=r"(?i)model"):
                await call

    # Tools

    async def test_a_tool_is_called(self, subject: Subject) -> None:
        request = self.tools(subject, "call weather")
        answer = await subject.provider.chat_completion(request)
        [call] = answer.completion_message.tool_calls
        assert (names([call]), dict(call.arguments)) == (["weather"], {"city": "Oslo"})
        assert call.call_id
        assert answer.completion_message.stop_reason == StopReason.STOP_REASON_END_OF_MESSAGE
        assert subject.fake.asked[-1].tools["weather"] == {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        }

    async def test_a_tool_is_called_in_a_stream(self, subject: Subject) -> None:
        events = await streamed(subject, self.tools(subject, "call weather"))
        [call] = called(events)
        assert (names([call]), dict(call.arguments)) == (["weather"], {"city": "Oslo"})
        assert call.call_id
        assert events[-1].stop_reason == StopReason.STOP_REASON_END_OF_MESSAGE
        assert events[-1].usage.completion_tokens > 0

    async def test_tools_may_be_left_alone(self, subject: Subject) -> None:
        events = await streamed(subject, self.tools(subject, "say no tool"))
        assert (spoken(events), called(events)) == ("no tool", [])
        assert events[-1].stop_reason == StopReason.STOP_REASON_END_OF_TURN

    @needs("parallel_tools")
    async def test_several_tools_are_called(self, subject: Subject) -> None:
        request = self.tools(subject, "call weather and clock")
        for calls in (
            called(await streamed(subject, request)),
            (await subject.provider.chat_completion(request)).completion_message.tool_calls,
        ):
            assert names(calls) == ["weather", "clock"]
            assert dict(calls[1].arguments) == {"zone": "Oslo", "hour": 42}
            assert len({call.call_id for call in calls}) == 2

    @needs("tool_choice_required")
    async def test_a_tool_has_to_be_called(self, subject: Subject) -> None:
        request = self.tools(subject, "say nothing of the kind")
        request.tool_choice = Choice.TOOL_CHOICE_REQUIRED
        assert called(await streamed(subject, request))
        assert (await subject.provider.chat_completion(request)).completion_message.tool_calls

    @needs("tool_choice_none")
    async def test_no_tool_may_be_called(self, subject: Subject) -> None:
        request = self.tools(subject, "call weather")
        request.tool_choice = Choice.TOOL_CHOICE_NONE
        events = await streamed(subject, request)
        assert called(events) == []
        assert spoken(events)
        assert not (await subject.provider.chat_completion(request)).completion_message.tool_calls

    @needs("required_tool")
    async def test_one_tool_has_to_be_called(self, subject: Subject) -> None:
        request = self.tools(subject, "call weather")
        request.required_tool.custom = "clock"
        assert names(called(await streamed(subject, request))) == ["clock"]
        answer = await subject.provider.chat_completion(request)
        assert names(answer.completion_message.tool_calls) == ["clock"]

    async def test_results_of_tools_are_read(self, subject: Subject) -> None:
        request = self.tools(subject, "What is the weather?")
        made = request.messages.add().completion
        for call_id, name, city in (("id-1", "weather", "Oslo"), ("id-2", "clock", "Rome")):
            call = made.tool_calls.add(call_id=call_id, tool_name=content_pb2.ToolName(custom=name))
            call.arguments.update({"city": city, "days": 3})
        for call_id, name, text in (("id-1", "weather", "4 degrees"), ("id-2", "clock", "noon")):
            result = request.messages.add().tool_response
            result.call_id, result.tool_name.custom = call_id, name
            result.content.CopyFrom(texts.content(text))
        events = await streamed(subject, request)
        assert spoken(events) == "the tool says noon"
        _, called_, first, second = subject.fake.asked[-1].messages
        assert [(call.name, dict(call.arguments)) for call in called_.calls] == [
            ("weather", {"city": "Oslo", "days": 3}),
            ("clock", {"city": "Rome", "days": 3}),
        ]
        assert [_told(first), _told(second)] == [("tool", "4 degrees"), ("tool", "noon")]
        ids = [call.call_id for call in called_.calls]
        assert [first.answers, second.answers] == (ids if all(ids) else ["weather", "clock"])

    # Formats

    @needs("json_schema")
    async def test_the_answer_is_json_of_the_schema(self, subject: Subject) -> None:
        wanted = {
            "type": "object",
            "properties": {"city": {"type": "string", "minLength": 1}, "n": {"type": "integer"}},
            "required": ["city", "n"],
        }
        request = schema(subject.chat("Where?", max_tokens=64), wanted)
        assert json.loads(spoken(await streamed(subject, request))) == {"city": "Oslo", "n": 42}
        answer = await subject.provider.chat_completion(request)
        assert json.loads(texts.plain(answer.completion_message.content)) == {"city": "Oslo", "n": 42}
        assert subject.fake.asked[-1].schema == wanted

    @needs("json_schema")
    async def test_a_schema_that_is_none_is_refused(self, subject: Subject) -> None:
        with pytest.raises(MeshError):
            await subject.provider.stream_chat_completion(schema(subject.chat(), {"type": "nonsense"}))

    @needs("grammar")
    async def test_the_answer_follows_the_grammar(self, subject: Subject) -> None:
        request = subject.chat("Well?", max_tokens=64)
        request.response_format.grammar = subject.grammar
        assert spoken(await streamed(subject, request)) == "yes"
        answer = await subject.provider.chat_completion(request)
        assert texts.plain(answer.completion_message.content) == "yes"

    @needs("logprobs")
    async def test_probabilities_come_one_a_token(self, subject: Subject) -> None:
        request = subject.chat(max_tokens=6)
        request.logprobs.top_k = 3
        answer = await subject.provider.chat_completion(request)
        entries = [dict(entry.logprobs_by_token) for entry in answer.logprobs]
        assert len(entries) == answer.usage.completion_tokens == 6
        assert all(len(entry) == 3 and max(entry.values()) == pytest.approx(-0.1) for entry in entries)
        events = await streamed(subject, request)
        assert [dict(entry.logprobs_by_token) for event in events for entry in event.logprobs] == entries
        likeliest = [max(entry, key=lambda token: entry[token]) for entry in entries]
        assert "".join(likeliest) == spoken(events)

    @needs("logprobs")
    async def test_probabilities_of_completions(self, subject: Subject) -> None:
        request = subject.completion(max_tokens=6)
        request.logprobs.top_k = 2
        answer = await subject.provider.completion(request)
        entries = [dict(entry.logprobs_by_token) for entry in answer.logprobs]
        assert len(entries) == 6
        messages = [message async for message in await subject.provider.stream_completion(request)]
        assert [dict(entry.logprobs_by_token) for message in messages for entry in message.logprobs] == entries

    # Pictures

    @needs("image_bytes")
    async def test_a_picture_is_seen(self, subject: Subject) -> None:
        request = subject.chat(max_tokens=64)
        request.messages[0].CopyFrom(user("what is this?", PNG))
        assert spoken(await streamed(subject, request)) == f"a picture of {len(PNG)} bytes"
        [asked] = subject.fake.asked[-1].messages
        assert (asked.text, list(asked.images)) == ("what is this?", [PNG])

    @needs("image_url")
    async def test_a_picture_is_seen_at_its_url(self, subject: Subject) -> None:
        request = subject.chat(max_tokens=64)
        request.messages[0].CopyFrom(user("what is this?", url="https://example.com/cat.png"))
        assert spoken(await streamed(subject, request)) == "a picture at https://example.com/cat.png"


def _told(message: Said) -> tuple[str, str]:
    return message.role, message.text
