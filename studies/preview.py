"""What a launch would do: its trials, which are done, and how long the rest will take."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import torch

from studies.capacity import NodeShape, Share, share
from studies.estimate import estimate
from studies.outcomes import outcome
from studies.request import Request
from studies.study import SearchStudy
from studies.trials import Plan, Trial, models

__all__ = ["preview"]


def preview(plan: Plan, trials: Sequence[Trial], request: Request) -> None:
    """Print the trials, which are done, and an estimate of the rest.

    Args:
        plan: the study.
        trials: all of them; of a search some at the ends of its space.
        request: what the command line says about machines and seeds.
    """
    trained = models(trials)
    given = _share(request)
    found = estimate([*trained, *trials], plan.output, "cuda" if given.gpus else "cpu")
    seconds = sum(found.seconds.values())
    epochs = plan.base.training.epochs
    if isinstance(plan.study, SearchStudy):
        _print_search(plan, plan.study, request)
        # Trials at the ends of the space stand for those that Optuna will choose.
        each = seconds / max(1, len(found.seconds))
        seconds = each * _count(plan.study, request)
        print(f"Estimated from {len(found.seconds)} settings of the space, as if no trial were cut:")
    else:
        total = len(trained) + len(trials)
        done = sum(outcome(trial.folder).done for trial in [*trained, *trials])
        print(f"{plan.name}: {len(trials)} trials of {epochs} epochs; {done} of {total} done")
        for trial in [*trained, *trials]:
            role = "evaluates" if trial.model is not None else "trains"
            left = _time(found.seconds[trial.id]) if trial.id in found.seconds else ""
            print(f"  {trial.id}  {trial.name}  {role}  {outcome(trial.folder).status}  {left}".rstrip())
    if not found.seconds:
        print("Nothing is left to do.")
        return
    parallel = given.concurrent * request.workers
    where = f"{given.concurrent} trials at once, {request.workers} worker(s) each"
    print(f"Time left: about {_time(seconds / parallel)} with {where}; {_hours(seconds, given)}.")
    print(f"From {' and '.join(found.sources)}; this machine, {'GPU' if given.gpus else 'CPU'}.")


def _print_search(plan: Plan, study: SearchStudy, request: Request) -> None:
    print(f"{plan.name}: {study.trials} trials of {plan.base.training.epochs} epochs, chosen by TPE from:")
    for key, space in study.space.items():
        print(f"  {key}: {space.model_dump(exclude_defaults=True)}")
    if study.confirm is not None:
        seeds = request.seeds or study.confirm.seeds
        print(f"then, with {seeds} seeds each, the best {study.confirm.top} and {study.confirm.against}")


def _count(study: SearchStudy, request: Request) -> int:
    if study.confirm is None:
        return study.trials
    return study.trials + (study.confirm.top + 1) * (request.seeds or study.confirm.seeds)


def _share(request: Request) -> Share:
    """What each trial would get."""
    if not request.machines.is_cluster:
        return share(request.machines, [NodeShape(os.cpu_count() or 1, torch.cuda.device_count())])
    from studies.connection import connect

    with connect(request.machines) as given:
        return given


def _hours(seconds: float, given: Share) -> str:
    if given.gpus:
        return f"{seconds * given.gpus / 3600:.3g} GPU hours"
    return f"{seconds / 3600:.2g} core hours, 0 GPU hours"


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{math.ceil(seconds)} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
