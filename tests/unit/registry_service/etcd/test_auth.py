"""Users, passwords and the tokens that etcd forgets."""

import asyncio
import logging
from contextlib import aclosing

import pytest

from registry_service.etcd.auth import Token
from registry_service.etcd.client import Client
from registry_service.etcd.errors import Unsent
from registry_service.etcd.store import EtcdStore
from registry_service.etcd.url import parse
from registry_service.store import Put
from stackmesh.errors import RegistryUnreachable
from stackmesh.process import StartError
from tests.contracts.store import next_change
from tests.fakes.etcd import etcd, store_url
from tests.fakes.tcp_proxy import TcpProxy

PASSWORD = "correct-horse"
TTL = 2


@pytest.fixture
async def guarded(tmp_path):
    async with etcd(tmp_path, f"--auth-token-ttl={TTL}") as member:
        await member.require_password(PASSWORD)
        yield member


def location(member, user=f"root:{PASSWORD}"):
    return parse(store_url(member.address, user=user))


async def outlives_its_token(member, kind=EtcdStore):
    """Everything works when etcd has forgotten the token."""
    async with kind(location(member)) as store:
        lease = await store.grant(30)
        revision = await store.commit([Put("a", b"1", lease)])
        for call in (
            lambda: store.get("a"),
            lambda: store.commit([Put("a", b"2", lease)]),
            lambda: store.keep_alive(lease),
            lambda: first_change(store, revision),
        ):
            await asyncio.sleep(TTL + 1.5)  # etcd sweeps them once a second
            assert await call()


async def first_change(store, start):
    async with aclosing(store.watch(start)) as watch:
        return await next_change(watch)


async def test_a_forgotten_token_is_asked_for_anew(guarded):
    await outlives_its_token(guarded)


async def outlives_the_beginning_of_passwords(member, kind=EtcdStore):
    """Everything works after etcd has begun to ask for the password that it did not want before."""
    async with kind(location(member)) as store:
        revision = await store.commit([Put("a", b"1")])
        await member.require_password(PASSWORD)
        assert (await store.get("a")).value == b"1"
        assert await first_change(store, revision)
        assert await store.commit([Put("a", b"2")]) > revision


async def test_passwords_can_be_switched_on_meanwhile(tmp_path, caplog):
    async with etcd(tmp_path) as member:
        await outlives_the_beginning_of_passwords(member)
    assert "lets everybody in" in caplog.text
    assert "unencrypted" in caplog.text
    assert PASSWORD not in caplog.text


class KeepsToken(Token):
    def spoil(self, token):
        pass


class Stubborn(EtcdStore):
    def __init__(self, location):
        super().__init__(location)
        self._client.token = KeepsToken(location)


async def test_that_check_finds_a_store_that_keeps_its_token(guarded):
    with pytest.raises(RegistryUnreachable):
        await outlives_its_token(guarded, Stubborn)


async def test_that_check_finds_a_store_that_goes_on_without_one(tmp_path):
    async with etcd(tmp_path) as member:
        with pytest.raises(RegistryUnreachable):
            await outlives_the_beginning_of_passwords(member, Stubborn)


class Doubtful(EtcdStore):
    """Does not tell what was not sent from what may have been done."""

    def __init__(self, location):
        super().__init__(location)
        self._client = DoubtfulClient(location)


class DoubtfulClient(Client):
    async def ready(self, endpoint, seconds):
        try:
            return await super().ready(endpoint, seconds)
        except Unsent as error:
            raise RegistryUnreachable(error.message) from None


async def asks_another_for_a_token(member, kind=EtcdStore):
    """A write goes to the next member when the first is frozen before it has given a token."""
    async with TcpProxy(member.address) as first, TcpProxy(member.address) as second:
        async with kind(parse(store_url(first.address, second.address, user=f"root:{PASSWORD}"))) as store:
            await store.commit([Put("a", b"1")])
            client = store._client
            client.token.spoil(await client.token.get(client.current()))
            first.stall()
            await store.commit([Put("a", b"2")])


async def test_a_member_that_gives_no_token_is_left_for_another(guarded):
    await asks_another_for_a_token(guarded)


async def test_that_check_finds_a_store_that_takes_it_for_sent(guarded):
    with pytest.raises(RegistryUnreachable):
        await asks_another_for_a_token(guarded, Doubtful)


async def test_a_restarted_member_has_forgotten_all_tokens(guarded):
    async with EtcdStore(location(guarded)) as store:
        guarded.kill()
        await guarded.restart()
        await store.commit([Put("a", b"1")])


@pytest.mark.parametrize(
    ("user", "message"),
    [
        ("root:wrong-secret", "wrong user or password"),
        ("nobody:wrong-secret", "wrong user or password"),
        ("", "wants a user"),
    ],
)
async def test_who_is_not_let_in_is_told_at_the_start(guarded, user, message, caplog):
    caplog.set_level(logging.DEBUG)
    with pytest.raises(StartError, match=message) as caught:
        async with EtcdStore(location(guarded, user)):
            pass
    assert guarded.address in str(caught.value)
    assert "secret" not in f"{caught.value} {caught.value!r} {caplog.text}"


async def test_a_user_without_rights_is_told_at_the_start(guarded):
    await guarded.ctl("--user", f"root:{PASSWORD}", "user", "add", "guest:guest")
    with pytest.raises(StartError, match="may not read and write the keys"):
        async with EtcdStore(location(guarded, "guest:guest")):
            pass


async def test_a_user_who_may_only_read_is_told_at_the_start(guarded):
    root = ("--user", f"root:{PASSWORD}")
    await guarded.ctl(*root, "role", "add", "reader")
    await guarded.ctl(*root, "role", "grant-permission", "reader", "--prefix=true", "read", "mesh/")
    await guarded.ctl(*root, "user", "add", "reader:reader")
    await guarded.ctl(*root, "user", "grant-role", "reader", "reader")
    async with EtcdStore(location(guarded)) as store:  # everything that it needs is there
        revision = await store.commit([Put("a", b"1")])
    with pytest.raises(StartError, match="may not read and write the keys"):
        async with EtcdStore(location(guarded, "reader:reader")):
            pass
    async with EtcdStore(location(guarded)) as store:
        assert await store.revision() == revision
        assert (await store.list("")).rows == (await store.list("a")).rows


async def test_a_password_changed_meanwhile_is_an_unreachable_store(guarded):
    async with EtcdStore(location(guarded)) as store:
        await guarded.ctl(
            "--user", f"root:{PASSWORD}", "user", "passwd", "root", "--interactive=false", stdin="other\n"
        )
        for call in (lambda: store.get("a"), lambda: store.commit([Put("a", b"1")]), lambda: first_change(store, 1)):
            with pytest.raises(RegistryUnreachable, match="wrong user or password"):
                await call()


async def test_a_user_is_no_error_where_none_is_wanted(member, prefix):
    async with EtcdStore(parse(store_url(member.address, prefix=prefix, user="me:secret"))) as store:
        await store.commit([Put("a", b"1")])


async def test_rights_taken_away_end_no_silence(guarded):
    """A watch that is not permitted is told so, and does not wait for ever."""
    root = ("--user", f"root:{PASSWORD}")
    await guarded.ctl(*root, "role", "add", "mesh")
    await guarded.ctl(*root, "role", "grant-permission", "mesh", "--prefix=true", "readwrite", "mesh/")
    await guarded.ctl(*root, "user", "add", "mesh:mesh")
    await guarded.ctl(*root, "user", "grant-role", "mesh", "mesh")
    async with EtcdStore(location(guarded, "mesh:mesh")) as store:
        revision = await store.commit([Put("a", b"1")])
        assert await first_change(store, revision)
        await guarded.ctl(*root, "user", "revoke-role", "mesh", "mesh")
        async with asyncio.timeout(5):
            with pytest.raises(RegistryUnreachable, match="may not read and write the keys"):
                await first_change(store, revision)
