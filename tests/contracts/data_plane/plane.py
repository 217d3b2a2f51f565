"""What this suite asks of a data plane, and the planes it knows."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import yaml

from stackmesh.config import Config
from stackmesh.headers import PROVIDER_ID, PROVIDER_RESOURCE_ID, RESOURCE
from tests.contracts.data_plane import conformance as api
from tests.contracts.data_plane.bare_proxy import Flaw
from tests.contracts.data_plane.processes import started

MODEL: Final = "conformance"
PROVIDER: Final = "solo"
PROVIDER_MODEL: Final = "vendor/conformance-1"
ROUTED: Final[api.Metadata] = ((PROVIDER_ID, PROVIDER), (PROVIDER_RESOURCE_ID, PROVIDER_MODEL), (RESOURCE, MODEL))


@dataclass(frozen=True, slots=True)
class Setup:
    """What a plane starts from."""

    config: Config
    """Where the registry is, and where to listen (`gateway.address`, a free port)."""
    descriptor_set: bytes
    """Every method and how it is routed."""
    folder: Path
    """Its own."""
    upstream: str
    """The address of the backend of MODEL, for controls, which look nothing up."""


@dataclass(frozen=True, slots=True)
class Running:
    """A plane that answers calls."""

    address: str
    pid: int
    """Of the process whose memory is the plane's; 0: it has none of its own."""
    always: api.Metadata = ()
    """What every call must carry because nobody adds it on the way."""


class Plane(Protocol):
    """A data plane. It answers at its address while `running` runs; nothing of it is left afterwards."""

    @property
    def name(self) -> str: ...

    @property
    def control(self) -> bool:
        """It is no gateway: it runs what has to hold on any path to a backend, to show that the suite asks no more."""
        ...

    @property
    def exempt(self) -> Mapping[str, str]:
        """Test function to the reason why this plane need not pass it."""
        ...

    def running(self, setup: Setup) -> AbstractAsyncContextManager[Running]: ...


@dataclass(frozen=True, slots=True)
class PythonPlane:
    """The gateway's own proxy, in a process of its own."""

    name: str = "python"
    control: bool = False
    exempt: Mapping[str, str] = field(default_factory=dict)

    @asynccontextmanager
    async def running(self, setup: Setup) -> AsyncGenerator[Running]:
        config, descriptors = setup.folder / "mesh.yaml", setup.folder / "descriptors.binpb"
        config.write_text(yaml.safe_dump(setup.config.model_dump(mode="json")))
        descriptors.write_bytes(setup.descriptor_set)
        module = "tests.contracts.data_plane.python_plane"
        address = setup.config.gateway.address
        async with started(module, config, descriptors, log=setup.folder / "plane.log", address=address) as process:
            yield Running(address, process.pid)


@dataclass(frozen=True, slots=True)
class Direct:
    """No plane at all: the client talks to the backend, with the headers a gateway would have set."""

    name: str = "direct"
    control: bool = True
    exempt: Mapping[str, str] = field(
        default_factory=lambda: dict.fromkeys(
            ("test_stalled_readers", "test_a_hundred_stalled_readers", "test_stalled_backends"),
            "there is no process that could grow",
        )
    )

    @asynccontextmanager
    async def running(self, setup: Setup) -> AsyncGenerator[Running]:
        yield Running(setup.upstream, 0, ROUTED)


@dataclass(frozen=True, slots=True)
class BareProxyPlane:
    """A proxy that knows one upstream, in a process of its own. With a flaw it is the negative control of a case."""

    flaw: Flaw = "none"
    name: str = "bare"
    control: bool = True
    exempt: Mapping[str, str] = field(
        default_factory=lambda: {"test_answer_is_whole_though_the_client_still_writes": "grpc.aio makes INTERNAL of it"}
    )

    @asynccontextmanager
    async def running(self, setup: Setup) -> AsyncGenerator[Running]:
        address = setup.config.gateway.address
        module = "tests.contracts.data_plane.bare_proxy"
        log = setup.folder / "bare.log"
        async with started(module, address, setup.upstream, self.flaw, log=log, address=address) as process:
            yield Running(address, process.pid, ROUTED)


PLANES: Final[tuple[Plane, ...]] = (Direct(), BareProxyPlane(), PythonPlane())
