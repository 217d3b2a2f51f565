"""Chat templates: a model's own where it knows tools, else that one taught to tell of them (tools.jinja).

llama.cpp derives from a template how its model writes tool calls: it holds the model to that, and reads the calls. With
a template that knows no tools it silently ignores them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final

from services.inference.llamacpp import gguf

CALL_BEGINS: Final = "<tool_call>\n"
CALL_ENDS: Final = "</tool_call>"
"""How calls are written in the format of tools.jinja."""

_KNOWS_TOOLS: Final = re.compile(
    r"""\{[{%] (?> '(?:\\.|[^'\\])*' | "(?:\\.|[^"\\])*" | (?! [%}]\} | \btools\b ) . )*+ \btools\b""",
    re.DOTALL | re.VERBOSE,
)
"""The variable that templates get them in, in a tag, and not in a string there."""
_CHATML: Final = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' ~ message.role ~ '\\n' ~ message.content ~ '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{{- '<|im_start|>assistant\\n' if add_generation_prompt -}}"
)
"""What llama.cpp takes for models that have no template."""


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    source: str
    """Jinja. Empty: the model's own."""
    taught: bool
    """Whether it knows tools by tools.jinja only, so that calls are written as that says."""


def template_of(model: Path, override: str = "") -> ChatTemplate:
    """The template for a GGUF model; `override` is taken in place of its own."""
    if override:
        return ChatTemplate(override, taught=False) if _KNOWS_TOOLS.search(override) else _taught(override)
    texts = gguf.texts(model)
    own = texts.get("tokenizer.chat_template", "")
    if "tokenizer.chat_template.tool_use" in texts or _KNOWS_TOOLS.search(own):
        return ChatTemplate("", taught=False)
    return _taught(own or _CHATML)


def _taught(source: str) -> ChatTemplate:
    # By this text llama.cpp knows DeepSeek's templates, and would hold the model to their form of calls.
    source = source.replace("tool['type']", 'tool["type"]')
    prelude = (resources.files("services.inference.llamacpp") / "tools.jinja").read_text(encoding="utf-8")
    return ChatTemplate(prelude.rstrip("\n") + source, taught=True)
