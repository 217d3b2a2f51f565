"""Clients that read and write a few keys at a given pace, and remember when each call began and ended, and how."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final, Protocol

import grpc

from registry_service.store import Delete, Put, Row, Store
from stackmesh.client import Client
from stackmesh.errors import Conflict, NotFound, ResourceExists, Unavailable
from stackmesh.reflector import RegistrySource
from stackmesh.registry.v1.watch_service_pb2 import Change
from tests.faults.history import UNKNOWN, Op, Version

CALL_SECONDS: Final = 12.0
"""That no call may outlast, or the run fails: longer than the deadlines of those who are called."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a read returned."""

    value: bytes | None
    revision: int


ABSENT = Found(None, 0)


class Register(Protocol):
    """Keys with values and revisions, as one client reaches them.

    All raise Unavailable for an unknown outcome; conditional writes Conflict.
    """

    async def read(self, key: str) -> Found: ...

    async def write(self, key: str, value: bytes, expected: int) -> int:
        """Only if the key is at this revision; 0: absent. Returns the new revision."""
        ...

    async def delete(self, key: str, expected: int) -> int:
        """Raises NotFound, too, when it is not there."""
        ...


class StoreRegister:
    """A Store's keys."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def read(self, key: str) -> Found:
        row = await self._store.get(key)
        return ABSENT if row is None else Found(row.value, row.revision)

    async def write(self, key: str, value: bytes, expected: int) -> int:
        return await self._store.commit([Put(key, value)], expect={key: expected})

    async def delete(self, key: str, expected: int) -> int:
        return await self._store.commit([Delete(key)], expect={key: expected})


class GatewayRegister:
    """Names of models, with a value in their metadata."""

    def __init__(self, client: Client) -> None:
        self._models = client.models

    async def read(self, key: str) -> Found:
        try:
            model = await self._models.get(key)
        except NotFound:
            return ABSENT
        return Found(str(model.metadata["value"]).encode(), model.revision)

    async def write(self, key: str, value: bytes, expected: int) -> int:
        metadata = {"value": value.decode()}
        if expected:
            return (await self._models.update(key, expected_revision=expected, metadata=metadata)).revision
        try:
            return (await self._models.register(key, provider_model_id="echo-0", metadata=metadata)).revision
        except ResourceExists as error:
            raise Conflict(error.message) from None

    async def delete(self, key: str, expected: int) -> int:
        return await self._models.unregister(key, expected_revision=expected)


async def store_log(store: Store, start: int) -> list[Version]:
    """What a watch tells of everything from `start` to now."""
    end = await store.revision()
    log: list[Version] = []
    if end < start:
        return log
    async with asyncio.timeout(30), aclosing(store.watch(start)) as commits:
        async for commit in commits:
            log.extend(Version(c.key, commit.revision, c.value if isinstance(c, Row) else None) for c in commit.changes)
            if commit.revision >= end:
                break
    return log


async def registry_changes(channel: grpc.aio.Channel, start: int) -> list[Change]:
    """What a watch of the registry tells of everything from `start` to now."""
    source = RegistrySource(channel)
    now = await source.list()
    changes: list[Change] = []
    async with asyncio.timeout(30), aclosing(source.watch(start, now.store_id)) as responses:
        async for response in responses:
            changes.extend(response.changes)
            if response.revision >= now.revision:
                break
    return changes


async def registry_log(channel: grpc.aio.Channel, start: int) -> list[Version]:
    """As `store_log`, of the registry's models."""
    log: list[Version] = []
    for change in await registry_changes(channel, start):
        kind, _, name = change.entry.key.partition("/")
        if kind == "model":
            there = change.entry.HasField("model")
            value = str(change.entry.model.metadata["value"]).encode() if there else None
            log.append(Version(name, change.revision, value))
    return log


@dataclass
class Workload:
    """Half of the calls read; the others write over what was last read, sometimes over what was read long ago."""

    keys: Sequence[str]
    history: list[Op] = field(default_factory=list[Op])
    slowest: float = 0.0
    """Seconds of the slowest call."""
    failed: int = 0
    """Calls that ended in Unavailable."""

    async def run(self, registers: Sequence[Register], rate: float, seconds: float) -> None:
        """All clients, each at its share of `rate` calls a second, which it catches up with after a pause."""
        async with asyncio.TaskGroup() as group:
            for number, register in enumerate(registers):
                group.create_task(self._client(number, register, len(registers) / rate, seconds))

    async def last_reads(self, register: Register) -> None:
        """Read every key once more, when everything is over."""
        for key in self.keys:
            await self._read(register, key)

    async def _client(self, number: int, register: Register, pause: float, seconds: float) -> None:
        chance = random.Random(number)  # noqa: S311 -- what is done shall be the same in every run
        known: dict[str, int] = {}
        began = time.monotonic()
        for turn in range(round(seconds / pause)):
            await asyncio.sleep(began + turn * pause - time.monotonic())
            if time.monotonic() > began + seconds:
                return
            key = chance.choice(self.keys)
            async with asyncio.timeout(CALL_SECONDS):
                if key not in known or chance.random() < 1 / 2:
                    found = await self._read(register, key)
                    if found is not None and (key not in known or chance.random() < 9 / 10):
                        known[key] = found.revision
                else:
                    value = None if known[key] and chance.random() < 1 / 4 else f"{number}.{turn}".encode()
                    known[key] = await self._write(register, key, value, known[key])

    async def _read(self, register: Register, key: str) -> Found | None:
        invoked = time.monotonic()
        try:
            found = await register.read(key)
        except Unavailable:
            self._failed(invoked)
            return None
        self._done(Op("read", key, found.value, found.revision, invoked, time.monotonic()))
        return found

    async def _write(self, register: Register, key: str, value: bytes | None, expected: int) -> int:
        invoked = time.monotonic()
        try:
            if value is None:
                revision = await register.delete(key, expected)
            else:
                revision = await register.write(key, value, expected)
        except Conflict:
            self._done(Op("refused", key, None, 0, invoked, time.monotonic(), expected))
        except NotFound:
            self._done(Op("read", key, None, 0, invoked, time.monotonic()))
        except Unavailable:
            self._failed(invoked)
            self.history.append(Op("write", key, value, 0, invoked, UNKNOWN, expected))
        else:
            self._done(Op("write", key, value, revision, invoked, time.monotonic(), expected))
            return revision if value is not None else 0
        return expected

    def _done(self, op: Op) -> None:
        self.history.append(op)
        self.slowest = max(self.slowest, op.returned - op.invoked)

    def _failed(self, invoked: float) -> None:
        self.failed += 1
        self.slowest = max(self.slowest, time.monotonic() - invoked)
