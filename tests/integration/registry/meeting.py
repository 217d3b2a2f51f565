"""A store in which who races for a name does meet; and the bug that a race is run for."""

from collections import Counter
from contextlib import suppress

from tests.waiting import until


def meeting(store_type, *, compares=True):
    """Stores of that type, in which two writes that expect the same of a model wait for each other.

    At whichever replica they are: so every race is one, and luck decides only who wins. With `compares=False` nothing
    decides: the store writes whatever was expected.
    """
    arrived = Counter()

    class Meeting(store_type):
        async def commit(self, ops, *, expect=None):
            key = ops[0].key
            if key.startswith("model/"):
                wish = key, (expect or {}).get(key)
                arrived[wish] += 1
                with suppress(TimeoutError):
                    await until(lambda: arrived[wish] > 1, seconds=0.5)
            return await super().commit(ops, expect=expect if compares else None)

    return Meeting
