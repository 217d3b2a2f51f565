"""Which model a name means: a Llama descriptor, a Hugging Face repository and a provider's own id are one model.

    lookup = tables.llama_by_name()                     what a server of the user's own may call a Llama model
    lookup = tables.provider("ollama")                  a vendor's ids
    lookup.resolve("Llama3.1-8B-Instruct", served, "the server at localhost:8000")

An id always means itself. An alias means the ids it stands for, of those that can be had: none and several are errors,
so an answer never depends on the order of a table.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from stackmesh.errors import AmbiguousName, NotHosted
from stackmesh.nearest import SHOWN, hint


@dataclass(frozen=True, slots=True)
class Listed:
    """A model that a provider may have."""

    id: str
    """The provider's own name for it, its provider_resource_id."""
    aliases: frozenset[str] = frozenset()
    """What else it is called."""


class ModelLookup:
    """The models a provider may have, under every name."""

    def __init__(self, models: Iterable[Listed]) -> None:
        self._ids: set[str] = set()
        self._by_alias: dict[str, set[str]] = {}
        for model in models:
            self._ids.add(model.id)
            for alias in model.aliases:
                self._by_alias.setdefault(alias, set()).add(model.id)

    @property
    def ids(self) -> Collection[str]:
        """Those of all of them."""
        return self._ids

    def resolve(self, name: str, served: Collection[str] | None, where: str) -> str:
        """The id that `name` means among `served`, which may hold ids that are not listed. None: all that are listed.

        Raises NotHosted naming the nearest ids, or AmbiguousName naming the candidates; `where` says whose they are.
        """
        known = self._ids if served is None else served
        if name in known:
            return name
        found = sorted(self._by_alias.get(name, set()).intersection(known))
        if len(found) == 1:
            return found[0]
        if not found:
            raise NotHosted(f"{where} does not serve {name!r}; {hint(name, known)}")
        shown = ", ".join(found[:SHOWN])
        raise AmbiguousName(
            f"{name} stands for {len(found)} models of {where}: {shown}; use one of these names",
            metadata={"candidates": shown},
        )

    def __repr__(self) -> str:
        return f"<ModelLookup of {len(self._ids)} models>"
