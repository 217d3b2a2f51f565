"""Rows that follow what providers serve."""

import asyncio
import logging
from contextlib import asynccontextmanager

import pytest

from registry_service import records
from registry_service.declared import providers as declared_providers
from registry_service.declared.discovered import Discovered
from registry_service.instances import reports
from registry_service.sqlite.store import SqliteStore
from registry_service.store import COMMIT_LIMIT, Put
from stackmesh.config import parse
from stackmesh.errors import Conflict
from stackmesh.registry.v1 import announce_service_pb2, resources_pb2 as pb
from stackmesh.resources import KINDS
from stackmesh.routes import Api, ResourceType
from stackmesh.serving import judge
from stackmesh.tasks import background
from tests.fakes.registry_parts import Rewriting, drafting
from tests.waiting import until

MODEL = KINDS[ResourceType.RESOURCE_TYPE_MODEL]
SHIELD = KINDS[ResourceType.RESOURCE_TYPE_SHIELD]
LIMIT = 20.0


def config(*providers, models=()):
    """`providers` are ids; one that begins with ! is not registered by itself."""
    lines = ["version: 1", "providers:", "  inference:"]
    for p in providers:
        auto = str(not p.startswith("!")).lower()
        lines.append(f"  - {{provider_id: {p.lstrip('!')}, provider_type: 'inline::x', auto_register: {auto}}}")
    lines += ["models:", *(f"- {{model_id: {m}}}" for m in models)] if models else []
    return parse("\n".join(lines), {}, "test.yaml")


class Mesh:
    """A registry's parts, and what instances say to it."""

    def __init__(self, store, mirror, drafts, kind):
        self.store, self.mirror, self.drafts, self.kind = store, mirror, drafts, kind

    async def configure(self, *providers, models=()):
        self.config = config(*providers, models=models)
        await self.drafts.update(lambda draft: declared_providers.place(draft, self.config))

    async def serve(self, instance_id, provider_id, *names, api=Api.API_INFERENCE):
        said = announce_service_pb2.ServedReport(
            api=api, provider_id=provider_id, provider_type="inline::x", provider_resource_ids=names
        )
        instance = pb.Instance(instance_id=instance_id, address="127.0.0.1:1")
        await self.drafts.update(lambda draft: reports.write(draft, draft.instance(instance_id) or instance, [said]))

    async def follow(self):
        await self.kind(self.config, self.store, self.mirror).follow(await self.mirror.current())
        return await self.rows()

    async def rows(self, kind=MODEL):
        """Who has each name."""
        found = (await self.mirror.current()).resources(kind)
        return {name: (row.provider_id, pb.Source.Name(row.source)[7:].lower()) for name, row in found.items()}

    async def row(self, name):
        return (await self.mirror.current()).resource(MODEL, name)

    async def state(self, name):
        known, row = await self.mirror.current(), await self.row(name)
        hosts = known.hosts(Api.API_INFERENCE, row.provider_id).values()
        return judge(row, known.provider(Api.API_INFERENCE, row.provider_id), hosts)[0]


@asynccontextmanager
async def running_mesh(store, kind=Discovered):
    async with asyncio.timeout(LIMIT), drafting(store) as (mirror, drafts):
        yield Mesh(store, mirror, drafts, kind)


@pytest.fixture
async def store(tmp_path):
    async with SqliteStore(tmp_path / "r.db") as store:
        yield store


@pytest.fixture
async def mesh(store):
    async with running_mesh(store) as mesh:
        yield mesh


async def test_what_is_served_is_registered_under_its_own_name(mesh):
    await mesh.configure("p", "!q")
    await mesh.serve("i", "p", "a", "b/c:1")
    await mesh.serve("i", "q", "not-asked-for")
    await mesh.serve("i", "stranger", "nor-this")
    assert await mesh.follow() == {"a": ("p", "discovered"), "b/c:1": ("p", "discovered")}
    row = await mesh.row("b/c:1")
    assert (row.provider_resource_id, row.created_at == row.updated_at, row.created_at.seconds > 0) == (
        "b/c:1",
        True,
        True,
    )
    assert await mesh.state("a") == pb.SERVING_STATE_SERVING


async def test_only_what_somebody_serves_now_is_registered(mesh):
    await mesh.configure("p")
    await mesh.serve("i", "p", "a")
    lease = await mesh.store.grant(60)
    gone = pb.Instance(instance_id="j", address="127.0.0.1:1", lease_id=lease)
    said = announce_service_pb2.ServedReport(
        api=Api.API_INFERENCE,
        provider_id="p",
        provider_type="inline::x",
        provider_resource_ids=["a", "b", "stackmesh/x"],
    )
    await mesh.drafts.update(lambda draft: reports.write(draft, gone, [said]))
    await mesh.store.revoke(lease)
    assert list((await mesh.mirror.current()).provider(Api.API_INFERENCE, "p").served) == ["a", "b", "stackmesh/x"]
    assert await mesh.follow() == {"a": ("p", "discovered")}


async def test_names_of_the_mesh_itself_are_not_taken(mesh):
    await mesh.configure("p")
    await mesh.serve("i", "p", "stackmesh/x", "x")
    assert set(await mesh.follow()) == {"x"}


async def test_rows_of_users_and_of_the_yaml_are_left_alone(mesh):
    await mesh.configure("p", models=["declared", "pending"])
    mine = [
        pb.Model(identifier="mine", provider_id="other", source=pb.SOURCE_USER),
        pb.Model(identifier="declared", provider_id="other", source=pb.SOURCE_CONFIG),
    ]
    revision = await mesh.store.commit([Put(records.key_of(m), records.encode(m)) for m in mine])
    await mesh.serve("i", "p", "mine", "declared", "pending", "free")
    rows = await mesh.follow()
    assert rows == {"mine": ("other", "user"), "declared": ("other", "config"), "free": ("p", "discovered")}
    assert (await mesh.row("mine")).revision == (await mesh.row("declared")).revision == revision


async def test_what_is_not_served_any_more_keeps_its_row(mesh):
    await mesh.configure("p")
    await mesh.serve("i", "p", "a", "b")
    await mesh.follow()
    before = await mesh.row("a")
    await mesh.serve("i", "p", "b")
    await mesh.follow()
    assert await mesh.row("a") == before
    assert await mesh.state("a") == pb.SERVING_STATE_NOT_SERVING
    await mesh.serve("i", "p", "a", "b")
    await mesh.follow()
    assert await mesh.row("a") == before
    assert await mesh.state("a") == pb.SERVING_STATE_SERVING


async def test_what_nobody_serves_who_is_left_is_not_registered(mesh):
    await mesh.configure("p")
    await mesh.serve("i", "p", "a")
    await mesh.serve("j", "p")
    await mesh.drafts.update(lambda draft: draft.delete(draft.instance("i")))
    assert await mesh.follow() == {}
    await mesh.serve("k", "p", "a")
    assert await mesh.follow() == {"a": ("p", "discovered")}


@pytest.mark.parametrize("now", [["!p"], ["other"]])
async def test_rows_go_when_they_are_no_longer_wanted(mesh, now):
    await mesh.configure("p")
    await mesh.serve("i", "p", "a", "b")
    user = pb.Model(identifier="u", provider_id="p", source=pb.SOURCE_USER)
    await mesh.store.commit([Put("model/u", records.encode(user))])
    await mesh.follow()
    await mesh.configure(*now)
    assert await mesh.follow() == {"u": ("p", "user")}


async def test_the_first_of_the_yaml_has_a_name_that_two_serve(mesh, caplog):
    caplog.set_level(logging.INFO)
    await mesh.configure("p", "q")
    await mesh.serve("i", "q", "a")
    assert await mesh.follow() == {"a": ("q", "discovered")}
    created = (await mesh.row("a")).created_at
    await mesh.serve("i", "p", "a")
    discovered = mesh.kind(mesh.config, mesh.store, mesh.mirror)
    for _ in range(3):
        await discovered.follow(await mesh.mirror.current())
    assert await mesh.rows() == {"a": ("p", "discovered")}
    assert (await mesh.row("a")).created_at == created
    told = [r.message for r in caplog.records if "serves it too" in r.message]
    assert told == ["the model a is registered with p, though q serves it too"]
    await mesh.configure("!p", "q")
    assert await mesh.follow() == {"a": ("q", "discovered")}


async def a_name_is_with_who_serves_it_now(store, kind=Discovered):
    """It goes from one provider to the next and back, each time as one write that nobody sees it absent at."""
    async with running_mesh(store, kind) as mesh:
        await mesh.configure("p", "q", "r")
        for provider_id in ("p", "q", "r"):
            await mesh.serve(f"on-{provider_id}", provider_id, "a")
        await mesh.follow()
        before, start = await mesh.row("a"), await store.revision()
        assert before.provider_id == "p"
        for changed, names, owner in (
            ("p", [], "q"),
            ("q", [], "r"),
            ("r", [], "r"),  # nobody serves it: it stays
            ("q", ["a"], "q"),
            ("p", ["a"], "p"),
            ("q", [], "p"),
        ):
            await mesh.serve(f"on-{changed}", changed, *names)
            revision, was = await store.revision(), (await mesh.row("a")).provider_id
            await mesh.follow()
            assert (await mesh.row("a")).provider_id == owner
            assert await store.revision() == revision + (owner != was)
        assert (await mesh.row("a")).created_at == before.created_at
        assert await mesh.state("a") == pb.SERVING_STATE_SERVING
        seen = [await records.read(store, "model/", records.resource, r) for r in range(start, await store.revision())]
        assert all(len(rows) == 1 for rows, _ in seen)


async def test_a_name_is_with_who_serves_it_now(store):
    await a_name_is_with_who_serves_it_now(store)


class Loyal(Discovered):
    """Keeps a name where it is as long as its provider is there, whether it serves it or not."""

    async def follow(self, known):
        if not known.resources(MODEL):
            await super().follow(known)


async def test_the_check_finds_a_name_that_stays_with_who_does_not_serve_it(store):
    with pytest.raises(AssertionError):
        await a_name_is_with_who_serves_it_now(store, Loyal)


async def test_the_check_finds_a_name_that_is_taken_away_first(store):
    with pytest.raises(AssertionError):
        await a_name_is_with_who_serves_it_now(store, Rewriting)


async def test_shields_are_discovered_and_memory_banks_are_not(mesh):
    text = "version: 1\nproviders:\n"
    for api in ("safety", "memory"):
        text += f"  {api}: [{{provider_id: p, provider_type: 'inline::x', auto_register: true}}]\n"
    mesh.config = parse(text, {}, "test.yaml")
    await mesh.drafts.update(lambda draft: declared_providers.place(draft, mesh.config))
    await mesh.serve("i", "p", "guard", api=Api.API_SAFETY)
    await mesh.serve("i", "p", "bank", api=Api.API_MEMORY)
    await mesh.follow()
    assert await mesh.rows(SHIELD) == {"guard": ("p", "discovered")}
    assert await mesh.rows(KINDS[ResourceType.RESOURCE_TYPE_MEMORY_BANK]) == {}


# A thousand models


NAMES = [f"m{n:04}" for n in range(1000)]


async def test_what_is_new_is_written_in_batches(tmp_path):
    sizes = []

    class Measured(SqliteStore):
        async def commit(self, ops, *, expect=None):
            sizes.append(len(ops))
            return await super().commit(ops, expect=expect)

    async with Measured(tmp_path / "r.db") as store, running_mesh(store) as mesh:
        await mesh.configure("p")
        await mesh.serve("i", "p", *NAMES)
        sizes.clear()
        assert set(await mesh.follow()) == set(NAMES)
        assert sizes == [COMMIT_LIMIT] * 20
        await mesh.serve("i", "p", *NAMES, "one-more")
        sizes.clear()
        await mesh.follow()
        assert sizes == [1]


# The loop


async def test_it_follows_by_itself_and_outlives_failures(tmp_path):
    failures = [Conflict("somebody was faster"), RuntimeError("a bug")]

    class Flaky(SqliteStore):
        async def commit(self, ops, *, expect=None):
            if any(op.key.startswith("model/") for op in ops) and failures:
                raise failures.pop()
            return await super().commit(ops, expect=expect)

    async with Flaky(tmp_path / "r.db") as store, running_mesh(store) as mesh:
        await mesh.configure("p")
        async with background(mesh.kind(mesh.config, store, mesh.mirror).run(), "discovered"):
            await mesh.serve("i", "p", "a")
            await until(lambda: "model/a" in {records.key_of(r) for r in mesh.mirror.known.resources(MODEL).values()})
            await mesh.serve("i", "p", "a", "b")
            await until(lambda: len(mesh.mirror.known.resources(MODEL)) == 2)
    assert failures == []


async def test_replicas_at_once_agree(store):
    async with running_mesh(store) as one, running_mesh(store) as two:
        for mesh in (one, two):
            await mesh.configure("p")
        await one.serve("i", "p", *NAMES[:200])
        followers = [mesh.kind(mesh.config, store, mesh.mirror).run() for mesh in (one, two)]
        async with background(followers[0], "one"), background(followers[1], "two"):
            await until(lambda: len(one.mirror.known.resources(MODEL)) == 200)
        rows = await one.rows()
        revision = await store.revision()
        assert await one.follow() == await two.follow() == rows
        assert await store.revision() == revision
