"""How many connections to instances the limit of open files leaves room for.

A part is kept for the listener and everything else, so that however many instances there are, clients can connect.
"""

from __future__ import annotations

import resource
from dataclasses import dataclass
from typing import Final

_KEPT_AT_LEAST: Final = 128
_KEPT_AT_MOST: Final = 1024


@dataclass(frozen=True, slots=True)
class Files:
    """The limit of open files (RLIMIT_NOFILE)."""

    limit: int

    @classmethod
    def of_this_process(cls) -> Files:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return cls(soft if soft != resource.RLIM_INFINITY else 1 << 30)

    @property
    def room(self) -> int:
        """Connections to instances, at most."""
        kept = min(max(self.limit // 4, _KEPT_AT_LEAST), _KEPT_AT_MOST)
        return max(self.limit - kept, 0)

    def shortage(self, instances: int) -> str:
        """What is wrong when there are that many instances. Empty: nothing."""
        if instances <= self.room:
            return ""
        return (
            f"{instances} instances need a connection each, and the limit of {self.limit} open files (RLIMIT_NOFILE) "
            f"leaves room for {self.room}: raise its hard limit, or run more gateways"
        )
