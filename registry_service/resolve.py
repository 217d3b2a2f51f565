"""Which provider a name belongs to: the providers have the last word, and are asked on their live instances."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import grpc
from google.protobuf.struct_pb2 import Struct

from registry_service import records
from registry_service.store import Store
from stackmesh import names
from stackmesh.errors import (
    AmbiguousProvider,
    BackendUnreachable,
    MeshError,
    NoInstance,
    NotHosted,
    ProviderNotFound,
    Timeout,
    Unavailable,
    from_rpc_error,
)
from stackmesh.nearest import hint
from stackmesh.provider.v1 import provider_service_pb2 as pb
from stackmesh.provider.v1.provider_service_pb2_grpc import ProviderServiceStub
from stackmesh.registry.v1 import resources_pb2
from stackmesh.routes import HOSTED_BY, ResourceType
from stackmesh.serving import hosted
from stackmesh.transport import internal_channel

log = logging.getLogger(__name__)

ASK_SECONDS: Final = 5.0
"""How long one instance may take to answer."""
_REASON_LIMIT: Final = 120


@dataclass(frozen=True, slots=True)
class Wanted:
    """What shall be hosted."""

    resource_type: ResourceType.ValueType
    name: str
    """The provider's name for it, or an alias the provider knows."""
    metadata: Struct
    provider_id: str = ""
    """Empty: to be found out."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """Who hosts it, under which name of its own."""

    provider_id: str
    provider_resource_id: str


@dataclass(frozen=True, slots=True)
class _Candidate:
    provider: resources_pb2.Provider
    instances: Sequence[resources_pb2.Instance]


class Resolver:
    """Asks providers. A channel lives as long as a question, since there are few."""

    def __init__(self, store: Store, *, ask_seconds: float = ASK_SECONDS) -> None:
        self._store = store
        self._ask_seconds = ask_seconds

    async def resolve(self, wanted: Wanted) -> Resolved:
        """Find the provider of a name.

        Raises ProviderNotFound (no such provider_id), NoInstance (nobody to ask), NotHosted (refused),
        AmbiguousProvider (several would), BackendUnreachable or Timeout (no instance answered).
        """
        candidates = await self._candidates(wanted)
        answers = await asyncio.gather(*(self._answer(candidate, wanted) for candidate in candidates))
        found = [answer for answer in answers if isinstance(answer, Resolved)]
        if len(found) == 1:
            return found[0]
        if found:
            ids = ", ".join(answer.provider_id for answer in found)
            raise AmbiguousProvider(
                f"several providers recognise {wanted.name}: {ids}; set provider_id", metadata={"providers": ids}
            )
        refusals = {c.provider.provider_id: a for c, a in zip(candidates, answers, strict=True)}
        raise _refused(wanted, {i: e for i, e in refusals.items() if isinstance(e, MeshError)})

    async def _candidates(self, wanted: Wanted) -> Sequence[_Candidate]:
        rows, revision = await records.read(self._store, records.PROVIDERS, records.provider)
        instances, _ = await records.read(self._store, records.INSTANCES, records.instance, revision)
        api = HOSTED_BY[wanted.resource_type]
        known = [
            _Candidate(provider, [i for i in instances if hosted(provider, i) is not None])
            for provider in rows
            if provider.api == api
        ]
        if wanted.provider_id:
            known_ids = [c.provider.provider_id for c in known]
            if wanted.provider_id not in known_ids:
                raise ProviderNotFound(
                    f"no {records.api_name(api)} provider is called {wanted.provider_id!r}; "
                    + hint(wanted.provider_id, known_ids)
                )
            return [c for c in known if c.provider.provider_id == wanted.provider_id]
        # What only an instance has named, and no instance hosts any more, is history.
        there = [c for c in known if c.instances or c.provider.source == resources_pb2.SOURCE_CONFIG]
        if not there:
            raise ProviderNotFound(f"there is no {records.api_name(api)} provider; add one to the YAML")
        return there

    async def _answer(self, candidate: _Candidate, wanted: Wanted) -> Resolved | MeshError:
        try:
            return await self._ask(candidate, wanted)
        except MeshError as error:
            return error

    async def _ask(self, candidate: _Candidate, wanted: Wanted) -> Resolved:
        provider_id = candidate.provider.provider_id
        failure: MeshError = NoInstance(f"no instance of the provider {provider_id} is running")
        request = pb.ResolveRequest(
            provider_id=provider_id,
            resource_type=wanted.resource_type,
            provider_resource_id=wanted.name,
            metadata=wanted.metadata,
        )
        for instance in candidate.instances:
            try:
                answer = await self._call(instance.address, request)
            except (Unavailable, Timeout) as error:
                failure = error
                log.info("%s did not answer for %s: %s", instance.instance_id, provider_id, error)
                continue
            name = names.check_resource_name("provider_resource_id", answer.provider_resource_id)
            return Resolved(provider_id, name)
        raise failure

    async def _call(self, address: str, request: pb.ResolveRequest) -> pb.ResolveResponse:
        async with internal_channel(address) as channel:
            try:
                return await ProviderServiceStub(channel).Resolve(request, timeout=self._ask_seconds)
            except grpc.aio.AioRpcError as error:
                raise self._failure(error, request.provider_id) from None

    def _failure(self, error: grpc.aio.AioRpcError, provider_id: str) -> MeshError:
        known = from_rpc_error(error)
        if known.reason:
            return known  # said by the instance itself
        match error.code():
            case grpc.StatusCode.UNAVAILABLE:
                return BackendUnreachable(f"the provider {provider_id} cannot be reached")
            case grpc.StatusCode.DEADLINE_EXCEEDED:
                return Timeout(f"the provider {provider_id} did not answer within {self._ask_seconds:g} s")
            case _:
                return known


def _refused(wanted: Wanted, refusals: Mapping[str, MeshError]) -> MeshError:
    if len(refusals) == 1:
        return next(iter(refusals.values()))
    reasons = "; ".join(f"{provider_id}: {error.message[:_REASON_LIMIT]}" for provider_id, error in refusals.items())
    message = f"no provider recognises {wanted.name}: {reasons}"
    # Who could not be asked might have: then it is not certain that nobody hosts it.
    unsure = next((error for error in refusals.values() if not isinstance(error, NotHosted)), None)
    match unsure:
        case None:
            return NotHosted(message)
        case NoInstance():
            return NoInstance(message)
        case _:
            return BackendUnreachable(message)
