"""What a name means at an Ollama server. Its own names are `model:tag`; a name without a tag has the tag `latest`."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from services.inference.lookup import ModelLookup
from stackmesh.errors import NotHosted
from stackmesh.nearest import hint

_TAGGED: Final = re.compile(r"(?:[\w.:-]+/)*[\w.-]+:[\w.-]*[A-Za-z][\w.-]*", re.ASCII)
"""What only Ollama calls a model so. The tag has a letter: Bedrock's ids end in `:0`."""


def tagged(name: str) -> str:
    """The name with its tag."""
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


@dataclass(frozen=True, slots=True)
class Names:
    """A Lookup."""

    table: ModelLookup
    """Ollama's names for Llama models."""
    others: Collection[str]
    """Names of Llama models that are never Ollama's own, tagged as they may seem."""
    loads: bool
    """Whether a model that does not run can be made to."""
    pulls: bool
    """Whether one that is not there can be had."""

    def resolve(self, name: str, served: Collection[str] | None, where: str) -> str:
        """The server's own name for `name`.

        Raises NotHosted, which says what there is and how to make the server have it, or AmbiguousName.
        """
        served = served or ()
        if (own := tagged(name)) in served:
            return own
        try:
            return self.table.resolve(name, served, where)
        except NotHosted:
            if self.pulls and (own := self._to_be_pulled(name, where)) is not None:
                return own
        remedy = self._remedy(self._listed(name, where) or name)
        raise NotHosted(f"{where} {self._lack} {name!r}; {hint(name, served)}. {remedy}")

    def _to_be_pulled(self, name: str, where: str) -> str | None:
        """The name by which it could be pulled.

        Of those that are in no table only tagged ones: else each name of another provider's would be taken for one.
        """
        if (own := self._listed(name, where)) is not None:
            return tagged(own)
        return name if _TAGGED.fullmatch(name) and name not in self.others else None

    def _listed(self, name: str, where: str) -> str | None:
        """What Ollama calls a model of the table, be it there or not."""
        try:
            return self.table.resolve(name, None, where)
        except NotHosted:
            return None

    @property
    def _lack(self) -> str:
        return "has not pulled" if self.loads else "does not run"

    def _remedy(self, name: str) -> str:
        if self.pulls:
            return f"To have it pulled say its tag, {tagged(name)}"
        if self.loads:
            return f"Pull it there (ollama pull {name}), or set pull: true"
        return f"Run it there (ollama run {name}), or set load: true, or pull: true"
