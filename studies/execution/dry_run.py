"""What a launch would do: its trials, which are done, and how long the rest will take."""

from __future__ import annotations

import heapq
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch

from drcnn.engine.record import read_record
from studies.definition.plan import Plan, Trial, trained_models
from studies.definition.request import Request
from studies.definition.study import SearchStudy
from studies.resources.slots import Allocation, NodeShape, allocate
from studies.resources.throughput import Estimate, Throughput, estimate_remaining, measure_throughput
from studies.search.confirmation import replicates_of_best
from studies.transfer.supplies import Supplies

__all__ = ["preview"]


@dataclass(frozen=True)
class _Left:
    """What is left to do, in seconds.

    Attributes:
        batches: one after another: what each trial of it takes by the clock.
        worker_seconds: of all trials, each counted for each of its workers.
        sources: how that is known.
        unknown: trials whose time is not known.
    """

    batches: list[list[float]]
    worker_seconds: float
    sources: tuple[str, ...]
    unknown: int


def preview(plan: Plan, trials: Sequence[Trial], request: Request, supplies: Supplies) -> None:
    """Print the trials, which are done, and an estimate of the rest.

    Args:
        plan: the study.
        trials: all of them; of a search some at the ends of its space.
        request: what the command line says about machines and seeds.
        supplies: where a cluster's nodes get their data from.
    """
    with _machines(request, supplies) as (given, measure):
        ask = partial(
            estimate_remaining, output=plan.output, measure=measure, workers=request.workers, gpus=given.gpus
        )
        if isinstance(plan.study, SearchStudy):
            left = _of_search(plan, plan.study, trials, request, ask)
        else:
            left = _of_table(plan, trials, ask)
    if left.unknown:
        print(f"No time is known for {left.unknown} trials: no node is up to measure it on.")
    if not any(left.batches):
        print("Nothing is left to do." if not left.unknown else f"{given.concurrent} trials at once.")
        return
    where = f"{given.concurrent} trials at once, {request.workers} worker(s) each"
    clock = sum(_makespan(batch, given.concurrent) for batch in left.batches)
    print(f"Time left: about {_time(clock)} with {where}; {_hours(left.worker_seconds, given)}.")
    on = "a node of the cluster" if request.machines.is_cluster else "this machine"
    print(f"From {' and '.join(left.sources)}; {on}, {'GPU' if given.gpus else 'CPU'}.")


def _of_table(plan: Plan, trials: Sequence[Trial], ask: Callable[[Iterable[Trial]], Estimate]) -> _Left:
    trained = trained_models(trials)
    every = [*trained, *trials]
    found = ask(every)
    done = sum(read_record(trial.folder).is_finished for trial in every)
    epochs = plan.base.training.epochs
    print(f"{plan.name}: {len(trials)} trials of {epochs} epochs; {done} of {len(every)} done")
    for trial in every:
        role = "evaluates" if trial.model is not None else "trains"
        left = _time(found.seconds[trial.id]) if trial.id in found.seconds else ""
        print(f"  {trial.id}  {trial.name}  {role}  {read_record(trial.folder).status}  {left}".rstrip())
    # Detectors are trained before they are evaluated.
    batches = [
        [found.seconds[t.id] for t in every if t.id in found.seconds and (t.model is not None) == evaluates]
        for evaluates in (False, True)
    ]
    return _Left(batches, found.worker_seconds, found.sources, found.unknown)


def _of_search(
    plan: Plan,
    study: SearchStudy,
    points: Sequence[Trial],
    request: Request,
    ask: Callable[..., Estimate],
) -> _Left:
    from studies.search.optuna_record import search_key, so_far

    over, begun = so_far(plan, search_key(plan, points[0]))
    print(
        f"{plan.name}: {study.trials} trials of {plan.base.training.epochs} epochs; "
        f"{len(over)} of {study.trials} done; chosen by TPE from:"
    )
    for key, space in study.space.items():
        print(f"  {key}: {space.model_dump(exclude_defaults=True)}")
    seeds = request.seeds or (study.confirm.seeds if study.confirm else 0)
    if study.confirm is not None:
        print(f"then, with {seeds} seeds each, the best {study.confirm.top} and {study.confirm.against}")
    known = [ask(begun)]
    new = max(0, study.trials - len(over) - len(begun))
    confirming = 0
    if study.confirm is not None:
        if len(over) < study.trials:
            confirming = (study.confirm.top + 1) * seeds
        else:
            known.append(ask(replicates_of_best(plan, over, request.seeds)))
    batches = [list(each.seconds.values()) for each in known]
    spent, unknown = sum(each.worker_seconds for each in known), sum(each.unknown for each in known)
    sources = dict.fromkeys(source for each in known for source in each.sources)
    if new + confirming:
        # Trials at the ends of the space stand for those that Optuna will choose.
        typical = ask(points, whole=True)
        if not typical.seconds:
            return _Left(batches, spent, tuple(sources), unknown + new + confirming)
        each = sum(typical.seconds.values()) / len(typical.seconds)
        print(f"Estimated from {len(typical.seconds)} settings of the space, as if no trial were cut:")
        batches = [[*batches[0], *[each] * new], [each] * confirming]
        spent += typical.worker_seconds / len(typical.seconds) * (new + confirming)
        sources |= dict.fromkeys(typical.sources)
    return _Left(batches, spent, tuple(sources), unknown)


def _makespan(seconds: Iterable[float], slots: int) -> float:
    """How long trials take that start in this order, each when a place is free."""
    free = [0.0] * slots
    for each in seconds:
        heapq.heapreplace(free, free[0] + each)
    return max(free)


@contextmanager
def _machines(
    request: Request, supplies: Supplies
) -> Iterator[tuple[Allocation, Callable[[Trial], Throughput] | None]]:
    """What each trial would get, and what measures a pace on such a machine, if there is one now."""
    if not request.machines.is_cluster:
        given = allocate(request.machines, [NodeShape(os.cpu_count() or 1, torch.cuda.device_count())])
        yield given, partial(measure_throughput, device="cuda" if given.gpus else "cpu")
        return
    import ray

    from studies.resources.connection import connect

    with connect(request.machines) as given:
        there = ray.cluster_resources()  # type: ignore[no-untyped-call]
        is_up = there.get("CPU", 0) >= given.cpus and there.get("GPU", 0) >= given.gpus
        # To start a machine for an estimate would be more than was asked for.
        yield given, partial(_measure_on_node, given, supplies) if is_up else None


def _measure_on_node(given: Allocation, supplies: Supplies, trial: Trial) -> Throughput:
    import ray

    def measure() -> Throughput:
        supplies.bring(trial)
        return measure_throughput(trial, "cuda" if given.gpus else "cpu")

    supplies.offer([trial])
    task = ray.remote(num_cpus=given.cpus, num_gpus=given.gpus)(measure)
    found: Throughput = ray.get(task.remote())
    return found


def _hours(seconds: float, given: Allocation) -> str:
    """What so many seconds of a worker cost."""
    if given.gpus:
        return f"{seconds * given.gpus / 3600:.3g} GPU hours"
    return f"{seconds / 3600:.2g} core hours, 0 GPU hours"


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{math.ceil(seconds)} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
