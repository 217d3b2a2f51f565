"""`python -m registry_service` as a process, and the parts of the mesh that talk to it."""

import asyncio
import signal
import sys
from contextlib import asynccontextmanager
from pathlib import Path

from registry_service.server import running
from registry_service.sqlite.store import SqliteStore
from stackmesh.announcer import Announcer
from stackmesh.config import parse
from stackmesh.reflector import Reflector, RegistrySource
from stackmesh.registry.v1 import announce_service_pb2, watch_service_pb2 as pb
from stackmesh.registry.v1.watch_service_pb2_grpc import WatchServiceStub
from stackmesh.routes import Api
from stackmesh.tasks import background
from stackmesh.transport import internal_channel
from tests.ports import free_port
from tests.waiting import until

ROOT = Path(__file__).parents[2]
LIMIT = 20.0


def write_config(folder, port, db="registry.db"):
    path = folder / f"{port}.yaml"
    path.write_text(f"version: 1\nregistry: {{address: '127.0.0.1:{port}', store: 'sqlite:///{folder}/{db}'}}\n")
    return path


@asynccontextmanager
async def process(config, *arguments):
    command = [sys.executable, "-m", "registry_service", "--config", str(config), *arguments]
    child = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
        await child.communicate()


async def refused(config, *arguments):
    """Exit code and message of a registry that does not start."""
    async with process(config, *arguments) as child:
        _, err = await asyncio.wait_for(child.communicate(), LIMIT)
        return child.returncode, err.decode().splitlines()[-1]


async def listening(child):
    async with asyncio.timeout(LIMIT):
        while b"listening on" not in await child.stderr.readline():
            pass


async def test_sigterm_ends_it_at_once_though_it_is_watched(tmp_path):
    port = free_port()
    async with process(write_config(tmp_path, port)) as child, internal_channel(f"127.0.0.1:{port}") as channel:
        await listening(child)
        watch = WatchServiceStub(channel).Watch(pb.WatchRequest(start_revision=1))
        async with asyncio.timeout(LIMIT):
            await watch.read()
            child.send_signal(signal.SIGTERM)
            assert await child.wait() == 0
        assert (await watch.code()).name == "UNAVAILABLE"


async def test_what_is_in_the_way_is_named(tmp_path):
    port = free_port()
    async with process(write_config(tmp_path, port)) as child:
        await listening(child)
        code, message = await refused(write_config(tmp_path, free_port()))
        assert code == 78
        assert f"registry.db is in use by another registry (pid {child.pid}); stop it" in message
        code, message = await refused(write_config(tmp_path, port, "other.db"))
        assert code == 78
        assert f"cannot listen on 127.0.0.1:{port}: the port is held by" in message
        assert f"(pid {child.pid})" in message


async def test_check_reads_the_configuration_and_touches_nothing(tmp_path):
    config = write_config(tmp_path, free_port())
    async with process(config, "--check") as child:
        assert await asyncio.wait_for(child.wait(), LIMIT) == 0
    assert [f.name for f in tmp_path.iterdir()] == [config.name]


class Copy:
    def __init__(self):
        self.entries = {}
        self.revisions = []
        self.lists = 0

    def replace(self, entries, revision):
        self.entries = {e.key: e for e in entries}
        self.revisions = [revision]
        self.lists += 1

    def apply(self, changes, revision):
        for change in changes:
            self.revisions.append(change.revision)
            if change.entry.WhichOneof("value"):
                self.entries[change.entry.key] = change.entry
            else:
                self.entries.pop(change.entry.key)


def reports():
    return [
        announce_service_pb2.ServedReport(
            api=Api.API_INFERENCE, provider_id="p", provider_type="inline::x", provider_resource_ids=["m"]
        )
    ]


async def test_reflector_and_announcer_outlive_a_restart(tmp_path):
    text = f"version: 1\nregistry: {{address: '127.0.0.1:{free_port()}', lease_ttl: 2.0}}"
    config = parse(text, {}, "test.yaml")
    copy = Copy()
    async with internal_channel(config.registry.address) as channel:
        announcer = Announcer(channel, "i", "127.0.0.1:1", reports)
        async with background(Reflector(RegistrySource(channel), copy).run(), "reflector"):
            async with background(announcer.run(), "announcer"):
                async with running(config, SqliteStore(tmp_path / "r.db")):
                    await until(lambda: {"instance/i", "provider/inference/p"} <= set(copy.entries), LIMIT)
                await until(lambda: not announcer.registered, LIMIT)
                async with running(config, SqliteStore(tmp_path / "r.db")) as listener:
                    await until(lambda: announcer.registered, LIMIT)
                    before = copy.entries["instance/i"].instance.lease_id
                    assert listener.address == config.registry.address
                    await announcer.leave()
                    await until(lambda: set(copy.entries) == {"provider/inference/p"}, LIMIT)
    assert before == 1
    assert copy.lists == 2  # the file may have been another one meanwhile
    assert list(dict.fromkeys(copy.revisions)) == list(range(copy.revisions[0], copy.revisions[-1] + 1))
