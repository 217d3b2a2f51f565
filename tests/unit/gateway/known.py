"""Registry entries for the gateway's tests, and snapshots made of them."""

from __future__ import annotations

from gateway.snapshot import Snapshot
from stackmesh import routes
from stackmesh.registry.v1 import resources_pb2 as r, watch_service_pb2 as pb
from stackmesh.routes import Api, Method
from stackmesh.routing.v1 import routing_pb2

INFERENCE = Api.API_INFERENCE
METHODS = routes.load(routes.bundled())
EMBEDDINGS = METHODS["/stackmesh.inference.v1.InferenceService/Embeddings"]
CHAT = METHODS["/stackmesh.inference.v1.InferenceService/ChatCompletion"]
DEFAULT = Method(
    "/x.Y/Z", "x.Y", routing_pb2.Route(api=INFERENCE), client_streaming=False, server_streaming=False,
    idempotent=False, read_key=None,
)  # fmt: skip
"""It names no resource."""


def model(name: str, provider: str = "p", theirs: str = "", **fields) -> pb.Entry:
    resource = r.Model(identifier=name, provider_id=provider, provider_resource_id=theirs or name, **fields)
    return pb.Entry(key=f"model/{name}", model=resource)


def handover(name: str, provider: str = "p", theirs: str = "") -> pb.Entry:
    earlier = r.Handover(model=model(name, provider, theirs).model)
    return pb.Entry(key=f"handover/model/{name}", handover=earlier)


def provider(name: str, *served: str, position: int = 0, source=r.SOURCE_CONFIG) -> pb.Entry:
    entry = r.Provider(
        api=INFERENCE, provider_id=name, provider_type="inline::x", served=served, position=position, source=source
    )
    return pb.Entry(key=f"provider/inference/{name}", provider=entry)


def hosting(name: str, *, problem: str = "", not_served: tuple[str, ...] = (), **fields) -> r.HostedProvider:
    return r.HostedProvider(api=INFERENCE, provider_id=name, problem=problem, not_served=not_served, **fields)


def instance(name: str, *hosted: r.HostedProvider | str, address: str = "") -> pb.Entry:
    providers = [hosting(h) if isinstance(h, str) else h for h in hosted]
    entry = r.Instance(instance_id=name, address=address or f"10.0.0.1:{len(name)}", providers=providers)
    return pb.Entry(key=f"instance/{name}", instance=entry)


def gone(entry: pb.Entry) -> pb.Entry:
    return pb.Entry(key=entry.key)


def changes(*entries: pb.Entry) -> list[pb.Change]:
    return [pb.Change(entry=entry) for entry in entries]


def snapshot(*entries: pb.Entry, revision: int = 7) -> Snapshot:
    return Snapshot().after(changes(*entries), revision)


MESH = (
    model("chat", "p", "vendor/chat-1"),
    model("other", "q", "other"),
    model("half", "p", "half"),
    provider("p", "vendor/chat-1", "half", position=1),
    provider("q", "other"),
    instance("one", "p", address="h:1"),
    instance("two", hosting("p", not_served=("half",)), address="h:2"),
    instance("three", "q", address="h:3"),
)
"""A small one."""
