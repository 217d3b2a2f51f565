"""Watching: what changes, in order."""

import pytest

from registry_service import server
from registry_service.server import running
from registry_service.sqlite.store import SqliteStore
from stackmesh.errors import (
    InvalidField,
    RevisionGone,
)
from stackmesh.registry.v1 import (
    resources_pb2 as pb,
    watch_service_pb2 as watch_pb,
)
from stackmesh.tasks import background
from stackmesh.transport import internal_channel
from tests.fakes.instance import FakeProvider
from tests.integration.registry.client import LLAMA, Registry, config, read
from tests.waiting import until


async def test_list_then_watch_tells_everything(registry):
    async with registry.instance({"local": FakeProvider(LLAMA)}, "i") as instance:
        listed = await registry.entries()
        assert [e.key for e in listed.entries] == ["instance/i", "provider/inference/local"]
        async with registry.watch(listed.revision + 1, listed.store_id) as call:
            await registry.register("meta/llama")
            await registry.unregister("meta/llama")
            await instance.say(leave={})
            seen = []
            while len(seen) < 3:
                response = await read(call)
                assert not response.changes or response.revision == response.changes[-1].revision
                seen += response.changes
        assert [c.revision for c in seen] == list(range(listed.revision + 1, listed.revision + 4))
        keys = [(c.entry.key, c.entry.WhichOneof("value")) for c in seen]
        assert keys == [("model/meta/llama", "model"), ("model/meta/llama", None), ("instance/i", None)]
        assert seen[0].entry.model.revision == seen[0].revision
        assert seen[0].entry.model.serving_state == pb.SERVING_STATE_UNSPECIFIED


async def test_a_silent_watch_gives_checkpoints(registry):
    async with registry.watch(1) as call:
        for _ in range(3):
            assert (await read(call)) == watch_pb.WatchResponse(revision=0)


async def test_revisions_that_cannot_be_watched(registry):
    for start, store_id, error in (
        (0, "", InvalidField),
        (-5, "", InvalidField),
        (99, "", RevisionGone),
        (1, "other", RevisionGone),
    ):
        async with registry.watch(start, store_id) as call:
            with pytest.raises(error):
                await read(call)


async def test_a_watch_from_before_the_compaction_has_to_list_again(disk):
    async with disk.registry() as registry, registry.instance({"local": FakeProvider(LLAMA)}):
        for _ in range(3):
            await registry.register("llama")
            await registry.unregister("llama")
    # Again, since the registry tells what it has just seen itself without the store.
    store = SqliteStore(disk.path)
    async with running(config(), store) as started, internal_channel(started.address) as channel:
        registry = Registry(started.address, channel)
        page = await registry.entries(page_size=1)
        async with background(server.compacting(store, kept=2, every=0.01), "compaction"):

            async def compacted():
                async with registry.watch(1) as call:
                    try:
                        await read(call)
                    except RevisionGone as error:
                        return error.metadata["compacted_revision"] == str(page.revision - 2)
                    return False

            await until(compacted)
        assert (await registry.entries(page_size=1, page_token=page.next_page_token)).revision == page.revision
