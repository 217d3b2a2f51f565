"""How much an instance says about itself, at most. It keeps to that, and the registry takes no more."""

from typing import Final

PROVIDERS: Final = 48
"""Of one process: one commit of the registry has 50 changes, and here also the instance and who was at its address."""
FAILURES: Final = 100
"""Of one provider: what is registered with it and cannot be served."""
REASON: Final = 300
"""Bytes of the reason of one failure."""
