"""How long a list of models is good for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from services.inference.lookup import ModelLookup
from services.inference.remote.listing import Listing


class Asked:
    """A backend that lists how often it was asked."""

    def __init__(self) -> None:
        self.times = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, key: str | None) -> Sequence[str]:
        self.times += 1
        found = [f"model-{self.times}"]
        await self.gate.wait()
        return found


async def test_a_list_is_good_until_it_is_forgotten() -> None:
    listing = Listing(Asked(), ModelLookup(()), "it")
    assert [await listing.names(None), await listing.names(None)] == [["model-1"]] * 2
    listing.forget()
    assert [await listing.names(None), await listing.names(None)] == [["model-2"]] * 2


async def test_what_was_being_asked_for_when_it_changed_is_no_news() -> None:
    asked = Asked()
    listing = Listing(asked, ModelLookup(()), "it")
    asked.gate.clear()
    old = asyncio.create_task(listing.names(None))
    await asyncio.sleep(0)  # it has been asked
    assert asked.times == 1
    listing.forget()
    asked.gate.set()
    assert await old == ["model-1"]
    assert await listing.names(None) == ["model-2"]
