"""The store in etcd keeps the contract, with a real etcd. tests/unit/registry_service/etcd/ does worse to it."""

import asyncio

import pytest

from registry_service.etcd.store import EtcdStore
from registry_service.etcd.url import parse
from tests.contracts.store import StoreContract, one_wins
from tests.fakes.etcd import fresh_prefix, shared_etcd, store_url


@pytest.fixture(scope="session")
def member():
    """One for all tests that leave it as it is."""
    with shared_etcd() as member:
        yield member


class EtcdStores:
    second = 0.2  # etcd knows no lease of less than 2 s

    def __init__(self, member):
        self._member = member
        self._url = store_url(member.address, prefix=fresh_prefix())

    def open(self):
        return EtcdStore(parse(self._url), silence=0.05)

    async def pass_time(self, seconds):
        await asyncio.sleep(seconds * self.second)

    async def away(self, seconds):
        self._member.kill()
        await self.pass_time(seconds)
        await self._member.restart()


@pytest.fixture
def stores(member):
    return EtcdStores(member)


class TestEtcdStore(StoreContract):
    """etcd keeps the whole contract."""


class Careless(EtcdStore):
    async def commit(self, ops, *, expect=None):
        return await super().commit(ops)


async def test_the_race_check_finds_a_store_that_does_not_compare(member):
    async with Careless(parse(store_url(member.address, prefix=fresh_prefix()))) as store:
        with pytest.raises(AssertionError):
            await one_wins([store, store], rounds=5)


async def test_of_the_swaps_of_two_registries_one_wins(stores):
    async with stores.open() as one, stores.open() as other:
        await one_wins([one, other], rounds=200)
