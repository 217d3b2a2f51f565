"""The registry's public API over a dict: registrations of every type, instances, lists and watches.

It hosts whatever is asked, but for names that begin with `unhosted` and providers that are not in `PROVIDERS`.
"""

from __future__ import annotations

import asyncio
import importlib

import grpc

from stackmesh.errors import (
    Conflict,
    Declared,
    NotHosted,
    ProviderNotFound,
    RegistryUnreachable,
    ResourceExists,
    ResourceNotFound,
    RevisionGone,
)
from stackmesh.registry.v1 import instances_service_pb2, instances_service_pb2_grpc, resources_pb2, watch_service_pb2
from stackmesh.registry.v1.watch_service_pb2_grpc import WatchServiceServicer, add_WatchServiceServicer_to_server
from stackmesh.resources import KINDS, Resource
from stackmesh.routes import Api

PROVIDERS = ("local", "other")
_PAGE = 3


class FakeRegistry(WatchServiceServicer, instances_service_pb2_grpc.InstancesServiceServicer):
    """`asked` are the page tokens of lists, `calls` the requests that would write; `away` is raised by those, and when
    it `hangs` they get no answer.
    """

    def __init__(self) -> None:
        self.rows: dict[str, watch_service_pb2.Entry] = {}
        self.log: list[watch_service_pb2.Change] = []
        self.compacted = 0
        self.asked: list[str] = []
        self.calls: list[object] = []
        self.watches: list[int] = []
        self.away: RegistryUnreachable | None = None
        self.hangs = False
        self._moved = asyncio.Event()
        for kind in KINDS.values():
            for provider_id in PROVIDERS:
                provider = resources_pb2.Provider(api=kind.api, provider_id=provider_id, provider_type="inline::fake")
                api = Api.Name(kind.api).removeprefix("API_").lower()
                self._write(watch_service_pb2.Entry(key=f"provider/{api}/{provider_id}", provider=provider))

    @property
    def revision(self) -> int:
        return len(self.log)

    def of(self, word: str) -> list[Resource]:
        return [getattr(self.rows[key], word) for key in sorted(self.rows) if key.startswith(f"{word}/")]

    def put(self, resource: Resource) -> None:
        kind = next(kind for kind in KINDS.values() if kind.message is type(resource))
        key = f"{kind.word}/{resource.identifier}"
        before = self.rows.get(key)
        resource.revision = self.revision + 1
        resource.created_at.seconds = getattr(before, kind.word).created_at.seconds if before else resource.revision
        resource.updated_at.seconds = resource.revision
        self._write(watch_service_pb2.Entry(key=key, **{kind.word: resource}))

    def delete(self, word: str, name: str) -> int:
        return self._write(watch_service_pb2.Entry(key=f"{word}/{name}"))

    def _write(self, entry: watch_service_pb2.Entry) -> int:
        if entry.WhichOneof("value"):
            self.rows[entry.key] = entry
        else:
            del self.rows[entry.key]
        self.log.append(watch_service_pb2.Change(entry=entry, revision=self.revision + 1))
        self._moved.set()
        return self.revision

    def add_to(self, server: grpc.aio.Server) -> None:
        add_WatchServiceServicer_to_server(self, server)
        instances_service_pb2_grpc.add_InstancesServiceServicer_to_server(self, server)
        for kind in KINDS.values():
            messages = importlib.import_module(f"stackmesh.registry.v1.{kind.plural}_service_pb2")
            (service,) = messages.DESCRIPTOR.services_by_name.values()
            handlers = {}
            for method in service.methods:
                verb = next(v for v in ("Register", "Get", "List", "Update", "Unregister") if method.name.startswith(v))
                handlers[method.name] = grpc.unary_unary_rpc_method_handler(
                    self._handler(verb, kind, getattr(messages, f"{method.name}Response")),
                    request_deserializer=getattr(messages, f"{method.name}Request").FromString,
                    response_serializer=lambda response: response.SerializeToString(),
                )
            server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service.full_name, handlers)])

    def _handler(self, verb, kind, make):
        async def answer(request, context):
            if verb not in ("List", "Get"):
                self.calls.append(request)
                if self.hangs:
                    await asyncio.Event().wait()
                if self.away is not None:
                    raise self.away
            if verb == "List":
                return self._page(request, kind, make)
            name = getattr(request, f"{kind.word}_id")
            if verb == "Unregister":
                self._at(request, self._get(kind, name))
                return make(revision=self.delete(kind.word, name))
            return make(**{kind.word: getattr(self, f"_{verb.lower()}")(kind, name, request)})

        return answer

    def _page(self, request, kind, make):
        self.asked.append(request.page_token)
        start, rows = int(request.page_token or 0), self.of(kind.word)
        token = str(start + _PAGE) if start + _PAGE < len(rows) else ""
        return make(**{kind.plural: rows[start : start + _PAGE]}, next_page_token=token, revision=self.revision)

    def _get(self, kind, name, request=None):
        entry = self.rows.get(f"{kind.word}/{name}")
        if entry is None:
            raise ResourceNotFound(f"no {kind.words} is called {name!r}", metadata={"resource_type": kind.word})
        return getattr(entry, kind.word)

    def _register(self, kind, name, request):
        entry = self.rows.get(f"{kind.word}/{name}")
        theirs = getattr(request, f"provider_{kind.word}_id")
        if entry is not None:
            row = getattr(entry, kind.word)
            same = request.provider_id in ("", row.provider_id) and theirs in ("", row.provider_resource_id)
            same &= not request.HasField(kind.payload) or getattr(request, kind.payload) == getattr(row, kind.payload)
            if row.source != resources_pb2.SOURCE_DISCOVERED:
                if not same:
                    raise ResourceExists(f"{name} is already registered with other fields")
                return row
        made = self._made(kind, name, request.provider_id or "local", theirs or name)
        if request.HasField(kind.payload):
            getattr(made, kind.payload).CopyFrom(getattr(request, kind.payload))
        self.put(made)
        return made

    def _update(self, kind, name, request):
        row = self._get(kind, name)
        self._at(request, row)
        if row.source == resources_pb2.SOURCE_CONFIG:
            raise Declared(f"{name} is declared in the YAML: change it there")
        provider_id = request.provider_id if request.HasField("provider_id") else row.provider_id
        field = f"provider_{kind.word}_id"
        theirs = getattr(request, field) if request.HasField(field) else row.provider_resource_id
        made = self._made(kind, name, provider_id, theirs)
        source = request if request.HasField(kind.payload) else row
        getattr(made, kind.payload).CopyFrom(getattr(source, kind.payload))
        self.put(made)
        return made

    def _made(self, kind, name, provider_id, theirs):
        if provider_id not in PROVIDERS:
            raise ProviderNotFound(f"no provider is called {provider_id!r}")
        if name.startswith("unhosted"):
            raise NotHosted(f"nobody knows {name}")
        return kind.message(
            identifier=name,
            provider_id=provider_id,
            provider_resource_id=theirs,
            source=resources_pb2.SOURCE_USER,
            serving_state=resources_pb2.SERVING_STATE_SERVING,
        )

    def _at(self, request, row):
        if request.expected_revision not in (0, row.revision):
            raise Conflict(f"{row.identifier} is at revision {row.revision}, not {request.expected_revision}")

    async def ListEntries(self, request, context):
        kinds = [watch_service_pb2.EntryKind.Name(kind)[11:].lower() for kind in request.filter.kinds]
        start = int(request.page_token or 0)
        keys = [key for key in sorted(self.rows) if not kinds or key.partition("/")[0] in kinds]
        token = str(start + _PAGE) if start + _PAGE < len(keys) else ""
        entries = [self.rows[key] for key in keys[start : start + _PAGE]]
        return watch_service_pb2.ListEntriesResponse(
            entries=entries, next_page_token=token, revision=self.revision, store_id="one"
        )

    async def Watch(self, request, context):
        self.watches.append(request.start_revision)
        if request.start_revision <= self.compacted or request.start_revision > self.revision + 1:
            raise RevisionGone(f"revision {request.start_revision} is gone")
        kinds = [watch_service_pb2.EntryKind.Name(kind)[11:].lower() for kind in request.filter.kinds]
        at = request.start_revision
        yield watch_service_pb2.WatchResponse(revision=at - 1)
        while True:
            self._moved.clear()
            while at <= self.revision:
                change = self.log[at - 1]
                told = [change] if not kinds or change.entry.key.partition("/")[0] in kinds else []
                yield watch_service_pb2.WatchResponse(revision=at, changes=told)
                at += 1
            await self._moved.wait()

    async def GetInstance(self, request, context):
        entry = self.rows.get(f"instance/{request.instance_id}")
        if entry is None:
            raise ResourceNotFound(f"no instance is called {request.instance_id}")
        return instances_service_pb2.GetInstanceResponse(instance=entry.instance)

    async def ListInstances(self, request, context):
        rows = [entry.instance for key, entry in sorted(self.rows.items()) if key.startswith("instance/")]
        return instances_service_pb2.ListInstancesResponse(instances=rows, revision=self.revision)

    def start(self, instance_id: str, address: str) -> None:
        """An instance appears, which hosts the first of `PROVIDERS` of each API."""
        hosts = [resources_pb2.HostedProvider(api=kind.api, provider_id=PROVIDERS[0]) for kind in KINDS.values()]
        at = self.revision + 1
        instance = resources_pb2.Instance(instance_id=instance_id, address=address, revision=at, providers=hosts)
        self._write(watch_service_pb2.Entry(key=f"instance/{instance_id}", instance=instance))
