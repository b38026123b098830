"""A launch with ``--budget``: hands Tune and Optuna's search only what can end in time.

``studies.resources.budget`` decides what that is.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ray.tune.search import Searcher

from drcnn.engine.record import read_record
from studies.definition.plan import Plan, Trial
from studies.definition.request import Request
from studies.resources.budget import Budget, Queue, followers
from studies.resources.slots import Allocation
from studies.resources.throughput import estimate_remaining, measure_on_node
from studies.search.searcher import StudySearcher
from studies.transfer.trial_folders import TrialFolders
from studies.worker.job import run_options

__all__ = ["BudgetedTrials", "LaunchBudget"]


class BudgetedTrials(Searcher):
    """Hands Tune the trials of a queue.

    Args:
        trials: all that are left; all train, or all evaluate.
        waiting: the same by their ids.
    """

    def __init__(self, trials: Sequence[Trial], waiting: Queue) -> None:
        super().__init__()
        self.trials = list(trials)
        self._queue = waiting
        self._running: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        # Tune saves its searcher to restore it; we never restore.
        return {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """The next trial for Tune."""
        begun = self._queue.next()
        if begun is None:
            # A trial that ends may show that the others need less than was assumed.
            return None if self._running and self._queue.waiting else str(Searcher.FINISHED)
        self._running.add(trial_id)
        return {"trial": next(trial for trial in self.trials if trial.id == begun)}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """A slot is free."""
        self._running.discard(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Leave Tune the file it expects; the trials' folders are the record."""
        Path(checkpoint_path).touch()


class LaunchBudget:
    """The budget of one launch.

    Args:
        plan: the study.
        request: with a budget.
        allocation: what trials run on.
        folders: where nodes get files and data from.
        began: when the launch began, by ``time.monotonic``.
    """

    def __init__(
        self, plan: Plan, request: Request, allocation: Allocation, folders: TrialFolders, began: float
    ) -> None:
        assert request.budget is not None
        self.clock = Budget(request.budget, allocation.concurrent, lambda: time.monotonic() - began)
        self._estimate = partial(
            estimate_remaining,
            output=plan.output,
            measure=partial(measure_on_node, allocation, folders, run_options(allocation)),
            workers=request.workers,
            gpus=allocation.gpus,
        )

    def queue(self, trials: Sequence[Trial], evaluations: Sequence[Trial]) -> BudgetedTrials:
        """What is left of a listed study or a confirmation, as Tune asks for it.

        Args:
            trials: to begin, in the order they run.
            evaluations: that run after them, of the detectors that these train or of others.
        """
        self.clock.know(self._estimate([*trials, *evaluations]).seconds)
        after, others = followers(trials, evaluations)
        return BudgetedTrials(trials, Queue([trial.id for trial in trials], self.clock, after, others))

    def limit(self, searcher: StudySearcher, points: Sequence[Trial], confirming: int) -> StudySearcher:
        """Let a search suggest trials as long as there is time left to confirm its best.

        Args:
            searcher: the search.
            points: trials that stand for its space; any may take as long as the longest of them.
            confirming: how many trials the confirmation still needs.
        """
        self.clock.know({}, typical=max(self._estimate(points, whole=True).seconds.values()))

        def may_begin(resumed: Trial | None) -> bool:
            whole = self.clock.needed("")
            part = 1.0
            if resumed is not None:
                part -= read_record(resumed.folder).epoch / resumed.config.training.epochs
            return self.clock.fits(part * whole, confirming * [whole])

        searcher.may_begin = may_begin
        return searcher
