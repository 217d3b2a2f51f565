"""A mesh whose etcd is full: who writes is told what to do, who calls does not notice, and then all is as before."""

from contextlib import asynccontextmanager, suppress

import grpc
import pytest

import gateway.server
import registry_service.server
import services.inference.server
from registry_service.etcd import wire
from registry_service.etcd.store import EtcdStore
from registry_service.etcd.url import parse
from registry_service.store import Delete, Put
from stackmesh.client import Client, user
from stackmesh.errors import ResourceNotFound, StoreFull, from_rpc_error
from stackmesh.etcd.v1 import etcd_pb2
from stackmesh.registry.v1 import models_service_pb2 as pb
from stackmesh.transport import internal_channel
from tests.fakes import instance as fakes
from tests.fakes.etcd import etcd, store_url
from tests.fakes.instance import FakeProvider
from tests.fakes.mesh import all_serving, mesh_config
from tests.integration.registry.client import LLAMA, Registry
from tests.waiting import until

MEGABYTE = 1024 * 1024
ECHO = {"provider_id": "e", "provider_type": "inline::echo", "config": {"models": ["one", "two"]}}
REMEDY = (
    "the registry's store is full: compact and defragment etcd, then `etcdctl alarm disarm` "
    "(or raise its --quota-backend-bytes)"
)


@asynccontextmanager
async def mesh_on(folder, member, kind):
    """A mesh, and the registry's public calls as its gateway gives them."""
    config = mesh_config(folder, [ECHO], ["one"])
    store = kind(parse(store_url(member.address)))
    async with (
        registry_service.server.running(config, store),
        gateway.server.running(config),
        services.inference.server.running(config),
        Client(config.gateway.address, timeout=30) as client,
        grpc.aio.insecure_channel(config.gateway.address) as channel,
    ):
        await until(lambda: all_serving(client, ["one"]))
        yield client, Registry(config.registry.address, channel)


async def fill(member):
    """As another program may that shares this etcd."""
    async with EtcdStore(parse(store_url(member.address, prefix="another"))) as store:
        with suppress(StoreFull):
            while True:
                await store.commit([Put("a", b"x" * MEGABYTE)])


async def make_room(member):
    """As the remedy says."""
    async with EtcdStore(parse(store_url(member.address))) as store:
        await member.ctl("compact", "--physical", str((await store.list("", limit=1)).revision))
    await member.ctl("defrag")
    await member.ctl("alarm", "disarm")


async def says(client, name):
    answer = await client.inference.chat_completion(model_id=name, messages=[user("who are you?")])
    return answer.completion_message.content.items[0].text


async def full(call):
    """The status, the reason and the message are those of a full store."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    error = from_rpc_error(raised.value)
    assert (raised.value.code(), type(error), error.message) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        StoreFull,
        REMEDY,
    )


async def changes_nothing_when_full(folder, kind=EtcdStore):
    async with etcd(folder, f"--quota-backend-bytes={16 * MEGABYTE}") as member:
        async with mesh_on(folder, member, kind) as (client, registry):
            row = await registry.register("mine", provider_model_id="one")
            await fill(member)
            before = await registry.entries()

            models = registry.models.stub
            await full(models.RegisterModel(pb.RegisterModelRequest(model_id="new", provider_model_id="one")))
            moved = pb.UpdateModelRequest(model_id="mine", provider_model_id="two", expected_revision=row.revision)
            await full(models.UpdateModel(moved))
            await full(models.UnregisterModel(pb.UnregisterModelRequest(model_id="mine")))
            late = fakes.FakeInstance("127.0.0.1:1", {"local": FakeProvider(LLAMA)}, "late")
            async with internal_channel(registry.address) as channel:
                await full(late.announce(channel))

            assert (await registry.entries()).entries == before.entries
            assert [await says(client, name) for name in ("one", "mine")] == ["one", "one"]
            with pytest.raises(ResourceNotFound):
                await says(client, "new")

            await make_room(member)
            await registry.register("new", provider_model_id="one")
            assert await says(client, "new") == "one"
            await registry.update("mine", provider_model_id="two", expected_revision=row.revision)
            await until(lambda: moved_to(client, "mine", "two"))
            await registry.unregister("mine")
            async with fakes.running({"local": FakeProvider(LLAMA)}, registry.address, "late"):
                await registry.register("llama")


async def moved_to(client, name, own):
    return await says(client, name) == own


async def test_a_full_store_changes_nothing_and_says_what_to_do(tmp_path):
    await changes_nothing_when_full(tmp_path)


DELETE = wire.Method("/etcdserverpb.KV/DeleteRange", etcd_pb2.DeleteRangeRequest, etcd_pb2.TxnResponse)
"""Both answers begin with the header, which is all that is read."""


class DeletesAtOnce(EtcdStore):
    """Not in a transaction that tells the others: a full etcd has room for that."""

    async def commit(self, ops, *, expect=None):
        if not all(isinstance(op, Delete) for op in ops):
            return await super().commit(ops, expect=expect)
        for op in ops:
            question = etcd_pb2.DeleteRangeRequest(key=self._layout.key(op.key))
            answer = await self._client.call(DELETE, question, repeatable=True)
        return answer.header.revision


async def test_that_check_finds_a_store_that_deletes_though_it_is_full(tmp_path):
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        await changes_nothing_when_full(tmp_path, DeletesAtOnce)
