"""What an instance says about itself, checked and written into the records."""

from __future__ import annotations

import copy
import ipaddress
from collections.abc import Callable, Iterator, Sequence, Set as AbstractSet
from typing import Final

from registry_service.instances import served
from registry_service.instances.draft import Draft
from registry_service.mirror.known import Known
from stackmesh import choices, limits, names
from stackmesh.errors import FailedPrecondition, InvalidField, clip
from stackmesh.registry.v1 import announce_service_pb2 as announce_pb, resources_pb2 as pb
from stackmesh.routes import Api
from stackmesh.serving import hosted

AFTER_THE_YAML: Final = 1 << 16
"""The position of providers that only an instance names: never an API's default while the YAML has one."""

SERVED_LIMIT: Final = 1024 * 1024
"""Bytes of one report. etcd refuses requests over 1.5 MiB."""
_PROBLEM_LIMIT: Final = 500
"""Bytes."""


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
    if len(hello.providers) > limits.PROVIDERS:
        raise InvalidField("providers", f"has {len(hello.providers)} entries, at most {limits.PROVIDERS} are allowed")
    seen: set[tuple[int, str]] = set()
    for report in hello.providers:
        check_report(report)
        if (report.api, report.provider_id) in seen:
            raise InvalidField("providers", f"names {report.provider_id} twice")
        seen.add((report.api, report.provider_id))


def check_report(report: announce_pb.ServedReport) -> None:
    """Raises InvalidField."""
    choices.check("api", report.api, Api)
    names.check_id("provider_id", report.provider_id)
    names.check_provider_type("provider_type", report.provider_type)
    for name in report.provider_resource_ids:
        names.check_resource_name("provider_resource_ids", name)
    for failure in report.failures:
        names.check_resource_name("failures.provider_resource_id", failure.provider_resource_id)
    if report.ByteSize() > SERVED_LIMIT:
        raise InvalidField("provider_resource_ids", f"take {report.ByteSize()} bytes, at most {SERVED_LIMIT} fit")


def check_types(known: Known, hello: announce_pb.Hello) -> None:
    """Raises FailedPrecondition when the YAML says that a provider is of another type, as `write` would."""
    for report in hello.providers:
        if (row := known.provider(report.api, report.provider_id)) is not None:
            _check_type(row, report)


def take_over(draft: Draft, hello: announce_pb.Hello) -> list[int]:
    """Drop whoever else is known at the address: only one process can listen there, and this one does.

    Returns the leases that are to be ended, so that one that is not gone after all hears of it.
    """
    others = [other for other in draft.at(hello.address) if other.instance_id != hello.instance_id]
    for other in others:
        draft.delete(other)
    return [other.lease_id for other in others]


def write(draft: Draft, instance: pb.Instance, reports: Sequence[announce_pb.ServedReport]) -> None:
    """Merge the reports of a live instance into the draft. `instance` itself is put by this too.

    Raises FailedPrecondition when the YAML says that a provider is of another type.
    """
    before = draft.instance(instance.instance_id)
    changed: dict[str, pb.Instance] = {}
    providers: list[tuple[pb.Provider, bool]] = []
    for report in reports:
        provider = _provider(draft, report)
        begins = _begins(report, provider, before)
        _own(report, provider, instance)
        if not _as_before(draft, report, provider, instance):
            _merge(draft, report, provider, instance, changed)
        providers.append((provider, begins))

    def put(target: Draft) -> None:
        # Others first: an exception to what the provider does not list yet is harmless, the lack of one is not.
        for other in changed.values():
            target.put(other)
        for provider, begins in providers:
            # Whoever merges at the same time may know of no such host, or drop what it begins to serve: the row moves.
            target.put(provider, always=begins)
        target.put(instance)

    if changed and not _fits(draft, put):
        _keep_exceptions(draft, changed)
    put(draft)


def _begins(report: announce_pb.ServedReport, provider: pb.Provider, before: pb.Instance | None) -> bool:
    """Whether the instance serves something of the provider's that it did not serve before."""
    entry = hosted(provider, before) if before is not None else None
    if entry is None or entry.serves_nothing:
        return bool(report.provider_resource_ids)
    return not set(provider.served).difference(entry.not_served).issuperset(report.provider_resource_ids)


def _fits(draft: Draft, put: Callable[[Draft], None]) -> bool:
    """Whether the draft would be one commit, counted in changes and in bytes."""
    trial = draft.fork()
    put(trial)
    return trial.fits


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
    _check_type(row, report)
    row.provider_type = report.provider_type
    return row


def _check_type(row: pb.Provider, report: announce_pb.ServedReport) -> None:
    if row.provider_type != report.provider_type and row.source == pb.SOURCE_CONFIG:
        raise FailedPrecondition(
            f"the registry's YAML says that the provider {report.provider_id} is {row.provider_type}, "
            f"this instance says {report.provider_type}: give both the same YAML"
        )


def _own(report: announce_pb.ServedReport, provider: pb.Provider, instance: pb.Instance) -> None:
    """Let the instance host the provider, and say what is wrong with it there."""
    own = hosted(provider, instance)
    if own is None:
        own = instance.providers.add(api=report.api, provider_id=report.provider_id)
    own.problem = clip(report.problem, _PROBLEM_LIMIT)
    del own.failures[:]
    for failure in report.failures[: limits.FAILURES]:
        reason = clip(failure.reason, limits.REASON)
        own.failures.add(provider_resource_id=failure.provider_resource_id, reason=reason)


def _as_before(draft: Draft, report: announce_pb.ServedReport, provider: pb.Provider, instance: pb.Instance) -> bool:
    """Whether the report changes nothing for the other hosts; then the instance's own exceptions are all there is.

    It is the usual case, and has to be quick where a provider has a thousand hosts: mostly the first of them decides.
    """
    names, reported = set(provider.served), set(report.provider_resource_ids)
    lacks = names - reported
    if not reported <= names:
        return False
    unserved = set(lacks)
    for _, entry in _others(draft, provider, instance):
        if not unserved:
            break
        unserved.intersection_update(entry.not_served)
    if not unserved:
        _except(provider, instance, lacks)
    return not unserved


def _merge(
    draft: Draft,
    report: announce_pb.ServedReport,
    provider: pb.Provider,
    instance: pb.Instance,
    changed: dict[str, pb.Instance],
) -> None:
    """Changes the provider and the instance in place, and adds the other hosts to `changed`."""
    others_lack: dict[str, set[str]] = {}
    for other, entry in _others(draft, provider, instance):
        others_lack[other.instance_id] = set(entry.not_served)
        if other.instance_id not in changed:
            changed[other.instance_id] = copy.deepcopy(other)
    merged = served.merge(set(report.provider_resource_ids), set(provider.served), others_lack)
    provider.served[:] = sorted(merged.names)
    _except(provider, instance, merged.reporter_lacks)
    for i, lacks in merged.others_lack.items():
        _except(provider, changed[i], lacks)


def _others(
    draft: Draft, provider: pb.Provider, instance: pb.Instance
) -> Iterator[tuple[pb.Instance, pb.HostedProvider]]:
    """The other hosts that serve something. Who serves nothing has no exceptions, whatever the provider lists."""
    for other in draft.hosts(provider.api, provider.provider_id):
        entry = hosted(provider, other)
        if other.instance_id != instance.instance_id and entry is not None and not entry.serves_nothing:
            yield other, entry


def _except(provider: pb.Provider, instance: pb.Instance, lacks: AbstractSet[str]) -> None:
    """Let the instance serve what the provider lists, less what it lacks of it."""
    if (entry := hosted(provider, instance)) is not None:
        entry.serves_nothing = len(lacks) == len(provider.served)
        entry.not_served[:] = () if entry.serves_nothing else sorted(lacks)


def _keep_exceptions(draft: Draft, changed: dict[str, pb.Instance]) -> None:
    """Let exceptions only grow: what does not fit into one commit must be right after each of several."""
    for instance_id, other in changed.items():
        before = draft.instance(instance_id)
        for entry in before.providers if before is not None else ():
            if (now := hosted(entry, other)) is not None and not now.serves_nothing:
                now.not_served[:] = sorted({*now.not_served, *entry.not_served})
