"""What the instances of a provider serve: stored once for the provider, and for each instance only its exceptions."""

from __future__ import annotations

from collections.abc import Mapping, Set as AbstractSet
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Served:
    """Names are the provider's own. An instance serves `names` less what it lacks."""

    names: frozenset[str]
    reporter_lacks: frozenset[str]
    others_lack: Mapping[str, frozenset[str]]
    """By instance, of the other live instances that host the provider."""


def merge(reported: AbstractSet[str], names: AbstractSet[str], others_lack: Mapping[str, AbstractSet[str]]) -> Served:
    """What is stored once an instance has reported all it serves.

    What each other instance serves stays as it was; names nobody serves any more are dropped.
    """
    others_serve = {instance: names - lacks for instance, lacks in others_lack.items()}
    merged = frozenset(reported).union(*others_serve.values())
    return Served(
        names=merged,
        reporter_lacks=merged - reported,
        others_lack={instance: merged - serves for instance, serves in others_serve.items()},
    )
