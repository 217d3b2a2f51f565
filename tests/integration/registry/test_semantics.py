"""Any sequence of calls does what a dictionary would do. Hypothesis looks for one that does not."""

import asyncio
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from registry_service.sqlite.store import SqliteStore
from registry_service.store import Delete
from stackmesh.errors import AmbiguousProvider, Conflict, MeshError, NotHosted, ResourceExists, ResourceNotFound
from stackmesh.registry.v1 import resources_pb2 as pb
from tests.fakes.instance import FakeProvider
from tests.integration.registry.client import registry_on
from tests.integration.registry.kinds import ALL, payload, provider_id
from tests.scale import full

HOSTED = {"a": {"x": "ax", "x-alias": "ax", "both": "a-both"}, "b": {"y": "by", "both": "b-both"}}
NAMES = ["x", "y", "both", "nobody"]

kinds, names = st.sampled_from(ALL), st.sampled_from(NAMES)
providers = st.sampled_from(["", "a", "b"])
own_names = st.sampled_from(["", "x", "x-alias", "ax", "y", "both"])
payloads = st.sampled_from([None, 0, 1])
revisions = st.sampled_from(["right", "wrong"])


@dataclass(frozen=True)
class Row:
    """What the dictionary holds."""

    provider: str
    own_name: str
    payload: int | None
    revision: int
    asked: str = field(default="", compare=False)
    """What its provider was asked for."""


def resolve(provider, name):
    """Who hosts a name, and as what; or why nobody does."""
    found = [(p, names[name]) for p, names in HOSTED.items() if p in (provider or p) and name in names]
    if len(found) > 1:
        return AmbiguousProvider
    return found[0] if found else NotHosted


class Semantics(RuleBasedStateMachine):
    store_type: type[SqliteStore] = SqliteStore

    def __init__(self):
        super().__init__()
        self.rows: dict[Any, Row] = {}
        self.last = 0
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        folder = self.stack.enter_context(tempfile.TemporaryDirectory())
        self.registry = self.runner.run(self.start(Path(folder)))

    async def start(self, folder):
        registry = await self.stack.enter_async_context(registry_on(self.store_type(folder / "r.db"), lease_ttl=600))
        hosted = {
            provider_id(kind, p): FakeProvider(names, api=kind.api) for kind in ALL for p, names in HOSTED.items()
        }
        await self.stack.enter_async_context(registry.instance(hosted))
        return registry

    def teardown(self):
        self.runner.run(self.stack.aclose())
        self.runner.close()

    @rule(kind=kinds, name=names, provider=providers, own_name=own_names, held=payloads)
    def register(self, kind, name, provider, own_name, held):
        held = (held or 0) if kind.word == "memory_bank" else held
        before = self.rows.get((kind, name))
        resolved = resolve(provider, own_name or name)
        if before is None:
            wanted = resolved if isinstance(resolved, type) else Row(*resolved, held, 0, own_name or name)
        else:
            same_provider = provider in ("", before.provider)
            same_name = own_name in ("", before.own_name, before.asked) or (
                resolve(before.provider, own_name) == (before.provider, before.own_name)
            )
            same = same_provider and same_name and held in (None, before.payload)
            wanted = before if same else ResourceExists
        self.check(kind, name, wanted, "register", self.fields(kind, provider, own_name, held))

    @rule(kind=kinds, name=names, expected=revisions, change=st.tuples(providers, own_names, payloads))
    def update(self, kind, name, expected, change):
        provider, own_name, held = change
        before = self.rows.get((kind, name))
        revision = (before.revision if before else 1) + (expected == "wrong")
        if before is None:
            wanted = ResourceNotFound
        elif expected == "wrong":
            wanted = Conflict
        else:
            moved = provider not in ("", before.provider)
            asked = own_name or (name if moved else before.asked)
            row = replace(before, payload=before.payload if held is None else held)
            there = (before.provider, before.own_name)
            params = kind.payload == "params" and row != before
            if asked == before.own_name and not moved and not params:
                resolved = there
            elif moved or asked != before.asked or params:
                resolved = resolve(provider or before.provider, asked)
            else:
                resolved = there
            if isinstance(resolved, type):
                wanted = resolved
            else:
                asked = before.asked if resolved == there else asked
                wanted = replace(row, provider=resolved[0], own_name=resolved[1], asked=asked)
        fields = {"expected_revision": revision, **self.fields(kind, provider, own_name, held)}
        self.check(kind, name, wanted, "update", fields)

    @rule(kind=kinds, name=names, expected=st.sampled_from(["any", "right", "wrong"]))
    def unregister(self, kind, name, expected):
        before = self.rows.get((kind, name))
        revision = 0 if expected == "any" else (before.revision if before else 1) + (expected == "wrong")
        fields = {"expected_revision": revision}
        if before is None or expected == "wrong":
            self.check(kind, name, Conflict if before else ResourceNotFound, "unregister", fields)
        else:
            gone = self.runner.run(self.registry.all[kind].unregister(name, **fields))
            assert gone > self.last
            self.last = gone
            del self.rows[kind, name]

    @rule(kind=kinds, name=names)
    def get(self, kind, name):
        self.check(kind, name, self.rows.get((kind, name), ResourceNotFound), "get", {})

    @rule()
    def the_lists_are_the_dictionary(self):
        for kind in ALL:
            page = self.runner.run(self.registry.all[kind].list())
            rows = {row.identifier: self.seen(kind, row) for row in getattr(page, kind.plural)}
            assert rows == {name: row for (which, name), row in self.rows.items() if which is kind}

    def check(self, kind, name, wanted, verb, fields):
        """The call gives the row that is wanted (a new revision if it is another than before), or that error."""
        before = self.rows.get((kind, name))
        try:
            row = self.runner.run(getattr(self.registry.all[kind], verb)(name, **fields))
        except MeshError as error:
            row = type(error)
        if isinstance(wanted, type) or isinstance(row, type):
            assert row == wanted
            return
        assert (row.source, row.identifier) == (pb.SOURCE_USER, name)
        if wanted != before:
            assert row.revision > self.last
            self.last = row.revision
            wanted = replace(wanted, revision=row.revision)
        assert self.seen(kind, row) == wanted
        self.rows[kind, name] = wanted

    def fields(self, kind, provider, own_name, held):
        """The fields of a request, without those that are absent."""
        given = payload(kind, held) if held is not None else {}
        if provider:
            given["provider_id"] = provider_id(kind, provider)
        if own_name:
            given[f"provider_{kind.word}_id"] = own_name
        return given

    def seen(self, kind, row):
        held = getattr(row, kind.payload)
        if kind.word == "memory_bank":
            number = ["key_value", "keyword", "graph"].index(held.WhichOneof("kind"))
        else:
            number = int(held["number"]) if held.fields else None
        return Row(row.provider_id[-1], row.provider_resource_id, number, row.revision)


def look_for_trouble(machine, examples, *, control=False):
    """A control goes the same way each time: it may not depend on luck."""
    options = settings(
        max_examples=examples,
        derandomize=control,
        phases=[Phase.generate, *([] if control else [Phase.shrink])],
        stateful_step_count=30,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(machine, settings=options)


@pytest.mark.timeout(600)
def test_any_sequence_of_calls_does_what_a_dictionary_does():
    look_for_trouble(Semantics, full(150))


def test_the_check_finds_a_store_that_forgets_to_delete():
    class Forgetful(SqliteStore):
        async def commit(self, ops, *, expect=None):
            if isinstance(ops[0], Delete):
                return await self.revision()
            return await super().commit(ops, expect=expect)

    class Broken(Semantics):
        store_type = Forgetful

    with pytest.raises(AssertionError):
        look_for_trouble(Broken, 200, control=True)
