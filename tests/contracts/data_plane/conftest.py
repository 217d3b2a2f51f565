"""One mesh a plane for the whole session; every test of this folder runs in the session's event loop."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio

from tests.contracts.data_plane.mesh import Mesh, running
from tests.contracts.data_plane.plane import PLANES, Plane

_HERE = Path(__file__).parent


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "gateway: asks for more than a path to a backend; controls do not run it")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == _HERE:
            if inspect.iscoroutinefunction(getattr(item, "function", None)):
                item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)
            item.add_marker(pytest.mark.xdist_group("data_plane"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for name in {"plane", "mesh"} & set(metafunc.fixturenames):
        if name == "mesh" or "mesh" not in metafunc.fixturenames:
            gateway = any(mark.name == "gateway" for mark in metafunc.definition.iter_markers())
            planes = [_param(plane, metafunc.function.__name__) for plane in PLANES if not (gateway and plane.control)]
            metafunc.parametrize(name, planes, indirect=True)


def _param(plane: Plane, test: str) -> object:
    marks = [pytest.mark.skip(reason=plane.exempt[test])] if test in plane.exempt else []
    return pytest.param(plane, id=plane.name, marks=marks)


@pytest.fixture
def plane(request: pytest.FixtureRequest) -> Plane:
    """The plane itself, for tests that start their own mesh."""
    return request.param


class Meshes:
    """The meshes of this session, each started when it is first asked for."""

    def __init__(self, stack: AsyncExitStack, factory: pytest.TempPathFactory) -> None:
        self._stack = stack
        self._factory = factory
        self._running: dict[str, Mesh] = {}

    async def of(self, plane: Plane) -> Mesh:
        if plane.name not in self._running:
            folder = self._factory.mktemp(plane.name)
            self._running[plane.name] = await self._stack.enter_async_context(running(plane, folder))
        return self._running[plane.name]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def meshes(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Meshes]:
    async with AsyncExitStack() as stack:
        yield Meshes(stack, tmp_path_factory)


@pytest_asyncio.fixture(loop_scope="session")
async def mesh(request: pytest.FixtureRequest, meshes: Meshes) -> Mesh:
    """The mesh all tests of a plane share. Tests that break something join instances of their own to it."""
    return await meshes.of(request.param)
