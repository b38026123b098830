"""What a launch would do: its trials, which are done, and how long the rest will take."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch

from studies.capacity import NodeShape, Share, share
from studies.estimate import Pace, estimate, measure_pace
from studies.outcomes import outcome
from studies.request import Request
from studies.study import SearchStudy
from studies.supplies import Supplies
from studies.trials import Plan, Trial, models

__all__ = ["preview"]


def preview(plan: Plan, trials: Sequence[Trial], request: Request, supplies: Supplies) -> None:
    """Print the trials, which are done, and an estimate of the rest.

    Args:
        plan: the study.
        trials: all of them; of a search some at the ends of its space.
        request: what the command line says about machines and seeds.
        supplies: where a cluster's nodes get their data from.
    """
    trained = models(trials)
    with _machines(request, supplies) as (given, measure):
        found = estimate([*trained, *trials], plan.output, measure)
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
    if found.unknown:
        print(f"No time is known for {found.unknown} trials: no node is up to measure it on.")
    if not found.seconds:
        print("Nothing is left to do." if not found.unknown else f"{given.concurrent} trials at once.")
        return
    parallel = given.concurrent * request.workers
    where = f"{given.concurrent} trials at once, {request.workers} worker(s) each"
    print(f"Time left: about {_time(seconds / parallel)} with {where}; {_hours(seconds, given)}.")
    on = "a node of the cluster" if request.machines.is_cluster else "this machine"
    print(f"From {' and '.join(found.sources)}; {on}, {'GPU' if given.gpus else 'CPU'}.")


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


@contextmanager
def _machines(request: Request, supplies: Supplies) -> Iterator[tuple[Share, Callable[[Trial], Pace] | None]]:
    """What each trial would get, and what measures a pace on such a machine, if there is one now."""
    if not request.machines.is_cluster:
        given = share(request.machines, [NodeShape(os.cpu_count() or 1, torch.cuda.device_count())])
        yield given, partial(measure_pace, device="cuda" if given.gpus else "cpu")
        return
    import ray

    from studies.connection import connect

    with connect(request.machines) as given:
        there = ray.cluster_resources()  # type: ignore[no-untyped-call]
        is_up = there.get("CPU", 0) >= given.cpus and there.get("GPU", 0) >= given.gpus
        # To start a machine for an estimate would be more than was asked for.
        yield given, partial(_measure_on_node, given, supplies) if is_up else None


def _measure_on_node(given: Share, supplies: Supplies, trial: Trial) -> Pace:
    import ray

    def measure() -> Pace:
        supplies.bring(trial)
        return measure_pace(trial, "cuda" if given.gpus else "cpu")

    supplies.offer([trial])
    task = ray.remote(num_cpus=given.cpus, num_gpus=given.gpus)(measure)
    found: Pace = ray.get(task.remote())
    return found


def _hours(seconds: float, given: Share) -> str:
    if given.gpus:
        return f"{seconds * given.gpus / 3600:.3g} GPU hours"
    return f"{seconds / 3600:.2g} core hours, 0 GPU hours"


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{math.ceil(seconds)} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
