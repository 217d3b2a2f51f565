"""What the YAML declares: the rows with source=CONFIG follow it, those of users are never touched.

Every replica does this, at its start and whenever an instance has said something new; what is as it should be is not
written. A declared model whose provider has not answered yet is a pending row, tried again until it has.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Set as AbstractSet
from typing import Final

from google.protobuf.json_format import ParseDict, ParseError

from registry_service import records, registrations
from registry_service.draft import Draft, update
from registry_service.registrations import now
from registry_service.reports import AFTER_THE_YAML
from registry_service.resolve import Resolved, Resolver
from registry_service.store import Delete, Op, Put, Store
from stackmesh.backoff import Backoff
from stackmesh.config import Config, ConfigError, ModelDeclaration
from stackmesh.errors import Conflict, InvalidField, MeshError, NotHosted
from stackmesh.registry.v1 import resources_pb2 as pb
from stackmesh.registry.v1.models_service_pb2 import RegisterModelRequest as Request
from stackmesh.routes import HOSTED_BY, ResourceType
from stackmesh.serving import hosted

log = logging.getLogger(__name__)

_API: Final = HOSTED_BY[ResourceType.RESOURCE_TYPE_MODEL]
_REASON_LIMIT: Final = 500
_AT_ONCE: Final = 16
"""Models resolved at the same time."""


class Declared:
    """Keeps the rows in step with one configuration."""

    def __init__(self, config: Config, store: Store, resolver: Resolver) -> None:
        self._config = config
        self._store = store
        self._resolver = resolver
        self._models = declarations(config)
        self._confirmed: dict[str, pb.Model] = {}  # rows whose alias the provider has resolved to what they say
        self._warned: set[str] = set()
        self._changed = asyncio.Event()
        self._at_once = asyncio.Semaphore(_AT_ONCE)

    def look_again(self) -> None:
        """An instance has said something new."""
        self._changed.set()

    async def run(self) -> None:
        """Follow for ever: at every change, and with growing pauses while something is pending."""
        backoff = Backoff(first=0.5, limit=30.0)
        while True:
            self._changed.clear()
            pause = backoff.delay() if await self._try() else None
            try:
                async with asyncio.timeout(pause):
                    await self._changed.wait()
                backoff.reset()
            except TimeoutError:
                log.debug("trying what is pending again")

    async def follow(self) -> bool:
        """Make the rows follow once. Returns whether something has to be tried again."""
        await self.follow_providers()
        return await self.follow_models()

    async def follow_providers(self) -> None:
        """Asks nobody. Raises Unavailable, Conflict."""
        await update(self._store, self._place_providers)

    async def follow_models(self) -> bool:
        """Asks the providers. Returns whether a model is pending. Raises Unavailable."""
        rows, _ = await records.read(self._store, records.MODELS, records.model)
        providers, _ = await records.read(self._store, records.PROVIDERS, records.provider)
        ids = {provider.provider_id for provider in providers if provider.api == _API}
        there = {row.identifier: row for row in rows}
        undeclared = [row for row in rows if row.source == pb.SOURCE_CONFIG and row.identifier not in self._models]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._drop(row)) for row in undeclared]
            tasks += [group.create_task(self._follow_model(name, there.get(name), ids)) for name in self._models]
        return any(task.result() for task in tasks)

    async def _try(self) -> bool:
        try:
            return await self.follow()
        except* MeshError as errors:
            log.warning("the rows could not follow the YAML, trying again: %s", errors.exceptions[0])
        return True

    async def _drop(self, row: pb.Model) -> bool:
        log.info("%s is no longer declared", row.identifier)
        return not await self._write(Delete(records.key_of(row)), row.revision)

    def _place_providers(self, draft: Draft) -> None:
        declared: set[str] = set()
        for api in {api for api, _ in self._config.providers.all()}:
            for position, provider in enumerate(self._config.providers.of(api)):
                row = pb.Provider(
                    api=api,
                    provider_id=provider.provider_id,
                    provider_type=provider.provider_type,
                    position=position,
                    source=pb.SOURCE_CONFIG,
                )
                before = draft.provider(api, provider.provider_id)
                if before is not None and before.provider_type == row.provider_type:
                    row.served.extend(before.served)
                draft.put(row)
                declared.add(records.key_of(row))
        for row in draft.providers():
            if records.key_of(row) not in declared:
                _undeclare(draft, row)

    async def _follow_model(self, name: str, row: pb.Model | None, providers: AbstractSet[str]) -> bool:
        request = self._models[name]
        if row is not None and row.source != pb.SOURCE_CONFIG:
            if name not in self._warned:
                log.warning("%s is declared in the YAML, but a user has registered it: left as it is", name)
                self._warned.add(name)
            return False
        if row is not None and row.provider_id in providers and await self._is_as_declared(row, request):
            return False
        async with self._at_once:
            model = await self._model(row, request)
        if row is None or records.encode(model) != records.encode(row):
            log.info("%s: %s", name, model.pending_reason or f"{model.provider_id} as {model.provider_resource_id}")
            model.updated_at.CopyFrom(now())
            done = await self._write(Put(records.key_of(model), records.encode(model)), row.revision if row else 0)
            return bool(model.pending_reason) or not done
        return bool(model.pending_reason)

    async def _is_as_declared(self, row: pb.Model, request: Request) -> bool:
        name = row.identifier
        if row.pending_reason or row.metadata != request.metadata or request.provider_id not in ("", row.provider_id):
            return False
        if (request.provider_model_id or name) == row.provider_resource_id or self._confirmed.get(name) == row:
            return True
        try:
            async with self._at_once:
                resolved = await self._resolver.resolve(registrations.wanted(request, row.provider_id))
        except NotHosted:
            return False
        except MeshError as error:
            log.info("%s stays as it was: %s", name, error)  # who cannot be asked has not changed his mind
            return True
        if resolved.provider_resource_id == row.provider_resource_id:
            self._confirmed[name] = row
            return True
        return False

    async def _model(self, row: pb.Model | None, request: Request) -> pb.Model:
        """The row as it should be: resolved, or pending with the reason."""
        model = pb.Model(identifier=request.model_id, metadata=request.metadata, source=pb.SOURCE_CONFIG)
        model.created_at.CopyFrom(row.created_at if row is not None else now())
        model.updated_at.CopyFrom(row.updated_at if row is not None else model.created_at)
        try:
            resolved = await self._resolver.resolve(registrations.wanted(request, request.provider_id))
        except MeshError as error:
            resolved = Resolved(request.provider_id, "")
            model.pending_reason = error.message[:_REASON_LIMIT]
        model.provider_id, model.provider_resource_id = resolved.provider_id, resolved.provider_resource_id
        return model

    async def _write(self, op: Op, revision: int) -> bool:
        try:
            await self._store.commit([op], expect={op.key: revision})
        except Conflict:
            log.info("%s was written by somebody else meanwhile", op.key)
            return False
        return True


def _undeclare(draft: Draft, row: pb.Provider) -> None:
    """What the YAML does not name is there as long as an instance hosts it."""
    if not any(hosted(row, instance) for instance in draft.instances()):
        draft.delete(row)
    elif row.source == pb.SOURCE_CONFIG:
        row.source, row.position = pb.SOURCE_DISCOVERED, AFTER_THE_YAML
        draft.put(row)


def declarations(config: Config) -> Mapping[str, Request]:
    """Each declared model as the call a user would make. Raises ConfigError for what that call would refuse."""
    return {model.model_id: _request(f"models[{index}]", model) for index, model in enumerate(config.models)}


def _request(where: str, model: ModelDeclaration) -> Request:
    request = Request(
        model_id=model.model_id,
        provider_id=model.provider_id or "",
        provider_model_id=model.provider_model_id or "",
    )
    try:
        if model.metadata:
            ParseDict(dict(model.metadata), request.metadata)
        registrations.check(request)
    except (ParseError, TypeError):
        raise ConfigError(f"{where}.metadata: may hold text, numbers, booleans, lists and mappings only") from None
    except InvalidField as error:
        raise ConfigError(f"{where}.{error}") from None
    return request
