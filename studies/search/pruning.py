"""When a search prunes a trial: asynchronous successive halving (ASHA) over our own epochs.

Tune stops the trial; ``execution.tuning`` then records it as pruned, and ``searcher`` tells Optuna.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler

from drcnn.engine.record import read_record
from studies.definition.plan import Plan, Trial
from studies.definition.study import SearchStudy

__all__ = ["make_scheduler"]


def make_scheduler(plan: Plan, ended: Sequence[Trial]) -> ASHAScheduler | None:
    """ASHA that knows the trials of earlier launches; none if the study prunes nothing.

    Args:
        plan: of the study.
        ended: trials whose metrics it compares with, besides those that are still to come.
    """
    study = plan.study
    if not isinstance(study, SearchStudy) or study.prune is None:
        return None
    epochs = plan.base.training.epochs
    scheduler = ASHAScheduler(
        time_attr="epoch",
        metric=study.chosen_by,
        mode="max",
        max_t=epochs,
        grace_period=min(study.prune.grace_epochs, epochs),
        reduction_factor=study.prune.keep,
        # A trial that reaches its last epoch ends by itself; stopping it there would call it pruned.
        stop_last_trials=False,
    )
    controller: Any = None  # which ASHA takes and does not use
    for trial in ended:
        tune_trial: Any = SimpleNamespace(trial_id=trial.id)
        scheduler.on_trial_add(controller, tune_trial)
        for metrics in read_record(trial.folder).history:
            if not math.isnan(metrics.get(study.chosen_by, math.nan)):
                scheduler.on_trial_result(controller, tune_trial, dict(metrics))
        scheduler.on_trial_remove(controller, tune_trial)
    return scheduler
