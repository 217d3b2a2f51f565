"""Which provider a name belongs to: the providers have the last word, and are asked on their live instances."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import grpc

from registry_service.mirror.known import Known
from stackmesh import headers, names
from stackmesh.errors import (
    AmbiguousName,
    AmbiguousProvider,
    BackendUnreachable,
    MeshError,
    NoInstance,
    NotHosted,
    ProviderNotFound,
    Timeout,
    Unavailable,
    WrongInstance,
    from_rpc_error,
)
from stackmesh.nearest import SHOWN, hint
from stackmesh.provider.v1 import provider_service_pb2 as pb
from stackmesh.provider.v1.provider_service_pb2_grpc import ProviderServiceStub
from stackmesh.registry.v1 import resources_pb2
from stackmesh.resources import api_word
from stackmesh.routes import HOSTED_BY, Api
from stackmesh.serving import hosted, lacks
from stackmesh.transport import internal_channel

log = logging.getLogger(__name__)

ASK_SECONDS: Final = 5.0
"""How long one instance may take to answer."""
PATIENCE_SECONDS: Final = 5.0
"""After how long no further instance of a provider is asked."""
REFUSALS: Final = 8
"""After so many instances of a provider have refused a name, it is refused: a mistyped one is not the business of a
thousand."""
_REASON_LIMIT: Final = 120


@dataclass(frozen=True, slots=True)
class Resolved:
    """Who hosts it, under which name of its own."""

    provider_id: str
    provider_resource_id: str


class Resolver:
    """Asks providers. A channel lives as long as a question, since there are few."""

    def __init__(
        self,
        *,
        ask_seconds: float = ASK_SECONDS,
        patience_seconds: float = PATIENCE_SECONDS,
        refusals: int = REFUSALS,
    ) -> None:
        self._ask_seconds = ask_seconds
        self._patience_seconds = patience_seconds
        self._refusals = refusals

    async def resolve(self, wanted: pb.ResolveRequest, known: Known) -> Resolved:
        """Find the provider of a name. `wanted.provider_id` may be empty: it is to be found out.

        Raises ProviderNotFound (no such provider_id), NoInstance (nobody to ask), NotHosted (refused by all that
        were asked), AmbiguousName, AmbiguousProvider (several would), BackendUnreachable or Timeout (one that might
        host it did not answer).
        """
        candidates = _candidates(wanted, known)
        answers = await asyncio.gather(*(self._answer(provider, wanted, known) for provider in candidates))
        by_id = {provider.provider_id: answer for provider, answer in zip(candidates, answers, strict=True)}
        # To whom the name stands for several things, it is not unknown.
        found = {i: answer for i, answer in by_id.items() if isinstance(answer, Resolved | AmbiguousName)}
        if len(found) > 1:
            shown = ", ".join(list(found)[:SHOWN])
            more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
            raise AmbiguousProvider(
                f"several providers recognise {wanted.provider_resource_id}: {shown}{more}; set provider_id",
                metadata={"providers": shown},
            )
        for answer in found.values():
            if isinstance(answer, Resolved):
                return answer
            raise answer
        raise _refused(wanted, {i: error for i, error in by_id.items() if isinstance(error, MeshError)})

    async def _answer(
        self, provider: resources_pb2.Provider, wanted: pb.ResolveRequest, known: Known
    ) -> Resolved | MeshError:
        try:
            return await self._ask(provider, wanted, known)
        except MeshError as error:
            return error

    async def _ask(self, provider: resources_pb2.Provider, wanted: pb.ResolveRequest, known: Known) -> Resolved:
        """Instances may differ, while a new version is rolled out or because each has its own backend: what one
        refuses, another may host.
        """
        request = pb.ResolveRequest()
        request.CopyFrom(wanted)
        request.provider_id = provider.provider_id
        refusals, silence = list[MeshError](), list[MeshError]()
        patience = time.monotonic() + self._patience_seconds
        for instance in _likeliest_first(provider, wanted.provider_resource_id, known):
            try:
                answer = await self._call(instance, request)
            except NotHosted as error:
                refusals.append(error)
            except (Unavailable, Timeout) as error:
                silence.append(error)
                log.info("%s did not answer for %s: %s", instance.instance_id, provider.provider_id, error)
            else:
                name = names.check_resource_name("provider_resource_id", answer.provider_resource_id)
                return Resolved(provider.provider_id, name)
            if len(refusals) == self._refusals or time.monotonic() > patience:
                break
        # Who did not answer might have known it. Of those who refused, the likeliest to host it says why best.
        for error in (*silence[-1:], *refusals):
            raise error
        raise NoInstance(f"no instance of the provider {provider.provider_id} is running")

    async def _call(self, instance: resources_pb2.Instance, request: pb.ResolveRequest) -> pb.ResolveResponse:
        bound = ((headers.INSTANCE_ID, instance.instance_id),)
        async with internal_channel(instance.address) as channel:
            try:
                return await ProviderServiceStub(channel).Resolve(request, timeout=self._ask_seconds, metadata=bound)
            except grpc.aio.AioRpcError as error:
                raise self._failure(error, request.provider_id) from None

    def _failure(self, error: grpc.aio.AioRpcError, provider_id: str) -> MeshError:
        known = from_rpc_error(error)
        if known.reason and not isinstance(known, WrongInstance):
            return known  # said by the instance itself
        match error.code():
            case grpc.StatusCode.UNAVAILABLE:
                return BackendUnreachable(f"the provider {provider_id} cannot be reached")
            case grpc.StatusCode.DEADLINE_EXCEEDED:
                return Timeout(f"the provider {provider_id} did not answer within {self._ask_seconds:g} s")
            case _:
                return known


def _candidates(wanted: pb.ResolveRequest, known: Known) -> Sequence[resources_pb2.Provider]:
    api = HOSTED_BY[wanted.resource_type]
    if wanted.provider_id:
        provider = known.provider(api, wanted.provider_id)
        if provider is None:
            raise _unknown(api, wanted.provider_id, known)
        return [provider]
    # What only an instance has named, and no instance hosts any more, is history.
    there = [
        provider
        for provider in known.providers(api)
        if provider.source == resources_pb2.SOURCE_CONFIG or known.hosts(api, provider.provider_id)
    ]
    if not there:
        raise ProviderNotFound(f"there is no {api_word(api)} provider; add one to the YAML")
    return sorted(there, key=lambda provider: provider.provider_id)


def _likeliest_first(provider: resources_pb2.Provider, name: str, known: Known) -> Sequence[resources_pb2.Instance]:
    """The live instances of a provider: those that serve the name, then those that serve the most."""
    listed = name in provider.served

    def unlikely(instance: resources_pb2.Instance) -> tuple[bool, bool, int, str]:
        entry = hosted(provider, instance) or resources_pb2.HostedProvider(serves_nothing=True)
        away = not listed or lacks(entry, name)
        return away, entry.serves_nothing, len(entry.not_served), instance.instance_id

    return sorted(known.hosts(provider.api, provider.provider_id).values(), key=unlikely)


def _unknown(api: Api.ValueType, provider_id: str, known: Known) -> ProviderNotFound:
    others = [api_word(other.api) for other in known.providers() if other.provider_id == provider_id]
    what = f"no {api_word(api)} provider is called {provider_id!r}"
    if others:
        what = f"{provider_id} is a provider of {' and '.join(others)}, not of {api_word(api)}"
    return ProviderNotFound(
        f"{what}; {hint(provider_id, [provider.provider_id for provider in known.providers(api)])}",
        metadata={"api": api_word(api)},
    )


def _refused(wanted: pb.ResolveRequest, refusals: Mapping[str, MeshError]) -> MeshError:
    if len(refusals) == 1:
        [(provider_id, error)] = refusals.items()
        if isinstance(error, BackendUnreachable) and provider_id not in error.message:  # it names its backend alone
            return BackendUnreachable(f"the provider {provider_id} cannot tell: {error.message}")
        return error
    reasons = "; ".join(f"{provider_id}: {error.message[:_REASON_LIMIT]}" for provider_id, error in refusals.items())
    message = f"no provider recognises {wanted.provider_resource_id}: {reasons}"
    # Who could not be asked might have: then it is not certain that nobody hosts it.
    unsure = next((error for error in refusals.values() if not isinstance(error, NotHosted)), None)
    match unsure:
        case None:
            return NotHosted(message)
        case NoInstance():
            return NoInstance(message)
        case _:
            return BackendUnreachable(message)
