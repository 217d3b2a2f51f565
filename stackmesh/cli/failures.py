"""What went wrong, in one line, and what to do next. Never a traceback."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Final

import typer
from rich.console import Console
from rich.text import Text

from stackmesh import errors
from stackmesh.config import ConfigError
from stackmesh.resources import KINDS, api_word
from stackmesh.supervisor.commands import has_service
from stackmesh.supervisor.lock import InUse
from stackmesh.supervisor.status import StartFailed, SupervisorFailed

INTERRUPTED: Final = 130

_HINTS: Final[Mapping[type[errors.MeshError], str]] = {
    errors.ResourceNotFound: "list what there is with: stackmesh get {kind}s",
    errors.ProviderNotFound: "list the providers with: stackmesh get providers",
    errors.NotHosted: "list the providers with: stackmesh get providers",
    errors.NotServing: "see what is served, and why not, with: stackmesh get {kind}s",
    errors.NoInstance: "see who is running with: stackmesh get instances",
    errors.AmbiguousProvider: "choose one with --provider-id",
    errors.AmbiguousName: "choose one of these with --provider-{kind}-id",
    errors.ResourceExists: (
        "change it with: stackmesh update {kind} {name}, or remove it with: stackmesh unregister {kind} {name}"
    ),
    errors.Conflict: "see what it is now with: stackmesh get {kind}s {name} -o yaml",
    errors.Declared: "edit the mesh's YAML, and start the registry again",
    errors.RevisionGone: "begin with what there is now: leave --start-revision away",
    errors.RegistryUnreachable: "see what the gateway goes on with: stackmesh get health; try again when it is back",
    errors.BackendUnreachable: "see what is wrong with whom, with: stackmesh get providers",
    errors.StoreFull: "reads go on; see docs/operations.md for how to make room in the registry's store",
}


@contextmanager
def told(address: str | None = None, kind: str = "model", name: str = "NAME") -> Generator[None]:
    """Whatever is raised inside is told on stderr, and the command ends with code 1 (130: interrupted).

    `address` is the gateway's, where one is called; `kind` and `name` are what the call was about.
    """
    try:
        yield
    except errors.MeshError as error:
        tell(error, address, kind, name)
    except (ConfigError, StartFailed, SupervisorFailed, InUse) as error:
        say_error(str(error))
    except UnicodeError:
        say_error("the text is not valid UTF-8")
    except BrokenPipeError:
        raise  # the reader has seen enough; typer ends quietly
    except OSError as error:
        say_error(f"{error.filename or 'the system'}: {error.strerror or error}")
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise typer.Exit(INTERRUPTED) from None
    else:
        return
    raise typer.Exit(1)


def tell(error: errors.MeshError, address: str | None, kind: str = "model", name: str = "NAME") -> None:
    """The error of a call, with a hint."""
    if address is not None and (at_address := _of_address(error, address)):
        say_error(*at_address)
    else:
        its = error.metadata.get("resource_type", kind).replace("_", "-")
        say_error(error.message, _hint(error, its, name))


def _of_address(error: errors.MeshError, address: str) -> tuple[str, str] | None:
    """What gRPC says of the way to the gateway, and a hint. What the mesh itself says is of another type."""
    where = "--address or STACKMESH_ADDRESS says where the gateway is: gateway.address in the mesh's YAML"
    if type(error) is errors.Unavailable and "DNS resolution failed" in error.message:
        return f"no gateway answers at {address}: the name of the host does not resolve", where
    if type(error) is errors.Unavailable:
        return f"no gateway answers at {address}", "is the mesh up? start it with: stackmesh up"
    if type(error) is errors.DeadlineExceeded:
        return f"the gateway at {address} did not answer in time", "it may be stopped or overloaded; try again"
    if type(error) is errors.Unimplemented:
        return f"what answers at {address} does not know this call: it is no gateway, or one of another version", where
    return None


def _hint(error: errors.MeshError, kind: str, name: str) -> str | None:
    api = next((api_word(each.api) for each in KINDS.values() if each.word == kind.replace("-", "_")), "")
    if isinstance(error, errors.NoInstance | errors.ProviderNotFound) and api and not has_service(api):
        return f"nothing in this version hosts {api} providers yet; once one of your own runs, it can be registered"
    declared = isinstance(error, errors.ResourceExists) and error.metadata.get("source") == "config"
    hint = _HINTS.get(errors.Declared if declared else type(error))
    return None if hint is None else hint.format(kind=kind, name=name)


def say_note(text: str) -> None:
    """Something to know, beside what was asked for."""
    Console(stderr=True).print(Text.assemble(("note: ", "bold"), text), soft_wrap=True)


def say_error(message: str, hint: str | None = None) -> None:
    console = Console(stderr=True)
    console.print(Text.assemble(("error: ", "bold red"), message), soft_wrap=True)
    if hint is not None:
        console.print(Text.assemble(("hint: ", "bold"), hint), soft_wrap=True)
