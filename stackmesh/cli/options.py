"""The arguments and options that several commands share."""

from enum import StrEnum
from typing import Annotated, Final

import typer

GATEWAY: Final = "127.0.0.1:8321"

INT32: Final = 2**31 - 1
INT64: Final = 2**63 - 1
"""The largest numbers that fit into a request."""

TYPES: Final = {"model": "metadata", "shield": "params", "memory-bank": "params", "agent": "metadata"}
"""What can be registered, and the option with what is its own. As in stackmesh.resources, which takes gRPC to import;
`--help` does not wait for that.
"""


class Output(StrEnum):
    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


class Lines(StrEnum):
    """For what comes line by line."""

    TABLE = "table"
    JSON = "json"


class Watched(StrEnum):
    MODELS = "models"
    SHIELDS = "shields"
    MEMORY_BANKS = "memory-banks"
    AGENTS = "agents"
    PROVIDERS = "providers"
    INSTANCES = "instances"


class Listed(StrEnum):
    MODELS = "models"
    SHIELDS = "shields"
    MEMORY_BANKS = "memory-banks"
    AGENTS = "agents"
    PROVIDERS = "providers"
    INSTANCES = "instances"
    ROUTES = "routes"
    HEALTH = "health"


class BankKind(StrEnum):
    VECTOR = "vector"
    KEY_VALUE = "key-value"
    KEYWORD = "keyword"
    GRAPH = "graph"


def _host_port(value: str) -> str:
    host, _, port = value.rpartition(":")
    if not host or "/" in host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise typer.BadParameter(f"{value!r} is not HOST:PORT, for example {GATEWAY}")
    return value


Address = Annotated[
    str,
    typer.Option(
        "--address",
        "-a",
        envvar="STACKMESH_ADDRESS",
        metavar="HOST:PORT",
        help="Where the gateway is.",
        callback=_host_port,
    ),
]
NewName = Annotated[str, typer.Argument(metavar="NAME", help="The name it will be called by.", show_default=False)]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The name it is called by.", show_default=False)]
ProviderId = Annotated[str | None, typer.Option(help="The provider. Default: found out.")]
NewProviderId = Annotated[str | None, typer.Option("--provider-id", help="The provider. Default: as it is.")]
ExpectedRevision = Annotated[
    int | None,
    typer.Option(
        min=1, max=INT64, metavar="N", help="Only if it is at this revision: `get` shows it. Default: as it is now."
    ),
]
