"""What a registry process does at its start when something is wrong with its etcd."""

import asyncio
import datetime as dt

import pytest
import trustme

from stackmesh.errors import RegistryUnreachable
from stackmesh.process import EX_CONFIG
from stackmesh.reflector import RegistrySource
from stackmesh.transport import internal_channel
from tests.fakes.etcd import Tls, etcd
from tests.faults.mesh import callable_, meshed
from tests.waiting import until

ANSWER_SECONDS = 3.0
IN_STEP_SECONDS = 30.0


async def refusal(mesh):
    """Why the registry cannot be listed."""
    async with internal_channel(mesh.registry_addresses[0]) as channel:
        with pytest.raises(RegistryUnreachable) as refused:
            async with asyncio.timeout(2 * ANSWER_SECONDS):
                await RegistrySource(channel).list()
    return refused.value.message


async def test_without_etcd_it_starts_says_so_and_is_well_when_etcd_is_there(tmp_path):
    async with etcd(tmp_path) as member:
        async with meshed(tmp_path, f"etcd://{member.address}/mesh", registries=1, gateways=1) as mesh:
            member.kill()
            await asyncio.gather(*(one.start() for one in mesh.members))
            assert member.address in await refusal(mesh)
            assert not await callable_(mesh.clients[0])
            await member.restart()
            await until(lambda: callable_(mesh.clients[0]), IN_STEP_SECONDS)
            assert await mesh.in_step()


async def test_a_wrong_password_ends_it_with_a_word_of_what_to_change(tmp_path):
    async with etcd(tmp_path) as member:
        await member.require_password("right")
        url = f"etcd://root:wrong-horse@{member.address}/mesh"
        async with meshed(tmp_path, url, registries=1, gateways=0) as mesh:
            code, said = await mesh.registries[0].run()
            log = mesh.registries[0].log.read_text()
        assert code == EX_CONFIG
        assert member.address in said
        assert "password" in said
        assert "wrong-horse" not in log
        assert "Traceback" not in log
        async with meshed(tmp_path, f"etcd://root:right@{member.address}/mesh", registries=1, gateways=1) as mesh:
            await mesh.start()


def certified(folder, days):
    """A member's certificate that is valid for so many days from now; and its authority's."""
    authority = trustme.CA()
    until_then = dt.datetime.now(dt.UTC) + dt.timedelta(days=days)
    issued = authority.issue_cert("127.0.0.1", not_after=until_then)
    tls = Tls(ca=folder / "ca.pem", cert=folder / "cert.pem", key=folder / "key.pem")
    authority.cert_pem.write_to_path(tls.ca)
    issued.private_key_pem.write_to_path(tls.key)
    issued.cert_chain_pems[0].write_to_path(tls.cert)
    return tls


async def test_an_expired_certificate_is_named(tmp_path):
    tls = certified(tmp_path, days=-1)
    async with etcd(tmp_path, tls=tls) as member:
        url = f"etcd://{member.address}/mesh?tls={tls.ca}"
        async with meshed(tmp_path, url, registries=1, gateways=0) as mesh:
            await mesh.registries[0].start()
            assert "certificate has expired" in await refusal(mesh)


async def test_a_certificate_that_holds_is_taken(tmp_path):
    """The control."""
    tls = certified(tmp_path, days=1)
    async with etcd(tmp_path, tls=tls) as member:
        url = f"etcd://{member.address}/mesh?tls={tls.ca}"
        async with meshed(tmp_path, url, registries=1, gateways=1) as mesh:
            await mesh.start()
