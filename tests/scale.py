"""How long the long runs are: in full under STACKMESH_SOAK=1, as `make soak` sets it; a tenth of it otherwise."""

from __future__ import annotations

import os

SOAK = os.environ.get("STACKMESH_SOAK") == "1"


def full(count: int) -> int:
    """`count` in a full run, a tenth of it (at least 1) in an ordinary one."""
    return count if SOAK else max(1, -(-count // 10))
