"""Back-off: longer each time, and a hundred who begin together do not come back together."""

from stackmesh.backoff import Backoff


def test_it_doubles_up_to_its_limit_and_begins_small_again():
    backoff = Backoff(first=0.1, limit=1.0)
    for whole in (0.1, 0.2, 0.4, 0.8, 1.0, 1.0):
        assert whole / 2 <= backoff.delay() <= whole
    backoff.reset()
    assert backoff.delay() <= 0.1


def spread(backoffs, outage):
    """Seconds between the first and the last who try after an outage that all noticed at once."""
    back = []
    for backoff in backoffs:
        now = 0.0
        while now < outage:
            now += backoff.delay()
        back.append(now)
    assert max(back) - outage <= 10
    return max(back) - min(back)


def test_a_hundred_come_back_over_five_seconds_at_least():
    assert spread([Backoff(limit=10.0) for _ in range(100)], outage=60) >= 5


def test_control_a_hundred_without_a_draw_are_noticed():
    class Undrawn(Backoff):
        def delay(self):
            self._next, delay = min(self._next * 2, self._limit), self._next
            return delay

    assert spread([Undrawn(limit=10.0) for _ in range(100)], outage=60) < 5
