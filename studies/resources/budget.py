"""``--budget``: what may still be begun in the time that a launch has.

The clock alone decides. A budget asks how long a trial takes and how much time is left, never how good
anything is: it cannot end a study just when the figures please, and the seeds that were run are no selection.
Whoever looks and then gives more time does select: reports count such looks (``studies.analysis.looks``).
A trial that has begun is not stopped; what does not fit is left for the next launch.

A trial's time is estimated (``studies.resources.throughput``), and estimates are off: by as much as they have
been in this launch so far (``Budget.allowance``), or by ``ASSUMED`` before any trial has ended. Everything
here goes by the trials' ids, so that the dry run asks the same question with a clock of its own.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from studies.definition.plan import Trial
from studies.definition.request import budget_text

__all__ = ["ASSUMED", "START_SECONDS", "Budget", "Queue", "followers", "simulate"]

# How many times its estimate a trial is assumed to take at most, before one has ended.
ASSUMED = 1.5
# To start a process and load what it needs; an estimate is of training and evaluation alone.
START_SECONDS = 10.0


class Budget:
    """The time of one launch, and what is known of the time that its trials take.

    Args:
        seconds: of the whole launch.
        slots: how many trials run at once.
        elapsed: seconds since the launch began.
    """

    def __init__(self, seconds: float, slots: int, elapsed: Callable[[], float]) -> None:
        self.seconds, self.slots = seconds, slots
        self._elapsed = elapsed
        self._estimates: dict[str, float] = {}
        self._typical = 0.0
        self._begun: dict[str, float] = {}
        # How many times its estimate each trial took that ran to its end.
        self._ratios: list[float] = []
        # When what was not begun would have ended.
        self.refused: list[float] = []

    @property
    def allowance(self) -> float:
        """How many times its estimate a trial is taken to need: the most so far, and never less than 1."""
        return max([1.0, *self._ratios]) if self._ratios else ASSUMED

    @property
    def accuracy(self) -> str:
        """How good the estimates were in this launch, in words."""
        if not self._ratios:
            return f"as no trial has ended yet, each is allowed {ASSUMED} times its estimate"
        return f"trials took up to {max(self._ratios):.2g} times their estimate"

    def know(self, estimates: Mapping[str, float], typical: float = 0.0) -> None:
        """Learn how many seconds trials take, by their ids, and how many those that are not yet chosen."""
        self._estimates.update(estimates)
        self._typical = typical or self._typical

    def needed(self, trial_id: str) -> float:
        """Seconds from a trial's begin to its end, with the allowance."""
        return self._expected(trial_id) * self.allowance

    def fits(self, seconds: float, others: Sequence[float] = ()) -> bool:
        """Whether there is time for a trial that begins now, and then for others, side by side.

        Args:
            seconds: what the trial needs.
            others: what each of the others needs.
        """
        # They end by then, in whatever order they start.
        rest = sum(others) / self.slots + max(others, default=0.0)
        end = self._elapsed() + seconds + rest
        if end > self.seconds:
            self.refused.append(end)
        return end <= self.seconds

    def begin(self, trial_id: str) -> None:
        """A trial begins now."""
        self._begun[trial_id] = self._elapsed()

    def has_begun(self, trial_id: str) -> bool:
        """Whether a trial was begun by this launch."""
        return trial_id in self._begun

    def end(self, trial_id: str) -> None:
        """A trial has run to its end: its time tells how good estimates are."""
        took = self._elapsed() - self._begun[trial_id]
        self._ratios.append(took / self._expected(trial_id))

    def summary(self, complete: int, planned: int) -> str:
        """What was done of a study within the budget, and how to go on, in a line."""
        done = f"Budget of {budget_text(self.seconds)}: {complete} of {planned} trials"
        if not self._begun and self.refused:
            enough = budget_text(60 * math.ceil(min(self.refused) / 60))
            return (
                f"{done}; none could begin, as the shortest, with what has to follow it, might end after "
                f"{enough} only: give more, or fewer epochs or images (--set training.epochs=N "
                "data.train_images=N)"
            )
        return f"{done}; the same command goes on with the others ({self.accuracy})"

    def _expected(self, trial_id: str) -> float:
        return self._estimates.get(trial_id, self._typical) + START_SECONDS


class Queue:
    """Trials that wait to begin, in order, each as soon as there is a slot and as long as it can end in time.

    One that no longer fits is passed over: a shorter one behind it may.

    Args:
        trial_ids: in the order they run.
        budget: of the launch.
        followers: by a trial's id, those that can only run after it, for which time is kept once it begins.
        reserved: others for which time is kept from the start.
    """

    def __init__(
        self,
        trial_ids: Iterable[str],
        budget: Budget,
        followers: Mapping[str, Sequence[str]] | None = None,
        reserved: Iterable[str] = (),
    ) -> None:
        self.waiting = list(trial_ids)
        self._budget = budget
        self._followers = followers or {}
        self._reserved = list(reserved)

    def next(self) -> str | None:
        """Begin the first trial that can end in time; none if no trial can."""
        for trial_id in self.waiting:
            reserved = [*self._reserved, *self._followers.get(trial_id, ())]
            if self._budget.fits(self._budget.needed(trial_id), [*map(self._budget.needed, reserved)]):
                self.waiting.remove(trial_id)
                self._reserved = reserved
                self._budget.begin(trial_id)
                return trial_id
        return None


def simulate(
    seconds: float,
    slots: int,
    estimates: Mapping[str, float],
    first: Sequence[str],
    followers: Mapping[str, Sequence[str]],
    reserved: Sequence[str],
) -> list[str]:
    """The trials that a launch would begin within its budget, if each took its estimate.

    Args:
        seconds: of the whole launch.
        slots: how many trials run at once.
        estimates: seconds of each trial, by its id.
        first: trials in the order they run.
        followers: by the id of one of these, those that can only run after it.
        reserved: those that run after all of them in any case.
    """
    now = 0.0
    budget = Budget(seconds, slots, lambda: now)
    budget.know(estimates)
    begun: list[str] = []

    def run(queue: Queue) -> None:
        nonlocal now
        running: list[tuple[float, str]] = []
        while True:
            while len(running) < slots and (trial_id := queue.next()) is not None:
                begun.append(trial_id)
                heapq.heappush(running, (now + estimates[trial_id] + START_SECONDS, trial_id))
            if not running:
                return
            now, trial_id = heapq.heappop(running)
            budget.end(trial_id)

    run(Queue(first, budget, followers, reserved))
    ready = [after for trial_id in first if trial_id in begun for after in followers.get(trial_id, ())]
    run(Queue([*reserved, *ready], budget))
    return begun


def followers(
    trials: Sequence[Trial], evaluations: Sequence[Trial]
) -> tuple[dict[str, list[str]], list[str]]:
    """The evaluations of each of these trials' detectors, and those of other detectors; by ids."""
    after: dict[str, list[str]] = {trial.id: [] for trial in trials}
    others: list[str] = []
    for evaluation in evaluations:
        assert evaluation.model is not None
        after.get(evaluation.model.id, others).append(evaluation.id)
    return after, others
