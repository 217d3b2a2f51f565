"""The tool call of an answer, from the pieces in which TGI tells it. An answer has one at most.

The model writes {"function": {"_name": NAME, ARGUMENTS}}, and TGI makes pieces of it:

- From 3.2 on, NAME and "{", then the arguments token by token. If one token ends the name and the call, the brace that
  ends the arguments is lost; if one ends the name without its comma, the comma comes with the arguments.
- Before, the whole text as it is, and after it the special token that ends the answer.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

_HEAD: Final = re.compile(r'\s*\{\s*"function"\s*:\s*\{\s*"_name"\s*:\s*"((?:[^"\\]|\\.)*)"\s*(?=[,}])')


class CallText:
    """Its name, and its arguments as the text of a JSON object."""

    def __init__(self) -> None:
        self.begun = False
        """Whether its name is known."""
        self._head = ""
        self._depth = 0
        self._over = False
        self._empty = True  # no argument yet
        self._quoted = False
        self._escaped = False

    def feed(self, name: str | None, arguments: Any) -> tuple[str, str]:
        """What a piece adds to the name and to the arguments."""
        text = arguments if isinstance(arguments, str) else json.dumps(arguments or {}, ensure_ascii=False)
        if self.begun:
            return "", self._arguments(text)
        if not name:
            self._head += text
            if (head := _HEAD.match(self._head)) is None:
                return "", ""
            name, text = json.loads(f'"{head[1]}"'), "{" + self._head[head.end() :]
            self._head = ""
        self.begun = True
        return str(name), self._arguments(text)

    def end(self) -> str:
        """The brace that was lost, if it was."""
        lost = self._depth == 1 and not self._quoted
        return self._arguments("}") if lost else ""

    def unread(self) -> str:
        """What was no beginning of a call."""
        head, self._head = self._head, ""
        return head

    def _arguments(self, text: str) -> str:
        return "".join(char for char in text if self._belongs(char))

    def _belongs(self, char: str) -> bool:
        """Whether it is part of the object."""
        if self._over:
            return False
        if self._quoted:
            self._quoted = self._escaped or char != '"'
            self._escaped = char == "\\" and not self._escaped
            return True
        if char == "," and self._empty and self._depth == 1:
            return False
        self._empty = self._empty and (self._depth == 0 or char.isspace())
        self._quoted = char == '"'
        self._depth += (char in "{[") - (char in "}]")
        self._over = self._depth == 0 and char in "}]"
        return True
