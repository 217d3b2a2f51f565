"""What an instance says about itself, checked and written into the records."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import Final

from registry_service import served
from registry_service.draft import Draft
from registry_service.store import COMMIT_LIMIT
from stackmesh import names
from stackmesh.errors import FailedPrecondition, InvalidField
from stackmesh.registry.v1 import announce_service_pb2 as announce_pb, resources_pb2 as pb
from stackmesh.routes import Api
from stackmesh.serving import hosted

AFTER_THE_YAML: Final = 1 << 16
"""The position of providers that only an instance names: never an API's default while the YAML has one."""

PROVIDERS_LIMIT: Final = COMMIT_LIMIT - 2
SERVED_LIMIT: Final = 1024 * 1024
"""Bytes of one report. etcd refuses requests over 1.5 MiB."""
_PROBLEM_LIMIT: Final = 500

_TYPE: Final = re.compile(r"(inline|remote)::[a-z0-9][a-z0-9:-]{0,62}")


def check_hello(hello: announce_pb.Hello) -> None:
    """Raises InvalidField."""
    names.check_id("instance_id", hello.instance_id)
    host, _, port = hello.address.rpartition(":")
    try:
        ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
        valid = 0 < int(port) < 65536
    except ValueError:
        valid = False
    if not valid:
        raise InvalidField("address", "must be IP:port")
    if len(hello.providers) > PROVIDERS_LIMIT:
        raise InvalidField("providers", f"has {len(hello.providers)} entries, at most {PROVIDERS_LIMIT} are allowed")
    seen: set[tuple[int, str]] = set()
    for report in hello.providers:
        check_report(report)
        if (report.api, report.provider_id) in seen:
            raise InvalidField("providers", f"names {report.provider_id} twice")
        seen.add((report.api, report.provider_id))


def check_report(report: announce_pb.ServedReport) -> None:
    """Raises InvalidField."""
    if report.api not in Api.values() or report.api == Api.API_UNSPECIFIED:
        raise InvalidField("api", "is not one of the APIs")
    names.check_id("provider_id", report.provider_id)
    if not _TYPE.fullmatch(report.provider_type):
        raise InvalidField("provider_type", "must be inline::NAME or remote::NAME")
    for name in report.provider_resource_ids:
        names.check_resource_name("provider_resource_ids", name)
    if report.ByteSize() > SERVED_LIMIT:
        raise InvalidField("provider_resource_ids", f"take {report.ByteSize()} bytes, at most {SERVED_LIMIT} fit")


def write(draft: Draft, instance: pb.Instance, reports: Sequence[announce_pb.ServedReport]) -> None:
    """Merge the reports of a live instance into the draft. `instance` itself is put by this too.

    Raises FailedPrecondition when the YAML says that a provider is of another type.
    """
    before = draft.instance(instance.instance_id)
    others = {i.instance_id: i for i in draft.instances() if i.instance_id != instance.instance_id}
    changed: dict[str, pb.Instance] = {}
    providers: list[pb.Provider] = []
    for report in reports:
        provider = _provider(draft, report)
        changed |= _merge(report, provider, instance, others)
        providers.append(provider)
    if len(changed) + len(providers) + 1 > COMMIT_LIMIT:
        _keep_exceptions(draft, changed)
    # Others first: an exception to what the provider does not list yet is harmless, the lack of one is not.
    for other in changed.values():
        draft.put(other, other.lease_id)
    for provider in providers:
        # A new host has to be seen by whoever merges at the same time: the provider's row moves.
        draft.put(provider, always=before is None or hosted(provider, before) is None)
    draft.put(instance, instance.lease_id)


def _provider(draft: Draft, report: announce_pb.ServedReport) -> pb.Provider:
    row = draft.provider(report.api, report.provider_id)
    if row is None:
        row = pb.Provider(
            api=report.api,
            provider_id=report.provider_id,
            provider_type=report.provider_type,
            position=AFTER_THE_YAML,
            source=pb.SOURCE_DISCOVERED,
        )
    if row.provider_type != report.provider_type:
        if row.source == pb.SOURCE_CONFIG:
            raise FailedPrecondition(
                f"the registry's YAML says that the provider {report.provider_id} is {row.provider_type}, "
                f"this instance says {report.provider_type}: give both the same YAML"
            )
        row.provider_type = report.provider_type
    return row


def _merge(
    report: announce_pb.ServedReport, provider: pb.Provider, instance: pb.Instance, others: dict[str, pb.Instance]
) -> dict[str, pb.Instance]:
    """Changes the provider, the instance and the other hosts in place; returns the other hosts by id."""
    entries = {i: entry for i, other in others.items() if (entry := hosted(provider, other)) is not None}
    merged = served.merge(
        set(report.provider_resource_ids), set(provider.served), {i: set(e.not_served) for i, e in entries.items()}
    )
    provider.served[:] = sorted(merged.names)
    own = hosted(provider, instance)
    if own is None:
        own = instance.providers.add(api=report.api, provider_id=report.provider_id)
    own.not_served[:] = sorted(merged.reporter_lacks)
    own.problem = report.problem[:_PROBLEM_LIMIT]
    for i, entry in entries.items():
        entry.not_served[:] = sorted(merged.others_lack[i])
    return {i: others[i] for i in entries}


def _keep_exceptions(draft: Draft, changed: dict[str, pb.Instance]) -> None:
    """Let exceptions only grow: what does not fit into one commit must be right after each of several."""
    for instance_id, other in changed.items():
        before = draft.instance(instance_id)
        for entry in before.providers if before is not None else ():
            for now in other.providers:
                if (now.api, now.provider_id) == (entry.api, entry.provider_id):
                    now.not_served[:] = sorted({*now.not_served, *entry.not_served})
