"""stackmesh chat: one answer, or a conversation."""

from __future__ import annotations

import asyncio
import importlib
import sys
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import Final

from google.protobuf.json_format import MessageToJson

from stackmesh.cli.failures import tell, told
from stackmesh.cli.show import inert
from stackmesh.client import Client, assistant, system, user
from stackmesh.common.v1.content_pb2 import Message
from stackmesh.errors import FailedPrecondition, MeshError
from stackmesh.inference.v1 import inference_service_pb2 as pb

_LIST_TIMEOUT: Final = 10.0


@dataclass(frozen=True, slots=True)
class Manner:
    """How to talk. What is None is left to the model's provider."""

    model: str | None
    system: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    as_json: bool = False

    def sampling(self) -> pb.SamplingParams:
        return pb.SamplingParams(temperature=self.temperature, max_tokens=self.max_tokens, seed=self.seed)


@dataclass(slots=True)
class Conversation:
    """What was said, and by whom. A turn that fails leaves no trace."""

    client: Client
    model: str
    manner: Manner
    messages: list[Message] = field(default_factory=list[Message])

    def __post_init__(self) -> None:
        if self.manner.system is not None:
            self.messages.append(system(self.manner.system))

    async def say(self, prompt: str) -> None:
        """Show the answer as it comes, and remember it."""
        asked = [*self.messages, user(prompt)]
        answer: list[str] = []
        stream = await self.client.inference.stream_chat_completion(
            model_id=self.model, messages=asked, sampling_params=self.manner.sampling()
        )
        async with stream:
            async for chunk in stream:
                answer.append(chunk.event.text)
                self._show(chunk.event)
        self.messages = [*asked, assistant("".join(answer))]

    def _show(self, event: pb.ChatCompletionEvent) -> None:
        if self.manner.as_json:
            print(MessageToJson(event, preserving_proto_field_name=True, indent=None), flush=True)
        elif event.event_type == pb.ChatCompletionEventType.CHAT_COMPLETION_EVENT_TYPE_COMPLETE:
            print(flush=True)
        else:
            print(inert(event.text) if sys.stdout.isatty() else event.text, end="", flush=True)


def run(address: str, manner: Manner, prompt: str | None) -> None:
    """Without a prompt, a turn for each line of standard input."""
    with told(address), asyncio.Runner() as runner:
        stack = AsyncExitStack()
        try:
            client = runner.run(stack.enter_async_context(Client(address)))
            model = manner.model if manner.model is not None else runner.run(_only_model(client))
            conversation = Conversation(client, model, manner)
            if prompt is not None:
                runner.run(conversation.say(prompt))
            else:
                _converse(runner, conversation, address)
        finally:
            runner.run(stack.aclose())


def _converse(runner: asyncio.Runner, conversation: Conversation, address: str) -> None:
    """Ctrl-C cancels the answer, or the line being typed; end of input ends."""
    person = sys.stdin.isatty()
    if person:
        with suppress(ImportError):
            importlib.import_module("readline")  # gives input() a history and editing
        print(f"talking to {conversation.model} at {address}; Ctrl-C cancels an answer, Ctrl-D ends")
    while True:
        try:
            prompt = input("> " if person else "")
            if prompt.strip():
                runner.run(conversation.say(prompt))
        except EOFError:
            return
        except KeyboardInterrupt:
            print()
        except MeshError as error:
            if not person:
                raise
            tell(error, address)


async def _only_model(client: Client) -> str:
    """The model there is. Raises FailedPrecondition naming them when there are several, or none."""
    listing = client.with_options(timeout=_LIST_TIMEOUT).models.list()
    names = [model.identifier async for model in listing]
    if len(names) == 1:
        return names[0]
    if not names:
        raise FailedPrecondition("no model is registered yet")
    shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    raise FailedPrecondition(f"there are {len(names)} models, choose one with --model: {shown}")
