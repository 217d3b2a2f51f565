"""stackmesh get health: how the mesh looks to its gateway, and how good what the gateway knows is."""

from __future__ import annotations

import asyncio
from typing import Final

import typer

from stackmesh.cli.failures import say_note, told
from stackmesh.cli.options import Output
from stackmesh.cli.show import as_json, as_yaml, inert, plain, print_table, state, word
from stackmesh.client import Client
from stackmesh.errors import RegistryUnreachable
from stackmesh.inspect.v1.inspect_service_pb2 import HEALTH_STATUS_UNAVAILABLE, GetHealthResponse, HealthStatus

_TIMEOUT: Final = 10.0
_UNITS: Final = ((86400, "d"), (3600, "h"), (60, "min"))


def run(address: str, output: Output) -> None:
    """Ends with code 1 when no call can be routed."""

    async def fetch() -> GetHealthResponse:
        async with Client(address, timeout=_TIMEOUT) as client:
            return await client.inspect.health()

    with told(address):
        health = asyncio.run(fetch())
        if output is Output.TABLE:
            _print(health)
        else:
            shown = plain(health)
            print(as_json(shown) if output is Output.JSON else as_yaml(shown).rstrip("\n"))
        if health.status == HEALTH_STATUS_UNAVAILABLE:
            raise typer.Exit(1)


async def require_snapshot(client: Client) -> None:
    """What a gateway tells of its snapshot is worth as much as that: a note on stderr when it may be out of date.

    Raises RegistryUnreachable when there never was one: then nothing to show is not nothing there.
    """
    health = await client.inspect.health()
    if health.status == HEALTH_STATUS_UNAVAILABLE:
        raise RegistryUnreachable("the gateway has not reached the registry since it started, so it knows of nothing")
    if health.snapshot_stale:
        say_note(f"this is what the gateway knew {_age(health)} ago; it does not hear the registry")


def _print(health: GetHealthResponse) -> None:
    status = word(HealthStatus.Name(health.status), "HEALTH_STATUS_")
    age = f"{_age(health)} old" if health.HasField("snapshot_age") else "none"
    revision = str(health.snapshot_revision) if health.HasField("snapshot_age") else ""
    print_table(("HEALTH", "SNAPSHOT", "REVISION"), [(state(status), age, revision)])
    for problem in health.problems:
        print(f"- {inert(problem)}")


def _age(health: GetHealthResponse) -> str:
    """`4.2 s`, `12 min`: of the snapshot."""
    seconds = health.snapshot_age.ToTimedelta().total_seconds()
    for size, unit in _UNITS:
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
