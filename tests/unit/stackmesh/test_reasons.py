from stackmesh.reasons import Reasons


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_each_reason_is_said_at_once_and_again_after_a_while():
    clock = Clock()
    reasons = Reasons(60, clock)
    assert reasons.new("a")
    clock.now = 1
    assert [reasons.new(why) for why in ("a", "b", "a", "b")] == [False, True, False, False]
    clock.now = 60
    assert [reasons.new(why) for why in ("a", "b")] == [True, False]
    clock.now = 61
    assert reasons.new("b")


def test_when_it_has_worked_meanwhile_it_is_news():
    reasons = Reasons()
    assert reasons.new("a")
    reasons.forget()
    assert reasons.new("a")
