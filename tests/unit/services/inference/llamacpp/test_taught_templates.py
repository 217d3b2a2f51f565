"""What llama.cpp makes of chat templates that were taught of tools."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from services.inference.llamacpp.templates import template_of
from services.inference.openai import request as openai
from stackmesh.common.v1 import content_pb2
from tests.contracts.inference_provider.examples import WEATHER, answered, asked, called, returned
from tests.contracts.inference_provider.subject import user
from tests.fakes.llamacpp_server import llamacpp_server

LENIENT = """

{% for message in messages %}<{{ message.role }}>{{ message.content }}
{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"""
STRICT = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system here') }}{% endif %}
{%- for message in messages %}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('take turns') }}{% endif %}
{{- '<' + ('model' if message['role'] == 'assistant' else message['role']) + '>' + message['content'] | trim + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<model>' }}{% endif %}"""

SYSTEM = content_pb2.Message()
SYSTEM.system.content.items.add(text="Be brief.")
PLAIN = [
    [user("Hi")],
    [SYSTEM, user("Hi")],
    [SYSTEM, user("Hi"), answered("Hello"), user("<tool_call> and {{ tools }}")],
]
TOOLS = """# Tools

You can call these functions:
<tools>
{"type": "function", "function": {"name": "weather", "description": "Tells the weather.", "parameters": \
{"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}
</tools>

To call one, write its name and its arguments as JSON between tags, for each call again:
<tool_call>
{"name": "the function", "arguments": {"an argument": "its value"}}
</tool_call>
What it returns comes back in <tool_response> tags. Where no function is needed, answer in words."""
CALLS = """<tool_call>
{"name": "weather", "arguments": {"city": "Oslo"}}
</tool_call>
<tool_call>
{"name": "weather", "arguments": {"city": "Rome"}}
</tool_call>"""
RESULTS = """<tool_response>
cold
</tool_response>
<tool_response>
warm
</tool_response>"""


class Server:
    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session

    async def prompt(self, messages: Sequence[content_pb2.Message], *, tools: bool = False) -> str:
        body: dict[str, Any] = {"messages": [openai.message(message) for message in messages]}
        if tools:
            body["tools"] = [openai.tool(WEATHER)]
        async with self._session.post(f"{self._url}/apply-template", json=body) as response:
            answer = await response.json()
            assert response.status == 200, answer
            return answer["prompt"]


@asynccontextmanager
async def serving(template: str) -> AsyncGenerator[Server]:
    async with llamacpp_server(template) as url, aiohttp.ClientSession() as session:
        yield Server(url, session)


def taught(template: str) -> str:
    found = template_of(Path("nowhere"), template)
    assert found.taught
    return found.source


@pytest.mark.parametrize("template", [LENIENT, STRICT])
async def test_without_tools_nothing_has_changed(template: str) -> None:
    async with serving(template) as plain, serving(taught(template)) as knowing:
        for messages in PLAIN:
            assert await knowing.prompt(messages) == await plain.prompt(messages)


async def test_tools_are_told_of_by_the_system() -> None:
    conversation = [SYSTEM, asked("Oslo", "Rome"), called("Oslo", "Rome"), returned("Oslo", "cold")]
    async with serving(taught(LENIENT)) as server:
        prompt = await server.prompt([*conversation, returned("Rome", "warm")], tools=True)
        begun = (await server.prompt([asked("Oslo")], tools=True)).strip()
        later = await server.prompt([*conversation, returned("Rome", "warm"), user("Well?")])
    said = f"<system>Be brief.\n\n{TOOLS}\n<user>Weather in Oslo and Rome?\n<assistant>{CALLS}\n<user>{RESULTS}\n"
    assert prompt.strip() == f"{said}<assistant>"
    assert begun == f"<user>{TOOLS}\n\nWeather in Oslo?\n<assistant>"
    assert later.endswith(f"<assistant>{CALLS}\n<user>{RESULTS}\nWell?\n<assistant>")
    assert "<tools>" not in later


async def test_turns_are_kept_and_a_system_is_not_needed() -> None:
    conversation = [SYSTEM, asked("Oslo"), called("Oslo"), returned("Oslo", "cold"), user("Well?")]
    conversation[2].completion.content.items.add(text="Let me see.")
    async with serving(taught(STRICT)) as server:
        prompt = await server.prompt(conversation, tools=True)
    call = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
    result = "<tool_response>\ncold\n</tool_response>"
    assert (
        f"<user>{TOOLS}\n\nBe brief.\nWeather in Oslo?\n<model>Let me see.\n{call}\n<user>{result}\nWell?\n" in prompt
    )
