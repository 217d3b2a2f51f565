"""inline::echo: what it serves at once, what once it is registered, and what never."""

from __future__ import annotations

import asyncio

import pytest

from services.inference.providers.echo import Echo, EchoConfig
from stackmesh.errors import NotHosted, NotServing
from stackmesh.providers import Wanted


def echo(**config: object) -> Echo:
    return Echo(EchoConfig.model_validate({"models": ("one",), **config}))


def wanted(name: str) -> Wanted:
    return Wanted(provider_resource_id=name)


async def test_it_recognises_what_it_could_serve():
    provider = echo(loadable=("big",), unloadable={"huge": "no room"})
    assert [await provider.resolve(wanted(name)) for name in ("one", "big", "huge")] == ["one", "big", "huge"]
    with pytest.raises(NotHosted, match=r"echo does not serve 'bog'; there are: .*big"):
        await provider.resolve(wanted("bog"))


async def test_a_loadable_model_is_served_from_load_to_unload():
    provider = echo(loadable=("big",))
    assert list(await provider.list_served()) == ["one"]
    await provider.load(wanted("big"))
    assert list(await provider.list_served()) == ["one", "big"]
    await provider.unload("big")
    assert list(await provider.list_served()) == ["one"]


async def test_what_it_serves_anyway_is_not_loaded_and_not_unloaded():
    provider = echo(load_seconds=60)
    async with asyncio.timeout(5):
        await provider.load(wanted("one"))
    await provider.unload("one")
    assert list(await provider.list_served()) == ["one"]


async def test_a_load_that_is_stopped_serves_nothing():
    provider = echo(loadable=("big",), load_seconds=60)
    loading = asyncio.ensure_future(provider.load(wanted("big")))
    await asyncio.sleep(0)
    loading.cancel()
    await asyncio.wait([loading])
    assert list(await provider.list_served()) == ["one"]


async def test_an_unloadable_model_gives_its_reason():
    with pytest.raises(NotServing, match="no room"):
        await echo(unloadable={"huge": "no room"}).load(wanted("huge"))
