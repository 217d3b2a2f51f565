"""The parameters of memory banks, as the options of `register` and `update memory-bank` say them."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import typer

from stackmesh.client.registrations import bank_params
from stackmesh.errors import InvalidField
from stackmesh.registry.v1.resources_pb2 import MemoryBankParams

_OPTIONS: Final = {
    "embedding_model": "--embedding-model",
    "chunk_size_in_tokens": "--chunk-size",
    "overlap_size_in_tokens": "--overlap",
}
"""By field of a vector bank's parameters."""


@dataclass(frozen=True, slots=True)
class BankOptions:
    """What was said. None, or not there: not said."""

    kind: str | None
    vector: Mapping[str, Any]
    """Fields of a vector bank."""

    @classmethod
    def of(
        cls, kind: str | None, embedding_model: str | None, chunk_size: int | None, overlap: int | None
    ) -> BankOptions:
        values = zip(_OPTIONS, (embedding_model, chunk_size, overlap), strict=True)
        fields = {field: value for field, value in values if value is not None}
        if fields and kind not in (None, "vector"):
            raise typer.BadParameter(f"{_listed(fields)} can only be said of --kind vector", param_hint="--kind")
        return cls(kind, fields)

    def __bool__(self) -> bool:
        return self.kind is not None or bool(self.vector)

    def params(self) -> MemoryBankParams:
        """Those of a new bank."""
        required = {"embedding_model", "chunk_size_in_tokens"}
        if self.kind == "vector" and (missing := [field for field in _OPTIONS if field in required - set(self.vector)]):
            raise typer.BadParameter(f"a vector bank needs {_listed(missing)}", param_hint="--kind")
        return bank_params({(self.kind or "").replace("-", "_"): self.vector})

    def changed(self, before: MemoryBankParams) -> MemoryBankParams:
        """Those of a bank that has been so. Raises InvalidField."""
        kind = self.kind or ("vector" if self.vector else before.WhichOneof("kind") or "").replace("_", "-")
        if kind != (before.WhichOneof("kind") or "").replace("_", "-"):
            if self.kind is None:
                raise InvalidField(_listed(self.vector), "is for vector banks; --kind vector would make it one")
            return self.params()
        changed = MemoryBankParams()
        changed.CopyFrom(before)
        for field, value in self.vector.items():
            setattr(changed.vector, field, value)
        return changed


@contextmanager
def in_options() -> Generator[None]:
    """What is wrong with a field is told of the option that said it."""
    try:
        yield
    except InvalidField as error:
        option = _OPTIONS.get(error.field.removeprefix("params.vector."))
        if option is None:
            raise
        raise InvalidField(option, error.description) from None


def _listed(fields: Iterable[str]) -> str:
    return " and ".join(_OPTIONS[field] for field in fields)
