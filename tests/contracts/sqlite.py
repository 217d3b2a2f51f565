"""SQLite's stores, for the contract: a file, and a clock for its leases."""

import asyncio

from registry_service.sqlite.store import SqliteStore


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


class SqliteStores:
    second = 1.0

    def __init__(self, folder):
        self.path = folder / "deep" / "registry.db"
        self.clock = Clock()

    def open(self):
        return SqliteStore(self.path, clock=self.clock, checkpoint_seconds=0.02, sweep_seconds=0.01)

    async def pass_time(self, seconds):
        self.clock.now += seconds
        await asyncio.sleep(0)

    async def away(self, seconds):
        self.clock.now += seconds
