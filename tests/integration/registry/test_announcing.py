"""Instances: their leases, and what they say they serve."""

import asyncio

import grpc
import pytest

from registry_service.server import running
from registry_service.sqlite.store import SqliteStore
from stackmesh.config import parse
from stackmesh.registry.v1 import (
    resources_pb2 as pb,
)
from stackmesh.transport import internal_channel
from tests.fakes import instance as fakes
from tests.fakes.instance import FakeProvider
from tests.integration.registry.client import LLAMA, read, yaml
from tests.waiting import until


async def test_an_instance_that_leaves_is_gone_and_its_models_stay(disk):
    async with disk.registry(yaml("local")) as registry, registry.instance({"local": FakeProvider(LLAMA)}) as instance:
        await registry.register("llama")
        answer = await instance.say(leave={})
        assert answer.revision == await registry.revision()
        assert await registry.instances() == {}
        model = await registry.get("llama")
        assert model.serving_state == pb.SERVING_STATE_NOT_SERVING
        assert model.serving_reason == "no instance of the provider local is running"
        assert list((await registry.provider("local")).served) == ["llama-8b"]


async def test_beats_keep_an_instance_and_make_no_revision(registry, disk):
    async with registry.instance({"local": FakeProvider(LLAMA)}, "i") as instance:
        revision = await registry.revision()
        for _ in range(5):
            disk.clock.now += 10
            answer = await instance.say(beat={})
            assert (answer.revision, answer.lease_id, answer.ttl.seconds) == (0, instance.lease_id, 15)
        assert await registry.revision() == revision
        disk.clock.now += 20

        async def gone():
            return not await registry.instances()

        await until(gone)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await instance.say(beat={})
        assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "say hello again" in (raised.value.details() or "")
        old = instance.lease_id
        await instance.announce(registry.channel)
        assert instance.lease_id != old
        assert list(await registry.instances()) == ["i"]


async def test_a_report_after_the_lease_has_ended_ends_the_stream(registry, disk):
    async with registry.instance({"local": FakeProvider(LLAMA)}) as instance:
        disk.clock.now += 20
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await instance.report("local")
        assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_a_silent_stream_is_not_kept(tmp_path):
    text = "version: 1\nregistry: {address: '127.0.0.1:0', lease_ttl: 0.2}"
    async with running(parse(text, {}, "test.yaml"), SqliteStore(tmp_path / "r.db")) as listener:
        async with internal_channel(listener.address) as channel:
            instance = fakes.FakeInstance("127.0.0.1:1", {}, "i")
            await instance.announce(channel)
            with pytest.raises(grpc.aio.AioRpcError, match=r"nothing was heard for 0.2 s"):
                await instance.stream.read()


async def test_a_broken_stream_does_not_end_the_lease(registry):
    async with registry.instance({"local": FakeProvider(LLAMA)}, "i") as instance:
        lease, revision = instance.lease_id, await registry.revision()
        instance.stream.cancel()
        answer = await instance.announce(registry.channel)
        assert answer.lease_id == lease
        assert answer.revision == revision == await registry.revision()  # nothing new was said
        assert list(await registry.instances()) == ["i"]


async def test_a_lease_moves_to_a_restarted_registry(disk):
    async with fakes.running({"local": FakeProvider(LLAMA)}) as instance:
        async with disk.registry() as registry:
            lease = (await instance.announce(registry.channel)).lease_id
            await registry.register("llama")
        disk.clock.now += 100
        async with disk.registry() as registry:
            assert (await registry.get("llama")).serving_state == pb.SERVING_STATE_SERVING
            assert (await instance.announce(registry.channel)).lease_id == lease


async def test_another_process_with_the_same_id_takes_over(registry):
    async with registry.instance({"local": FakeProvider(LLAMA)}, "same") as first:
        async with registry.instance({"local": FakeProvider(LLAMA)}, "same") as second:
            assert first.lease_id != second.lease_id
            assert (await registry.instances())["same"].address == second.address
            with pytest.raises(grpc.aio.AioRpcError):
                await first.say(beat={})
            await second.say(beat={})


async def test_whoever_takes_over_an_address_stands_there_alone(registry):
    """A process has died, and before its lease ends another one gets its port: at no revision do both stand there."""
    async with registry.instance({"local": FakeProvider(LLAMA)}, "old") as old:
        start = await registry.revision()
        new = fakes.FakeInstance(old.address, {"local": FakeProvider({"q": "q"})}, "new")
        async with registry.watch(start + 1) as watch:
            revision = (await new.announce(registry.channel)).revision
            assert list(await registry.instances()) == ["new"]
            while not (said := await read(watch)).changes:
                pass
        moved = {c.entry.key: (c.entry.HasField("instance"), c.revision) for c in said.changes}
        assert (moved["instance/new"], moved["instance/old"]) == ((True, revision), (False, revision))
        with pytest.raises(grpc.aio.AioRpcError, match="say hello again"):
            await old.say(beat={})
        await new.say(beat={})
        await new.announce(registry.channel)
        assert list(await registry.instances()) == ["new"]
        new.stream.cancel()


async def test_what_is_served_follows_the_reports(registry):
    async with registry.instance({"local": FakeProvider(LLAMA)}, "i") as one:
        await registry.register("llama")
        async with registry.instance({"local": FakeProvider({**LLAMA, "qwen": "q"})}, "j") as two:
            assert list((await registry.provider("local")).served) == ["llama-8b", "q"]
            hosted = {i: x.providers[0] for i, x in (await registry.instances()).items()}
            assert (list(hosted["i"].not_served), list(hosted["j"].not_served)) == (["q"], [])
            one.providers["local"].aliases.clear()
            await one.report("local", problem="the backend is down")
            hosted = {i: x.providers[0] for i, x in (await registry.instances()).items()}
            assert (hosted["i"].serves_nothing, list(hosted["i"].not_served)) == (True, [])
            assert hosted["i"].problem == "the backend is down"
            assert (await registry.get("llama")).serving_state == pb.SERVING_STATE_SERVING
            await two.say(leave={})
        model = await registry.get("llama")
        assert model.serving_state == pb.SERVING_STATE_NOT_SERVING
        assert model.serving_reason == "the provider local does not serve llama-8b now: the backend is down"


async def test_a_hundred_instances_at_once_agree(registry):
    """More hosts than fit into one commit, each with a name of its own."""
    names = {n: f"only-{n}" for n in range(60)}
    hellos = [
        fakes.FakeInstance(f"127.0.0.1:{n + 1}", {"p": FakeProvider({"all": "all", "own": name})}, f"i{n}")
        for n, name in names.items()
    ]
    await asyncio.gather(*(hello.announce(registry.channel) for hello in hellos))
    served = set((await registry.provider("p")).served)
    assert served == {"all", *names.values()}
    for instance in (await registry.instances()).values():
        n = int(instance.instance_id[1:])
        assert served - set(instance.providers[0].not_served) == {"all", names[n]}
    for hello in hellos:
        hello.stream.cancel()
