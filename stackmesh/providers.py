"""What every provider is, whatever its API; and how the configured ones of a process are opened."""

from __future__ import annotations

import importlib
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, ClassVar, Protocol, Self

from stackmesh.config import ConfigError, Frozen, ProviderConfig, validate
from stackmesh.provider.v1.provider_service_pb2 import ResolveRequest

Wanted = ResolveRequest
"""A resource as its provider sees it: its type, the provider's name for it, its metadata or parameters."""


class Provider(Protocol):
    """A configured instance of a provider type. `async with` opens and closes it.

    A provider type is one file: a configuration model, and a class that satisfies its API's Protocol.

    - Opening checks what can be wrong on this machine (a missing model, a missing package) and raises ConfigError with
      the remedy. It does not need a remote backend to be reachable, and never waits for one.
    - Its methods are called concurrently, may be cancelled at any await, and then stop the backend's work.
    - It raises the errors of `stackmesh.errors` and nothing else; a backend's error keeps its meaning.
    """

    Config: ClassVar[type[Frozen]]

    def __init__(self, config: Any) -> None: ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc_info: object) -> None: ...

    async def resolve(self, wanted: Wanted) -> str:
        """The provider's own name for `wanted.provider_resource_id`, which may be an alias. No side effects.

        Raises NotHosted, naming what it would host, when it does not recognise the name or cannot do what the
        parameters ask; AmbiguousName when the name stands for several; Unavailable when only the backend knows and the
        backend cannot be reached.
        """
        ...

    async def load(self, wanted: Wanted) -> None:
        """Be able to serve a registered resource: load, pull or configure it, as long as that takes.

        Called again whenever the registration changes, when what was served is no longer listed, and after every start;
        what is as it should be returns at once. `wanted.provider_resource_id` is what `resolve` returned. Never called
        twice at a time for one name. Raises a MeshError with the reason, which users see; then it is called again.
        """
        ...

    async def unload(self, provider_resource_id: str) -> None:
        """Nothing is registered under this name any more: let go of what `load` took, however far it came, once the
        calls in flight have ended.

        Not called when the process ends, nor for what was unregistered while it did not run.
        """
        ...

    async def list_served(self) -> Sequence[str]:
        """What can be called now, by the provider's own names.

        Raises Unavailable when a backend cannot be reached; BackendUnreachable with `gone` when it is certain that it
        is not there.
        """
        ...


Kinds = Mapping[str, str]
"""Provider type -> `module:Class`. The module is imported when the type is chosen, so an image carries only its own."""


def kind_of(provider_type: str, kinds: Kinds, where: str) -> type[Provider]:
    """The class of a provider type. Raises ConfigError for an unknown type, or one whose package is missing."""
    if provider_type not in kinds:
        raise ConfigError(f"{where}: unknown provider type {provider_type}; there are: {', '.join(sorted(kinds))}")
    module, _, name = kinds[provider_type].partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        extra = provider_type.partition("::")[2]
        remedy = f"pip install 'stackmesh[{extra}]'"
        raise ConfigError(f"{where}: {provider_type} needs the package {error.name}; run: {remedy}") from None


def check_providers(
    configs: Iterable[ProviderConfig], kinds: Kinds, api: str
) -> Mapping[str, tuple[type[Provider], Frozen]]:
    """Each provider's class and validated configuration, by provider_id. Opens nothing.

    Raises ConfigError with the problems of all of them.
    """
    checked: dict[str, tuple[type[Provider], Frozen]] = {}
    problems: list[str] = []
    for index, config in enumerate(configs):
        where = f"providers.{api}[{index}]"
        try:
            kind = kind_of(config.provider_type, kinds, f"{where}.provider_type")
            checked[config.provider_id] = (kind, validate(kind.Config, config.config, f"{where}.config"))
        except ConfigError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError("\n".join(problems))
    return checked


@asynccontextmanager
async def open_providers(
    configs: Iterable[ProviderConfig], kinds: Kinds, api: str
) -> AsyncGenerator[Mapping[str, Any]]:
    """The configured providers, open, by provider_id; closed in reverse order."""
    async with AsyncExitStack() as stack:
        checked = check_providers(configs, kinds, api)
        yield {key: await stack.enter_async_context(kind(config)) for key, (kind, config) in checked.items()}
