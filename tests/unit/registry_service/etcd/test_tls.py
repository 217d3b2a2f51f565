"""TLS: whom the store trusts, and what it says when it does not."""

import datetime as dt
import shutil
from contextlib import suppress

import pytest
import trustme

from registry_service.etcd.endpoints import Endpoints
from registry_service.etcd.store import EtcdStore
from registry_service.etcd.url import parse
from registry_service.store import Put
from registry_service.stores import check
from stackmesh.errors import RegistryUnreachable
from stackmesh.process import StartError
from tests.contracts.store import collect
from tests.fakes.etcd import Tls, etcd, store_url


def files(folder, *names, expired=False, clients=False):
    """A member's certificate, with that of a new authority."""
    authority = trustme.CA()
    until = dt.datetime.now(dt.UTC) - dt.timedelta(days=1) if expired else None
    issued = authority.issue_cert(*names, not_after=until)
    tls = Tls(ca=folder / "ca.pem", cert=folder / "cert.pem", key=folder / "key.pem", clients=clients)
    authority.cert_pem.write_to_path(tls.ca)
    issued.private_key_pem.write_to_path(tls.key)
    for part in issued.cert_chain_pems:
        part.write_to_path(tls.cert, append=True)
    return tls


def location(member, query):
    return parse(store_url(member.address, query=query))


async def test_a_trusted_member_is_used(tmp_path):
    tls = files(tmp_path, "127.0.0.1")
    async with etcd(tmp_path, tls=tls) as member:
        async with EtcdStore(location(member, f"tls={tls.ca}")) as store:
            await store.commit([Put("a", b"1")])
        async with EtcdStore(location(member, "tls=system")) as store:
            with pytest.raises(RegistryUnreachable, match=f"etcd at {member.address}.*CERTIFICATE_VERIFY_FAILED"):
                await store.get("a")
        async with EtcdStore(location(member, "")) as store:
            for call in (lambda: store.get("a"), lambda: anext(store.watch(1)), lambda: store.keep_alive(1)):
                with pytest.raises(RegistryUnreachable, match=r"Socket closed; if it speaks TLS, add \?tls="):
                    await call()


async def test_an_expired_certificate_is_named(tmp_path):
    tls = files(tmp_path, "127.0.0.1", expired=True)
    async with etcd(tmp_path, tls=tls) as member, EtcdStore(location(member, f"tls={tls.ca}")) as store:
        for call in (lambda: store.commit([Put("a", b"1")]), lambda: store.get("a"), lambda: anext(store.watch(1))):
            with pytest.raises(RegistryUnreachable, match="certificate has expired"):
                await call()


async def test_a_certificate_of_another_name_is_refused_unless_it_is_given(tmp_path):
    tls = files(tmp_path, "etcd.example.org")
    async with etcd(tmp_path, tls=tls) as member:
        async with EtcdStore(location(member, f"tls={tls.ca}")) as store:
            with pytest.raises(RegistryUnreachable, match="Hostname Verification"):
                await store.get("a")
        async with EtcdStore(location(member, f"tls={tls.ca}&name=etcd.example.org")) as store:
            await store.commit([Put("a", b"1")])


async def test_a_member_that_wants_a_certificate_is_shown_one(tmp_path):
    tls = files(tmp_path, "127.0.0.1", clients=True)
    async with etcd(tmp_path, tls=tls) as member:
        async with EtcdStore(location(member, f"tls={tls.ca}&cert={tls.cert}&key={tls.key}")) as store:
            await store.commit([Put("a", b"1")])
        async with EtcdStore(location(member, f"tls={tls.ca}")) as store:
            with pytest.raises(RegistryUnreachable) as caught:
                await store.get("a")
            assert "if it speaks TLS" not in caught.value.message


class Forgetful(EtcdStore):
    """Reads the files once."""

    def __init__(self, location):
        super().__init__(location)
        self._client.endpoints = ReadsOnce(location)


class ReadsOnce(Endpoints):
    async def _renew(self, endpoint):
        pass


async def outlives_its_files(folder, kind=EtcdStore):
    """When the certificates of both sides are exchanged, and etcd starts anew, the store goes on; a watch does, too."""
    tls, new = (files(folder / name, "127.0.0.1", clients=True) for name in ("old", "new"))
    async with etcd(folder, tls=tls) as member:
        async with kind(location(member, f"tls={tls.ca}&cert={tls.cert}&key={tls.key}")) as store:
            first = await store.commit([Put("a", b"1")])
            member.kill()
            for file in ("ca", "cert", "key"):
                shutil.copy(getattr(new, file), getattr(tls, file))
            await member.restart()
            with suppress(RegistryUnreachable):  # which may be how the connection's end is noticed
                await store.commit([Put("a", b"2")])
            assert await store.get("a")
            assert await collect(store, first, first)


@pytest.fixture
def folders(tmp_path):
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    return tmp_path


async def test_exchanged_files_are_read(folders):
    await outlives_its_files(folders)


async def test_that_check_finds_a_store_that_reads_them_once(folders):
    with pytest.raises(RegistryUnreachable):
        await outlives_its_files(folders, Forgetful)


async def test_a_file_that_is_not_there_is_named_at_the_start(tmp_path):
    with pytest.raises(StartError, match=f"tls={tmp_path}/ca.pem: cannot be read: No such file"):
        async with EtcdStore(parse(f"etcd://127.0.0.1/m?tls={tmp_path}/ca.pem")):
            pass


@pytest.mark.parametrize("option", ["tls", "cert", "key"])
def test_a_file_that_is_no_certificate_is_told_before_anything_starts(tmp_path, option):
    tls = files(tmp_path, "127.0.0.1")
    empty = tmp_path / "notes.txt"
    empty.write_text("to be done")
    given = {"tls": tls.ca, "cert": tls.cert, "key": tls.key, option: empty}
    query = "&".join(f"{name}={path}" for name, path in given.items())
    with pytest.raises(StartError, match=f"{option}={empty}: has no (certificate|private key) in PEM in it"):
        check(f"etcd://127.0.0.1/m?{query}")
