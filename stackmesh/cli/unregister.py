"""stackmesh unregister: a name is taken away, and what follows from that is said."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import typer

from stackmesh.cli.failures import say_note
from stackmesh.cli.register import done, names_of
from stackmesh.client import Client
from stackmesh.registry.v1.resources_pb2 import SOURCE_DISCOVERED, Model
from stackmesh.resources import Resource

_SHOWN: Final = 10


def unregister(address: str, kind: str, name: str, expected_revision: int | None) -> None:
    async def call(client: Client) -> Sequence[str]:
        names = names_of(client, kind)
        row = await names.get(name)
        follows = [*_comes_back(row), *await _relying(client, row)]
        await names.unregister(name, expected_revision=expected_revision)
        return follows

    follows = done(address, kind, name, call)
    typer.echo(f"unregistered {name}")
    for each in follows:
        say_note(each)


def _comes_back(row: Resource) -> Iterator[str]:
    if row.source == SOURCE_DISCOVERED:
        yield (
            f"{row.identifier} was discovered: within half a minute it is there again, as long as the provider "
            f"{row.provider_id} serves it and has auto_register"
        )


async def _relying(client: Client, row: Resource) -> Sequence[str]:
    if not isinstance(row, Model):
        return ()
    banks = [
        bank.identifier
        async for bank in client.memory_banks.list()
        if bank.params.vector.embedding_model == row.identifier
    ]
    shown = ", ".join(banks[:_SHOWN]) + (f" and {len(banks) - _SHOWN} more" if len(banks) > _SHOWN else "")
    return [f"memory banks embed with {row.identifier} and cannot do so without it: {shown}"] if banks else ()
