"""Instances that report at the same time, through different replicas."""

import pytest
from hypothesis import given, strategies as st

from registry_service import records
from registry_service.instances import reports
from registry_service.instances.draft import Draft
from registry_service.mirror.known import Known
from registry_service.mirror.source import StoreSource
from registry_service.sqlite.store import SqliteStore
from registry_service.store import Row
from stackmesh import limits
from stackmesh.errors import Conflict, InvalidField
from stackmesh.registry.v1 import announce_service_pb2, resources_pb2 as pb
from stackmesh.routes import Api
from stackmesh.serving import serves


@pytest.fixture
async def store(tmp_path):
    async with SqliteStore(tmp_path / "r.db") as store:
        yield store


def report(*names, provider_id="p"):
    return announce_service_pb2.ServedReport(
        api=Api.API_INFERENCE, provider_id=provider_id, provider_type="inline::x", provider_resource_ids=names
    )


def instance(instance_id):
    return pb.Instance(instance_id=instance_id, address="127.0.0.1:1")


async def read(store, kind=Draft):
    listed = await StoreSource(store).list()
    return kind(Known().after(listed.entries, listed.revision))


async def update(store, change):
    draft = await read(store)
    change(draft)
    return await draft.commit(store)


async def serving(store):
    """What each instance serves, as the records have it."""
    draft = await read(store)
    [provider] = draft.providers()
    return {
        i.instance_id: {n for n in provider.served if serves(provider, i, n)} for i in draft.hosts(provider.api, "p")
    }


async def a_newcomer_is_seen(store, kind=Draft, *, hosts_already=False):
    """While one instance reports a new name, another one begins to serve: neither may overlook the other."""
    await update(store, lambda draft: reports.write(draft, instance("i"), [report("a")]))
    if hosts_already:
        await update(store, lambda draft: reports.write(draft, instance("k"), [report()]))

    one, other = await read(store, kind), await read(store, kind)
    reports.write(other, other.instance("k") or instance("k"), [report("a")])
    await other.commit(store)
    reports.write(one, one.instance("i"), [report("a", "b")])
    try:
        await one.commit(store)
    except Conflict:
        await update(store, lambda draft: reports.write(draft, draft.instance("i"), [report("a", "b")]))
    assert await serving(store) == {"i": {"a", "b"}, "k": {"a"}}


async def test_a_newcomer_is_seen_by_a_report_at_the_same_time(store):
    await a_newcomer_is_seen(store)


async def test_who_served_nothing_is_seen_by_a_report_at_the_same_time(store):
    await a_newcomer_is_seen(store, hosts_already=True)


class Shortsighted(Draft):
    def put(self, record, *, always=False):
        super().put(record)


async def test_the_check_finds_a_newcomer_that_is_overlooked(store):
    with pytest.raises(AssertionError):
        await a_newcomer_is_seen(store, Shortsighted)


async def test_the_check_finds_one_that_served_nothing_and_is_overlooked(store):
    with pytest.raises(AssertionError):
        await a_newcomer_is_seen(store, Shortsighted, hosts_already=True)


@pytest.mark.parametrize("before", [[], [report()], [report("b")]])
async def test_whoever_begins_to_serve_a_name_moves_the_provider(store, before):
    """For who merges at the same time may be about to drop the name, in one of several commits."""
    await update(store, lambda draft: reports.write(draft, instance("i"), [report("a", "b")]))
    await update(store, lambda draft: reports.write(draft, instance("k"), before))
    row = (await read(store)).provider(Api.API_INFERENCE, "p")
    for said, moves in ((report("a", "b"), True), (report("a", "b"), False), (report("b"), False), (report(), False)):
        await update(store, lambda draft, said=said: reports.write(draft, draft.instance("k"), [said]))
        last, row = row, (await read(store)).provider(Api.API_INFERENCE, "p")
        assert (row.revision > last.revision) == moves


async def test_a_backend_that_many_share_goes_away_and_comes_back_in_few_bytes(store):
    names, hosts = [f"org/model-{n:04}" for n in range(500)], [f"i{n}" for n in range(12)]

    async def size():
        draft = await read(store)
        [provider] = draft.providers()
        return sum(row.ByteSize() for row in (provider, *draft.hosts(Api.API_INFERENCE, "p")))

    for host in hosts:
        await update(store, lambda draft, host=host: reports.write(draft, instance(host), [report(*names)]))
    well = await size()
    for said in ([], names):
        for host in hosts:
            await update(
                store, lambda draft, host=host, said=said: reports.write(draft, instance(host), [report(*said)])
            )
            assert await size() < 1.1 * well
    assert await serving(store) == {host: set(names) for host in hosts}


class Boundless(Draft):
    """The planted bug: whatever has changed is said to be one commit."""

    @property
    def fits(self):
        return True


async def every_step_is_right(store, kind=Draft):
    """A change of over 1 MiB is several commits, though few rows: at none does a host serve what it never did."""
    names = [f"{n:04}{'x' * 200}" for n in range(3000)]
    await update(store, lambda draft: reports.write(draft, instance("i"), [report(*names)]))
    await update(store, lambda draft: reports.write(draft, instance("k"), [report(names[0])]))
    start = await store.revision()
    draft = await read(store, kind)
    reports.write(draft, draft.instance("i"), [report(*names[:-1])])
    last = await draft.commit(store)
    for revision in range(start, last + 1):
        [provider], _ = await records.read(store, records.PROVIDERS, records.provider, revision)
        hosts, _ = await records.read(store, records.INSTANCES, records.instance, revision)
        assert {h.instance_id for h in hosts if serves(provider, h, names[-1])} <= {"i"}
    assert (await serving(store))["k"] == {names[0]}


async def test_every_step_of_a_merge_of_many_bytes_is_right(store):
    await every_step_is_right(store)


async def test_the_check_sees_exceptions_that_are_given_up_too_early(store):
    with pytest.raises(AssertionError, match="'k'"):
        await every_step_is_right(store, Boundless)


async def test_every_step_of_a_large_merge_is_right(store):
    """120 hosts do not fit into one commit: at no revision may a host seem to serve what it does not."""
    for n in range(120):
        await update(store, lambda draft, n=n: reports.write(draft, instance(f"i{n:03}"), [report("a")]))
    start = await store.revision()
    await update(store, lambda draft: reports.write(draft, draft.instance("i000"), [report("a", "b")]))
    last = await store.revision()
    assert last - start > 1
    for revision in range(start, last + 1):
        [provider], _ = await records.read(store, records.PROVIDERS, records.provider, revision)
        hosts, _ = await records.read(store, records.INSTANCES, records.instance, revision)
        assert {h.instance_id for h in hosts if serves(provider, h, "b")} <= {"i000"}
        assert all(serves(provider, h, "a") for h in hosts)
    assert (await serving(store))["i000"] == {"a", "b"}


@given(
    st.lists(
        st.tuples(st.sampled_from("ijkl"), st.frozensets(st.sampled_from("abcd")), st.booleans()),
        min_size=1,
        max_size=12,
    )
)
def test_reports_in_any_order_add_up_and_store_no_more_than_they_have_to(said):
    """Whatever is reported by whoever: everyone serves what they said last, and the provider lists just that."""
    known, last = Known(), {}
    for revision, (instance_id, names, newcomer) in enumerate(said, 1):
        draft = Draft(known)
        before = instance(instance_id) if newcomer else draft.instance(instance_id) or instance(instance_id)
        reports.write(draft, before, [report(*names)])
        last[instance_id] = names
        known = known.after(entries([*draft.hosts(Api.API_INFERENCE, "p"), *draft.providers()], revision), revision)
        [provider] = known.providers()
        assert {i: {n for n in provider.served if serves(provider, x, n)} for i, x in known.instances().items()} == last
        assert set(provider.served) == frozenset().union(*last.values())


def entries(rows, revision):
    return records.entries([Row(records.key_of(row), records.encode(row), revision) for row in rows])


async def hello(store, instance_id, port, *said, kind=Draft):
    """The revision, and the leases that end."""
    draft, lease = await read(store, kind), await store.grant(60)
    host = pb.Instance(instance_id=instance_id, address=f"127.0.0.1:{port}", lease_id=lease)
    ended = reports.take_over(draft, announce_service_pb2.Hello(instance_id=instance_id, address=host.address))
    reports.write(draft, host, said)
    return await draft.commit(store), lease, ended


async def one_stands_at_an_address(store, kind=Draft):
    """A process that gets the port of a dead one is alone there from its first revision on, whatever it hosts."""
    said = [report("a", provider_id=f"p{n}") for n in range(limits.PROVIDERS)]
    await hello(store, "other", 2, report("a"), kind=kind)
    _, lease, _ = await hello(store, "old", 1, *said, kind=kind)
    before = await store.revision()
    revision, _, ended = await hello(store, "new", 1, *said, kind=kind)
    hosts, _ = await records.read(store, records.INSTANCES, records.instance)
    assert [(host.instance_id, host.address) for host in hosts] == [("new", "127.0.0.1:1"), ("other", "127.0.0.1:2")]
    assert (revision, ended) == (before + 1, [lease])
    assert (await hello(store, "new", 1, *said, kind=kind))[2] == []


async def test_whoever_takes_over_an_address_stands_there_alone(store):
    await one_stands_at_an_address(store)


class Trusting(Draft):
    def at(self, address):
        return super().at(address)[:0]


async def test_the_check_finds_two_at_an_address(store):
    with pytest.raises(AssertionError):
        await one_stands_at_an_address(store, Trusting)


async def test_what_could_not_be_loaded_is_kept_within_limits(store):
    said = report("a")
    for n in range(120):
        said.failures.add(provider_resource_id=f"m{n}", reason="ä" * 200)
    await update(store, lambda draft: reports.write(draft, instance("i"), [said]))
    [entry] = (await read(store)).instance("i").providers
    assert [f.provider_resource_id for f in entry.failures] == [f"m{n}" for n in range(100)]
    assert {f.reason for f in entry.failures} == {"ä" * 148 + "..."}
    await update(store, lambda draft: reports.write(draft, draft.instance("i"), [report("a")]))
    assert not (await read(store)).instance("i").providers[0].failures


def test_a_failure_needs_a_name():
    said = report("a")
    said.failures.add(reason="x")
    with pytest.raises(InvalidField, match=r"failures\.provider_resource_id is empty"):
        reports.check_report(said)


class Counted(Draft):
    read = 0

    def hosts(self, api, provider_id):
        for host in super().hosts(api, provider_id):
            Counted.read += 1
            yield host


def hosts_read(newcomers):
    """How many other hosts are looked at while so many instances say hello with the same list."""
    known, Counted.read = Known(), 0
    for n in range(newcomers):
        draft = Counted(known)
        reports.write(draft, instance(f"i{n}"), [report("a", "b")])
        changed = [draft.instance(f"i{n}"), draft.provider(Api.API_INFERENCE, "p")]
        known = known.after(entries(changed, n + 1), n + 1)
    return Counted.read


def test_a_hello_costs_the_same_however_many_there_are():
    assert hosts_read(200) <= 2 * hosts_read(100) + 1
