"""What a budget lets begin, by a clock of the test."""

from __future__ import annotations

import pytest

from studies.resources.budget import ASSUMED, START_SECONDS, Budget, Queue, simulate


class Clock:
    """Seconds since a launch began."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def budget(seconds: float, slots: int = 1, **estimates: float) -> tuple[Budget, Clock]:
    """A budget whose trials, by name, are estimated at so many seconds, their start included."""
    clock = Clock()
    made = Budget(seconds, slots, clock)
    made.know({name: estimate - START_SECONDS for name, estimate in estimates.items()})
    return made, clock


def test_an_estimate_is_allowed_to_be_off_as_far_as_was_seen() -> None:
    launch, clock = budget(1000, a=100, b=100, c=100, d=100)
    assert launch.needed("a") == 100 * ASSUMED
    for name, took, allowance in (("a", 120, 1.2), ("b", 50, 1.2), ("c", 130, 1.3)):
        launch.begin(name)
        clock.now += took
        launch.end(name)
        assert launch.needed("d") == pytest.approx(100 * allowance)
    assert "1.3 times" in launch.accuracy


def test_faster_than_estimated_is_no_promise_for_the_next_trial() -> None:
    launch, clock = budget(1000, a=100, b=100)
    launch.begin("a")
    clock.now = 40
    launch.end("a")
    assert launch.needed("b") == 100


def test_nothing_begins_that_cannot_end() -> None:
    launch, clock = budget(250, a=100, b=100, c=100)
    waiting = Queue(["a", "b", "c"], launch)
    assert waiting.next() == "a"
    assert waiting.next() is not None, "another slot, the same time"
    clock.now = 101
    launch.end("a")
    assert waiting.next() == "c", "ends at 202, with 1 % allowed for"
    clock.now = 160
    assert Queue(["a"], launch).next() is None
    assert [launch.has_begun(name) for name in "abcd"] == [True, True, True, False]


def test_a_shorter_trial_may_fit_where_a_longer_one_does_not() -> None:
    launch, _ = budget(100, long=90, short=60)
    waiting = Queue(["long", "short"], launch)
    assert waiting.next() == "short"
    assert waiting.next() is None
    assert waiting.waiting == ["long"]


def test_time_is_kept_for_the_evaluations_of_a_detector() -> None:
    names = {"one": 40.0, "two": 40.0, "eval1": 20.0, "eval2": 20.0}
    launch, clock = budget(150, **names)
    waiting = Queue(["one", "two"], launch, {"one": ["eval1"], "two": ["eval2"]})
    assert waiting.next() == "one", "60 s, and an evaluation at the very end: twice 30 s"
    clock.now = 40
    launch.end("one")
    assert waiting.next() == "two"
    launch, clock = budget(110, **names)
    waiting = Queue(["one", "two"], launch, {"one": ["eval1"], "two": ["eval2"]}, reserved=[])
    assert waiting.next() is None


def test_a_simulated_launch_begins_what_fits_in_order() -> None:
    trials = [f"{name}{seed}" for seed in (1, 2, 3) for name in "abcd"]
    estimates = dict.fromkeys(trials, 40.0)
    assert simulate(1000, 2, estimates, trials, {}, []) == trials
    # Two at a time, of 50 seconds each; the first two are allowed 75.
    assert simulate(160, 2, estimates, trials, {}, []) == trials[:6]
    assert simulate(160, 1, estimates, trials, {}, []) == trials[:3]
    assert simulate(74, 2, estimates, trials, {}, []) == []


def test_a_simulated_launch_evaluates_what_it_trained() -> None:
    estimates = {"m1": 40.0, "e1": 10.0, "m2": 40.0, "e2": 10.0}
    after = {"m1": ["e1"], "m2": ["e2"]}
    assert simulate(1000, 1, estimates, ["m1", "m2"], after, []) == ["m1", "m2", "e1", "e2"]
    assert simulate(140, 1, estimates, ["m1", "m2"], after, []) == ["m1", "e1"]


@pytest.mark.parametrize("seconds", [100.0, 400.0, 1234.0])
@pytest.mark.parametrize("slots", [1, 3])
def test_a_simulated_launch_ends_in_time(seconds: float, slots: int) -> None:
    estimates = {f"t{number}": 10.0 + 7 * (number % 5) for number in range(30)}
    begun = simulate(seconds, slots, estimates, list(estimates), {}, [])
    # The work of all of them fits into the slots' time.
    assert sum(estimates[name] + START_SECONDS for name in begun) <= seconds * slots
    assert begun


def test_the_summary_says_how_to_go_on() -> None:
    launch, clock = budget(7200, a=100)
    launch.begin("a")
    clock.now = 110
    launch.end("a")
    text = launch.summary(14, 24)
    assert text.startswith("Budget of 2h: 14 of 24 trials; the same command goes on")
    short, _ = budget(45, a=100)
    assert Queue(["a"], short).next() is None
    assert "none could begin" in short.summary(0, 24)
    assert "after 3m only" in short.summary(0, 24)
