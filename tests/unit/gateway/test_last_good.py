"""The last good snapshot outlives its process, whole or not at all, without what must not be in a file."""

from __future__ import annotations

import asyncio
import logging
import os
import stat
import sys
import threading
import time

import pytest

from gateway.last_good import LastGood
from gateway.snapshot import Snapshot, SnapshotView
from stackmesh.registry.v1 import watch_service_pb2 as pb
from tests.unit.gateway.known import changes, instance, model, provider
from tests.waiting import until

HOME = "127.0.0.1:8322"
MESH = (model("m"), provider("p", "m"), instance("i", "p"))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "new" / "gateway.snapshot"


def told(*entries) -> SnapshotView:
    view = SnapshotView()
    view.replace(entries, 7, "one")
    return view


class Heard:
    """A reflector as far as it matters: when it heard the registry last."""

    stale = False

    def __init__(self, at: float | None = None) -> None:
        self.at = at or time.time()

    @property
    def age(self) -> float:
        return time.time() - self.at


async def keep(path, view: SnapshotView, heard: Heard | None = None) -> None:
    async with LastGood(path, HOME).kept(view, heard or Heard()):
        pass


def loaded(path) -> Snapshot | None:
    view = SnapshotView()
    LastGood(path, HOME).load(view)
    return view.snapshot


async def test_what_was_kept_is_what_is_loaded(path):
    view = told(*MESH)
    await keep(path, view, Heard(1000.5))
    found = loaded(path)
    assert (found.revision, found.store_id, found.saved_at) == (7, "one", 1000.5)
    assert found.providers == view.snapshot.providers
    assert found.by_type == view.snapshot.by_type
    assert found.by_provider == view.snapshot.by_provider


async def test_it_has_no_secrets_and_is_its_owners_alone(path):
    entry = model("m")
    entry.model.metadata.update({"key": "sk-of-alice"})
    await keep(path, told(entry))
    assert b"sk-of-alice" not in path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(path.parent.iterdir()) == [path]


async def test_it_is_written_while_the_gateway_runs_and_not_too_often(path):
    view = told(*MESH)
    async with LastGood(path, HOME, every=0.05).kept(view, Heard()):
        await until(path.exists)
        first = path.stat().st_mtime_ns
        for number in range(100):
            view.apply(changes(model(f"m{number}")), 8 + number)
        await until(lambda: path.stat().st_mtime_ns != first)
        assert loaded(path).revision == 107


async def test_what_changes_no_route_is_not_written(path):
    view = told(*MESH)
    writes = Counting(path, HOME)
    async with writes.kept(view, Heard()):
        await until(lambda: writes.count == 1)
        view.apply(changes(*MESH), 9)
        view.step(view.snapshot.after([], 10))
    assert writes.count == 1


class Counting(LastGood):
    count = 0

    def _write(self, snapshot, heard, turn):
        super()._write(snapshot, heard, turn)
        self.count += 1


async def test_a_snapshot_of_a_file_is_not_written_back(path):
    await keep(path, told(*MESH))
    before = path.stat().st_mtime_ns
    view = SnapshotView()
    file = LastGood(path, HOME)
    file.load(view)
    async with file.kept(view, Heard()):
        await asyncio.sleep(0)
    assert path.stat().st_mtime_ns == before


def damaged(raw: bytes) -> list[bytes]:
    flipped = bytearray(raw)
    flipped[-5] ^= 1
    return [
        b"",
        raw.replace(HOME.encode(), b"127.0.0.1:8323"),
        raw[:10],
        raw.replace(b" 1000.500 ", b" 2000.500 "),
        raw[:-1],
        raw[: len(raw) // 2],
        bytes(flipped),
        raw.replace(b"snapshot 3", b"snapshot 2"),
    ]


async def test_what_cannot_be_read_is_left_out_with_a_warning(path, caplog):
    await keep(path, told(*MESH), Heard(1000.5))
    for raw in damaged(path.read_bytes()):
        path.write_bytes(raw)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert loaded(path) is None
        assert "is left out" in caplog.text
    path.unlink()
    path.mkdir()
    assert loaded(path) is None


async def test_control_without_the_checksum_half_a_mesh_would_be_loaded(path):
    await keep(path, told(*MESH, model("n")))
    page = pb.ListEntriesResponse.FromString(path.read_bytes().partition(b"\n")[2])
    whole = page.SerializeToString()
    cut = whole[: whole.index(b"model/n") - 4]  # at the end of an entry, as a full disk may leave it
    assert len(pb.ListEntriesResponse.FromString(cut).entries) == 3
    path.write_bytes(path.read_bytes().partition(b"\n")[0] + b"\n" + cut)
    assert loaded(path) is None


async def test_a_file_of_another_mesh_is_left_out_with_a_warning(path, caplog):
    async with LastGood(path, "10.0.0.9:8322").kept(told(*MESH), Heard()):
        pass
    assert loaded(path) is None
    assert "it is of the mesh whose registry is at 10.0.0.9:8322" in caplog.text


async def test_control_the_same_file_is_loaded_where_it_belongs(path):
    async with LastGood(path, "10.0.0.9:8322").kept(told(*MESH), Heard()):
        pass
    view = SnapshotView()
    LastGood(path, "10.0.0.9:8322").load(view)
    assert view.snapshot is not None


@pytest.mark.parametrize(
    ("make", "kind"), [(os.mkfifo, stat.S_ISFIFO), (os.mkdir, stat.S_ISDIR)], ids=["pipe", "folder"]
)
async def test_what_is_no_file_is_neither_read_nor_written(tmp_path, make, kind, caplog):
    path = tmp_path / "gateway.snapshot"
    make(path)
    assert await asyncio.wait_for(asyncio.to_thread(loaded, path), 5) is None
    assert "is left out" in caplog.text
    await keep(path, told(*MESH))
    assert "cannot be kept" in caplog.text
    assert kind(path.stat().st_mode)
    assert list(tmp_path.iterdir()) == [path]


async def test_control_who_opens_a_pipe_as_a_file_waits(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    opening = asyncio.create_task(asyncio.to_thread(path.open, "rb"))
    await asyncio.wait([opening], timeout=0.2)
    assert not opening.done()
    with path.open("r+b", buffering=0):
        (await opening).close()


FULL_DISK = """
import asyncio, resource, sys
from pathlib import Path
from tests.unit.gateway.test_last_good import MESH, keep, told
resource.setrlimit(resource.RLIMIT_FSIZE, (16, 16))
asyncio.run(keep(Path(sys.argv[1]), told(*MESH)))
"""


async def test_a_write_that_fails_leaves_nothing_behind(tmp_path):
    """In a process of its own, whose files cannot be longer than the snapshot's first line."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", FULL_DISK, str(tmp_path / "gateway.snapshot"), stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate()
    assert process.returncode == 0
    assert b"cannot be kept" in said
    assert list(tmp_path.iterdir()) == []


def test_no_file_is_no_warning(path, caplog):
    assert loaded(path) is None
    assert not caplog.records


async def test_a_place_that_cannot_be_written_to_harms_nobody(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    await keep(tmp_path / "file" / "snapshot", told(*MESH))
    assert "cannot be kept" in caplog.text


async def test_what_could_not_be_written_is_tried_again_and_told_once(tmp_path, caplog):
    place = tmp_path / "folder"
    place.write_text("")  # what is no folder holds no file
    path = place / "gateway.snapshot"
    tries = Failing(path, HOME, every=0.01)
    async with tries.kept(told(*MESH), Heard()):
        await until(lambda: tries.failed >= 3)
        place.unlink()
        await until(path.exists, 5)
    assert loaded(path).revision == 7
    assert caplog.text.count("cannot be kept") == 1


class Failing(LastGood):
    failed = 0

    def _write(self, snapshot, heard, turn):
        try:
            super()._write(snapshot, heard, turn)
        except OSError:
            self.failed += 1
            raise


async def check_how_old_it_is(path, within: float = 5, **options) -> None:
    """A quiet day: nothing changes, but the registry is heard, and so what was written is still true."""
    heard = Heard(1000.0)
    async with LastGood(path, HOME, every=0.01, **options).kept(told(*MESH), heard):
        await until(path.exists)
        heard.at += 86_400
        await until(lambda: loaded(path).saved_at == 87_400.0, within)
        heard.at += 2
    assert loaded(path).saved_at == 87_402.0


async def test_what_does_not_change_is_written_again_for_it_is_still_true(path):
    await check_how_old_it_is(path, again=0.01)


async def test_control_what_is_written_but_once_is_noticed(path):
    with pytest.raises(TimeoutError):
        await check_how_old_it_is(path, 0.3)


async def test_what_killed_processes_left_is_removed(tmp_path):
    left, others = tmp_path / "gateway.snapshot.4711.tmp", tmp_path / "other.snapshot.4711.tmp"
    for path in (left, others):
        path.write_bytes(b"half of it")
    assert loaded(tmp_path / "gateway.snapshot") is None
    assert list(tmp_path.iterdir()) == [others]


async def overtaken(path, kind: type[LastGood]) -> int:
    """The revision in the file when a write that was given up ends only after the last one."""
    view, file = told(*MESH), kind(path, HOME)
    async with file.kept(view, Heard()):
        await until(file.held.is_set)
        view.apply(changes(model("late")), 8)
    file.go_on.set()
    await until(file.ended.is_set)
    return loaded(path).revision


class Held(LastGood):
    """Its first write waits outside."""

    def __init__(self, *args) -> None:
        super().__init__(*args)
        self.held, self.go_on, self.ended = (threading.Event() for _ in range(3))

    def _write(self, snapshot, heard, turn):
        first = not self.held.is_set()
        if first:
            self.held.set()
            self.go_on.wait(10)
        super()._write(snapshot, heard, turn)
        if first:
            self.ended.set()


class Careless(Held):
    """The planted bug: the last to write is taken for the latest."""

    def _write(self, snapshot, heard, turn):
        super()._write(snapshot, heard, 10)


async def test_a_write_that_was_overtaken_is_not_made(path):
    assert await overtaken(path, Held) == 8


async def test_control_an_older_write_that_ends_last_is_noticed(path):
    assert await overtaken(path, Careless) == 7
