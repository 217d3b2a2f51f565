"""A registry's store filled with as much as a benchmark wants, in batches, past the registry."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from benchmarks import crowd
from benchmarks.backend import MODEL, PROVIDER_TYPE
from registry_service import records, stores
from registry_service.store import COMMIT_LIMIT, Op, Put
from stackmesh.registry.v1 import resources_pb2 as pb
from stackmesh.routes import Api

INSTANCES_PER_PROVIDER: Final = 10
_LEASE_SECONDS: Final = 7200.0
"""Longer than any benchmark: nobody beats for a crowd."""


@dataclass(frozen=True, slots=True)
class Size:
    """What a registry holds."""

    models: int
    """One of them is `bench`, of the first provider."""
    providers: int
    """Each on ten instances; the models are dealt out to them."""

    @property
    def instances(self) -> int:
        return self.providers * INSTANCES_PER_PROVIDER


def provider_id(number: int) -> str:
    return f"bench-{number}"


def model_id(number: int) -> str:
    """The first model of a provider has the number of the provider."""
    return MODEL if number == 0 else f"team-{number % 97}/model-{number:05}-instruct"


async def seed(store_url: str, size: Size, port: int) -> None:
    """Write everything. The crowd listens at `port`."""
    async with stores.open_store(store_url) as store:
        lease = await store.grant(_LEASE_SECONDS)
        ops = list(_ops(size, port, lease))
        for start in range(0, len(ops), COMMIT_LIMIT):
            await store.commit(ops[start : start + COMMIT_LIMIT])


def _ops(size: Size, port: int, lease: int) -> Iterator[Op]:
    for number in range(size.providers):
        yield _put(
            pb.Provider(
                api=Api.API_INFERENCE,
                provider_id=provider_id(number),
                provider_type=PROVIDER_TYPE,
                position=number,
                served=[MODEL],
                source=pb.SOURCE_CONFIG,
            )
        )
    for number in range(size.instances):
        hosted = pb.HostedProvider(api=Api.API_INFERENCE, provider_id=provider_id(number % size.providers))
        instance = pb.Instance(
            instance_id=f"crowd-{number}", address=crowd.address(number, port), providers=[hosted], lease_id=lease
        )
        yield _put(instance, lease)
    for number in range(size.models):
        model = pb.Model(
            identifier=model_id(number),
            provider_id=provider_id(number % size.providers),
            provider_resource_id=MODEL,
            source=pb.SOURCE_USER,
        )
        model.metadata["family"] = "llama"
        model.metadata["context"] = 131072
        model.created_at.GetCurrentTime()
        model.updated_at.CopyFrom(model.created_at)
        yield _put(model)


def _put(record: records.Record, lease: int = 0) -> Op:
    return Put(records.key_of(record), records.encode(record), lease)
