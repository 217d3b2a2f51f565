"""All types of resources, with something each may hold."""

from contextlib import asynccontextmanager
from typing import Any

from stackmesh.resources import KINDS
from tests.fakes.instance import FakeProvider
from tests.integration.registry.client import MEMORY_BANK, MODEL

ALL = list(KINDS.values())
IDS = [kind.word for kind in ALL]
NAMES = {"mine": "real", "real": "real", "alias": "real", "other": "second"}

VECTOR = {"vector": {"embedding_model": "embedder", "chunk_size_in_tokens": 512}}


def payload(kind, number=0) -> dict[str, Any]:
    """The fields that hold something valid, different for each number."""
    if kind is MEMORY_BANK:
        return {"params": {["key_value", "keyword", "graph"][number]: {}}}
    return {kind.payload: {"number": number}}


def providers(*ids, aliases=NAMES):
    """A provider of each API under each id; for an instance each id has to be there once."""
    return {f"{kind.word}-{i}".replace("_", "-"): FakeProvider(aliases, api=kind.api) for kind in ALL for i in ids}


def provider_id(kind, i):
    return f"{kind.word}-{i}".replace("_", "-")


@asynccontextmanager
async def embedder(registry):
    """A registered embedding model."""
    async with registry.instance({"embeddings": FakeProvider({"embedder": "embedder"}, api=MODEL.api)}):
        await registry.register("embedder", provider_id="embeddings")
        yield
