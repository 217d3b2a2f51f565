"""What Converse makes of a request, and which it refuses."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Mapping, Sequence
from typing import Any

from tests.fakes.bedrock_models import Model
from tests.fakes.toy_model import Asked, Call, Said

Body = Mapping[str, Any]


class Refused(Exception):
    """The request is answered with this documented error."""

    def __init__(self, name: str, **values: Any) -> None:
        super().__init__(name, values)
        self.name, self.values = name, values


def invalid(problem: str) -> Refused:
    return Refused("invalid", problem=problem)


def converse(name: str, model: Model, body: Body) -> Asked:
    """What the model is asked. Raises Refused; or KeyError, TypeError or ValueError for what is malformed."""
    if model.family not in ("claude", "llama"):
        raise invalid("This action doesn't support the model that you provided. Try again with a supported model.")
    config = body.get("toolConfig") or {}
    tools = {each["toolSpec"]["name"]: each["toolSpec"]["inputSchema"]["json"] for each in config.get("tools", ())}
    _check_tools(model, config)
    inference = body.get("inferenceConfig") or {}
    _check_inference(model, inference)
    system = [Said("system", block["text"]) for block in body.get("system") or ()]
    return Asked(
        model=name,
        messages=[*system, *_conversation(body["messages"], model, bool(tools))],
        tools=tools,
        tool_choice=_choice(config.get("toolChoice") or {"auto": {}}),
        schema=_schema(body.get("outputConfig"), model),
        max_tokens=inference.get("maxTokens"),
        stop=inference.get("stopSequences") or (),
        temperature=inference.get("temperature"),
    )


def _check_inference(model: Model, inference: Body) -> None:
    if inference.get("maxTokens", 1) > model.most_tokens:
        raise invalid(
            f"The maximum tokens you requested exceeds the model limit of {model.most_tokens}. Try again with a "
            f"maximum tokens value that is lower than {model.most_tokens}."
        )
    if not 0 <= inference.get("temperature", 0) <= 1:
        raise invalid(
            "1 validation error detected: Value at 'inferenceConfig.temperature' failed to satisfy constraint"
        )


def _check_tools(model: Model, config: Body) -> None:
    if not config:
        return
    if not model.tools:
        raise invalid("This model doesn't support tool use.")
    for kind in config.get("toolChoice") or ():
        if kind not in model.choices:
            field = f"toolConfig.toolChoice.{kind}"
            raise invalid(f"This model doesn't support the {field} field. Remove {field} and try again.")


def _choice(choice: Body) -> str:
    [(kind, value)] = choice.items()
    return value["name"] if kind == "tool" else {"auto": "auto", "any": "required"}[kind]


def _schema(config: Body | None, model: Model) -> Body | None:
    if config is None:
        return None
    wanted = config["textFormat"]
    if wanted["type"] != "json_schema":
        raise ValueError(wanted["type"])
    if not model.follows_schemas:
        field = "outputConfig.textFormat"
        raise invalid(f"This model doesn't support the {field} field. Remove {field} and try again.")
    return json.loads(wanted["structure"]["jsonSchema"]["schema"])


def _conversation(messages: Sequence[Body], model: Model, tools: bool) -> Sequence[Said]:
    said: list[Said] = []
    open_calls: list[str] = []
    for index, message in enumerate(messages):
        role, blocks = message["role"], message["content"]
        _check_role(index, role)
        if not blocks:
            raise invalid(f"The content field in the Message object at messages.{index} is empty.")
        results = [block["toolResult"]["toolUseId"] for block in blocks if "toolResult" in block]
        if results != open_calls:
            raise invalid(
                f"Expected toolResult blocks at messages.{index}.content for the following Ids: {', '.join(open_calls)}"
            )
        open_calls = [block["toolUse"]["toolUseId"] for block in blocks if "toolUse" in block]
        if (results or open_calls) and not tools:
            raise invalid("The toolConfig field must be defined when using toolUse and toolResult content blocks.")
        said += _said(index, role, blocks, model)
    if messages[-1]["role"] != "user":
        raise invalid(
            "This model doesn't support assistant message prefill. The conversation must end with a user message."
        )
    return said


def _check_role(index: int, role: str) -> None:
    if index == 0 and role != "user":
        raise invalid("A conversation must start with a user message. Try again with one that starts so.")
    if role != ("assistant" if index % 2 else "user"):
        raise invalid("A conversation must alternate between user and assistant roles.")


def _said(index: int, role: str, blocks: Sequence[Body], model: Model) -> Sequence[Said]:
    """A message, of which each result of a tool is one of its own."""
    text, images, calls, results = "", list[bytes](), list[Call](), list[Said]()
    for at, block in enumerate(blocks):
        [(kind, value)] = block.items()
        match kind:
            case "text":
                if not value.strip():
                    raise invalid(
                        f"The text field in the ContentBlock object at messages.{index}.content.{at} is blank."
                    )
                text += value
            case "image":
                if not model.sees:
                    raise invalid("This model doesn't support the image content block that you provided.")
                images.append(b64decode(value["source"]["bytes"], validate=True))
            case "toolUse":
                calls.append(Call(value["name"], value["input"], value["toolUseId"]))
            case "toolResult":
                told = "".join(part["text"] for part in value["content"])
                results.append(Said("tool", told, answers=value["toolUseId"]))
            case _:
                raise ValueError(kind)
    spoken = [Said(role, text, images, calls)] if text or images or calls else []
    return [*results, *spoken]
