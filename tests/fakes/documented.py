"""What vendors' documents say that their servers answer: the data files in tests/fakes/bodies.

    tests/fakes/bodies/<vendor>/errors.yaml

is a mapping of names to answers, each with its status, its body and, where they matter, its headers; comments cite the
pages. A status as a name ("429") is the answer that a fake gives when it is told to refuse; "404" is about the model.
`{name}` in a text of a body stands for a value that is filled in; a text that is nothing else becomes that value as it
is.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import yaml

from tests.fakes.http_server import Reply, failing

_BODIES = Path(__file__).parent / "bodies"


class Documented:
    """A vendor's documented errors."""

    def __init__(self, answers: Mapping[str, Mapping[str, Any]]) -> None:
        self._answers = answers

    @classmethod
    def of(cls, vendor: str) -> Self:
        return cls(yaml.safe_load((_BODIES / vendor / "errors.yaml").read_text()))

    def refusal(self, name: str | int, headers: Mapping[str, str] | None = None, **values: Any) -> Reply:
        """The answer of this name, with `values` filled in."""
        answer = self._answers[str(name)]
        return failing(
            answer["status"], _filled(answer["body"], values), {**answer.get("headers", {}), **(headers or {})}
        )


def _filled(body: Any, values: Mapping[str, Any]) -> Any:
    match body:
        case str():
            for name, value in values.items():
                if body == f"{{{name}}}":
                    return value
                body = body.replace(f"{{{name}}}", str(value))
            return body
        case dict():
            return {name: _filled(value, values) for name, value in body.items()}
        case list():
            return [_filled(item, values) for item in body]
        case _:
            return body
