"""Tools on a real model. It is far too small to call them well; but what has to be a call is one."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from services.inference import texts
from services.inference.llamacpp.templates import ChatTemplate
from services.inference.providers.llamacpp import LlamaCpp, LlamaCppConfig
from stackmesh.common.v1 import content_pb2
from stackmesh.common.v1.content_pb2 import StopReason
from stackmesh.config import ConfigError
from stackmesh.errors import BackendRejected, ContextExceeded, Unsupported
from stackmesh.inference.v1 import inference_service_pb2 as pb
from tests.contracts.inference_provider import examples
from tests.contracts.inference_provider.subject import tool, user
from tests.contracts.inference_provider.taught import called, names, spoken
from tests.waiting import until

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("llama.cpp")]

MODEL = "smollm2-135m-instruct"
Choice = content_pb2.ToolChoice
Parse = pb.ToolCallParseStatus
KNOWING = """
{%- if tools %}
{{- '<|im_start|>system\\n' }}{% for tool in tools %}{{ tool | tojson }}{% endfor %}{{ '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + (message.content or '') }}
{%- for call in message.tool_calls or [] %}
{{- '[CALL]{"name": "' + call.function.name + '", "arguments": ' + (call.function.arguments | tojson) + '}[/CALL]' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
"""A template that knows tools, and writes calls in a way of its own."""
DEEPSEEK = """
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- for tool in message.tool_calls or [] %}
{{'<｜Assistant｜><｜tool▁calls▁begin｜><｜tool▁call▁begin｜>' + tool['type'] + '<｜tool▁sep｜>' + tool.function.name }}
{%- endfor %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n' }}{% endif %}"""  # noqa: RUF001 -- its tokens are written so
"""Writes calls, but is not told of tools; llama.cpp knows what it writes by its text."""
PRETENDING = "{% if tools %}{% endif %}{% for message in messages %}{{ message.content }}{% endfor %}"


@asynccontextmanager
async def opened(**config) -> AsyncGenerator[LlamaCpp]:
    async with LlamaCpp(LlamaCppConfig(context_tokens=1024, n_batch=16, embeddings=False, **config)) as provider:
        yield provider


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def provider() -> AsyncGenerator[LlamaCpp]:
    async with opened() as provider:
        yield provider


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def knowing(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[LlamaCpp]:
    path = tmp_path_factory.mktemp("templates") / "knowing.jinja"
    path.write_text(KNOWING)
    async with opened(chat_template=path) as provider:
        yield provider


def asked(*messages: content_pb2.Message, max_tokens: int = 100, **fields) -> pb.ChatCompletionRequest:
    params = pb.SamplingParams(strategy=pb.SamplingStrategy.SAMPLING_STRATEGY_GREEDY, max_tokens=max_tokens)
    tools = [tool("weather", city="string"), tool("clock", zone="string", hour="integer")]
    messages = messages or (user("What is the weather in Oslo?"),)
    return pb.ChatCompletionRequest(model_id=MODEL, messages=messages, sampling_params=params, tools=tools, **fields)


async def streamed(provider: LlamaCpp, request: pb.ChatCompletionRequest) -> list[pb.ChatCompletionEvent]:
    return [chunk.event async for chunk in await provider.stream_chat_completion(request)]


# The model has to call


async def test_a_tool_has_to_be_called(provider: LlamaCpp) -> None:
    request = asked(tool_choice=Choice.TOOL_CHOICE_REQUIRED)
    request.sampling_params.seed = 7  # both are computed alike then
    events = await streamed(provider, request)
    [made] = called(events)
    assert made.tool_name.custom in ("weather", "clock")
    assert made.call_id
    assert spoken(events) == ""
    assert events[-1].stop_reason == StopReason.STOP_REASON_END_OF_MESSAGE
    pieces = [
        e.tool_call.content for e in events if e.tool_call.parse_status == Parse.TOOL_CALL_PARSE_STATUS_IN_PROGRESS
    ]
    assert len(pieces) > 1, "a call is told as it is written"
    answer = await provider.chat_completion(request)
    assert [dict(each.arguments) for each in answer.completion_message.tool_calls] == [dict(made.arguments)]
    assert (answer.completion_message.stop_reason, answer.usage) == (events[-1].stop_reason, events[-1].usage)
    assert not answer.completion_message.HasField("content")


async def test_left_to_the_grammar_it_talks_first(provider: LlamaCpp) -> None:
    template = provider._template
    provider._template = ChatTemplate(template.source, taught=False)  # the planted bug: the call is not begun
    try:
        events = await streamed(provider, asked(max_tokens=24, tool_choice=Choice.TOOL_CHOICE_REQUIRED))
    finally:
        provider._template = template
    assert (called(events), events[-1].stop_reason) == ([], StopReason.STOP_REASON_OUT_OF_TOKENS)
    assert spoken(events)


@pytest.mark.parametrize("name", ["weather", "clock"])
async def test_one_tool_has_to_be_called(provider: LlamaCpp, name: str) -> None:
    events = await streamed(provider, asked(required_tool=content_pb2.ToolName(custom=name)))
    [made] = called(events)
    assert names([made]) == [name]
    kinds = {key: type(value) for key, value in dict(made.arguments).items()}
    assert kinds == ({"city": str} if name == "weather" else {"zone": str, "hour": float})


async def test_arguments_are_of_their_types(provider: LlamaCpp) -> None:
    request = asked(max_tokens=200, tool_choice=Choice.TOOL_CHOICE_REQUIRED)
    del request.tools[:]
    request.tools.append(tool("set", on="boolean", level="number", names="array", more="object"))
    request.tools[0].parameters["names"].required = request.tools[0].parameters["more"].required = False
    [made] = called(await streamed(provider, request))
    found = dict(made.arguments)
    assert isinstance(found["on"], bool)
    assert isinstance(found["level"], float)


async def test_a_tool_without_parameters_and_a_builtin_one(provider: LlamaCpp) -> None:
    request = asked(tool_choice=Choice.TOOL_CHOICE_REQUIRED)
    del request.tools[:]
    request.tools.add().tool_name.builtin = content_pb2.BuiltinTool.BUILTIN_TOOL_BRAVE_SEARCH
    [made] = called(await streamed(provider, request))
    assert made.tool_name.builtin == content_pb2.BuiltinTool.BUILTIN_TOOL_BRAVE_SEARCH
    assert dict(made.arguments) == {}


async def test_a_call_that_runs_out_of_tokens_is_told_as_text(provider: LlamaCpp) -> None:
    whole = called(await streamed(provider, asked(tool_choice=Choice.TOOL_CHOICE_REQUIRED)))
    statuses = set()
    for max_tokens in (1, 5, 8, 11, 14, 17):
        request = asked(max_tokens=max_tokens, tool_choice=Choice.TOOL_CHOICE_REQUIRED)
        events = await streamed(provider, request)
        assert events[-1].stop_reason == StopReason.STOP_REASON_OUT_OF_TOKENS
        deltas = [event.tool_call for event in events if event.HasField("tool_call")]
        statuses.add(deltas[-1].parse_status if deltas else None)
        assert all(dict(delta.call.arguments) == dict(whole[0].arguments) for delta in deltas if delta.HasField("call"))
        answer = (await provider.chat_completion(request)).completion_message
        if deltas and deltas[-1].parse_status == Parse.TOOL_CALL_PARSE_STATUS_FAILURE:
            assert texts.plain(answer.content) == deltas[-1].content
            assert not answer.tool_calls
    assert {None, Parse.TOOL_CALL_PARSE_STATUS_FAILURE} <= statuses


async def test_a_stop_sequence_in_a_call_cuts_it(provider: LlamaCpp) -> None:
    request = asked(required_tool=content_pb2.ToolName(custom="weather"))
    request.sampling_params.stop.append('city"')
    events = await streamed(provider, request)
    assert 'city"' not in "".join(event.tool_call.content for event in events)
    assert not any(event.tool_call.HasField("call") for event in events)
    assert events[-1].stop_reason == StopReason.STOP_REASON_END_OF_TURN


# The model may call


async def test_by_itself_it_answers_in_words(provider: LlamaCpp) -> None:
    request = asked(max_tokens=12)
    request.sampling_params.seed = 7
    events = await streamed(provider, request)
    assert called(events) == []
    answer = await provider.chat_completion(request)
    assert spoken(events) == texts.plain(answer.completion_message.content) != ""
    assert not spoken(events).startswith("{"), "words, not JSON around them"


async def test_it_calls_a_tool_by_itself(provider: LlamaCpp) -> None:
    events = await streamed(provider, asked(*examples.ONE))
    assert examples.cities(called(events)) == ["Paris"]
    assert events[-1].stop_reason == StopReason.STOP_REASON_END_OF_MESSAGE
    assert "tool_call" not in spoken(events)


async def test_it_calls_two_at_once(provider: LlamaCpp) -> None:
    request = asked(*examples.TWO)
    for calls in (
        called(await streamed(provider, request)),
        (await provider.chat_completion(request)).completion_message.tool_calls,
    ):
        assert examples.cities(calls) == ["Paris", "London"]
        assert len({made.call_id for made in calls}) == 2


async def test_results_are_read(provider: LlamaCpp) -> None:
    events = await streamed(provider, asked(*examples.RESULT, max_tokens=24))
    assert "17 degrees in Paris" in spoken(events)


async def test_tools_may_be_ruled_out(provider: LlamaCpp) -> None:
    request = asked(*examples.ONE, max_tokens=40, tool_choice=Choice.TOOL_CHOICE_NONE)
    events = await streamed(provider, request)
    assert called(events) == []
    assert spoken(events)
    assert called(await streamed(provider, asked(*examples.ONE))), "it would have called"
    request.response_format.grammar = 'root ::= "yes"'
    assert spoken(await streamed(provider, request)) == "yes"


# What is wrong


async def test_a_parameter_of_no_type_is_refused(provider: LlamaCpp) -> None:
    request = asked()
    request.tools[0].parameters["city"].param_type = "nonsense"
    with pytest.raises(BackendRejected, match="nonsense"):
        await provider.stream_chat_completion(request)


async def test_tools_over_the_context_are_refused_with_both_numbers(provider: LlamaCpp) -> None:
    request = asked()
    request.tools[0].description = "word " * 2000
    with pytest.raises(ContextExceeded) as caught:
        await provider.stream_chat_completion(request)
    assert int(caught.value.metadata["prompt_tokens"]) > 2000


async def test_closed_in_the_middle_of_a_call(provider: LlamaCpp) -> None:
    request = asked(max_tokens=0, required_tool=content_pb2.ToolName(custom="clock"))
    async with aclosing(await provider.stream_chat_completion(request)) as stream:
        async for chunk in stream:
            if chunk.event.HasField("tool_call"):
                break
        assert provider._engine.running == 1
    await until(lambda: provider._engine.running == 0)


async def test_a_template_that_llamacpp_knows_by_its_text(tmp_path: Path) -> None:
    (tmp_path / "deepseek.jinja").write_text(DEEPSEEK)
    async with opened(chat_template=tmp_path / "deepseek.jinja") as provider:
        request = asked(required_tool=content_pb2.ToolName(custom="weather"))
        assert names(called(await streamed(provider, request))) == ["weather"]


async def test_a_template_that_only_pretends_is_found_out(tmp_path: Path) -> None:
    (tmp_path / "pretending.jinja").write_text(PRETENDING)
    async with opened(chat_template=tmp_path / "pretending.jinja") as provider:
        request = asked(user("Say yes."), tool_choice=Choice.TOOL_CHOICE_REQUIRED)
        request.sampling_params.max_tokens = 400
        with pytest.raises(Unsupported, match="tool_choice"):
            await provider.chat_completion(request)


async def test_a_template_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.jinja: cannot be read"):
        await LlamaCpp(LlamaCppConfig(chat_template=tmp_path / "gone.jinja")).__aenter__()


# A model whose template knows tools


async def test_a_template_s_own_way_of_calling_is_understood(knowing: LlamaCpp) -> None:
    assert not knowing._template.taught
    events = await streamed(knowing, asked(*examples.ONE))
    assert examples.cities(called(events)) == ["Paris"]
    assert "CALL" not in spoken(events)
    required = asked(*examples.ONE, tool_choice=Choice.TOOL_CHOICE_REQUIRED)
    assert examples.cities((await knowing.chat_completion(required)).completion_message.tool_calls)[:1] == ["Paris"]
