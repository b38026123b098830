"""The launch's own run in MLflow: what it is known by, and what its page says of where figures come from."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence

from drcnn.report.blocks import escape
from studies.definition.plan import Plan, Trial
from studies.record import provenance
from studies.record.tracking.runs import Tracker

__all__ = ["open_launch"]


def open_launch(tracker: Tracker, plan: Plan, trials: Sequence[Trial], *, fresh: bool) -> None:
    """Continue the run of the same request, known by its trials, or begin one.

    Args:
        tracker: of the study.
        plan: the study.
        trials: all of the launch, at least one; of a search one that stands for it.
        fresh: begin a new run in any case.

    Raises:
        StudyError: the store cannot be written.
    """
    ids = [plan.name, *sorted(trial.id for trial in trials)]
    tracker.open(
        hashlib.sha256(" ".join(ids).encode()).hexdigest()[:16],
        f"{plan.name} {time.strftime('%Y-%m-%d %H:%M')}",
        escape(plan.study.title),
        fresh=fresh,
        tags=provenance.tags() | {"drcnn.data_fingerprint": trials[0].data.fingerprint},
        texts=provenance.texts(plan),
    )
