"""What a launch would do: its trials, which of them are complete, and how long the rest will take."""

from __future__ import annotations

import heapq
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch

from drcnn.engine.record import read_record
from drcnn.report.blocks import duration
from studies.definition.labels import label, parameter_name
from studies.definition.plan import Plan, Trial, trained_models
from studies.definition.request import Request
from studies.definition.study import SearchStudy
from studies.execution.budget_preview import begun_within, print_search_within, print_within
from studies.record.completion import is_complete, to_time
from studies.report.terminal import print_power
from studies.resources.slots import Allocation, NodeShape, allocate
from studies.resources.throughput import (
    Estimate,
    ImageTime,
    estimate_remaining,
    measure_image_time,
    measure_on_node,
)
from studies.search.confirmation import confirming_count, confirming_trials
from studies.transfer.trial_folders import TrialFolders
from studies.worker.job import run_options

__all__ = ["print_preview"]

Estimator = Callable[..., Estimate]


@dataclass(frozen=True)
class _Remaining:
    """The time that is left.

    Attributes:
        batches: seconds by the clock of each trial, batch after batch.
        worker_seconds: of all trials, counted for each of their workers.
        sources: how that is known.
        unknown: how many trials have an unknown time.
    """

    batches: list[list[float]]
    worker_seconds: float
    sources: tuple[str, ...]
    unknown: int


def print_preview(plan: Plan, trials: Sequence[Trial], request: Request, folders: TrialFolders) -> None:
    """Print the trials, which of them are complete, and an estimate of the rest.

    Args:
        plan: the study.
        trials: all of them; of a search, points at the ends of its space.
        request: what the command line says about machines and seeds.
        folders: where a cluster's nodes get their data from.
    """
    with _machines(request, folders) as (allocation, measure):
        estimator = partial(
            estimate_remaining,
            output=plan.output,
            measure=measure,
            workers=request.workers,
            gpus=allocation.gpus,
        )
        if isinstance(plan.study, SearchStudy):
            remaining = _preview_search(plan, plan.study, trials, request, estimator, allocation.concurrent)
        else:
            remaining = _preview_list(plan, trials, request, estimator, allocation.concurrent)
    if remaining.unknown:
        print(f"No time is known for {remaining.unknown} trials: no node is up to measure it on.")
    if not any(remaining.batches):
        untimed = 0 if isinstance(plan.study, SearchStudy) else len(to_time(plan, trials))
        left = f"Left is to time inference: of {untimed} finished trials, seconds each."
        nothing = left if untimed else "Nothing is left to do."
        is_listed = not isinstance(plan.study, SearchStudy)
        if request.budget and is_listed and not all(is_complete(read_record(t.folder)) for t in trials):
            nothing = "Nothing would begin within this budget."
        print(f"{allocation.concurrent} trials at once." if remaining.unknown else nothing)
        return
    where = f"{allocation.concurrent} trials at once, {request.workers} worker(s) each"
    clock = sum(_makespan(batch, allocation.concurrent) for batch in remaining.batches)
    print(f"Time left: about {duration(clock)} with {where}; {_cost(remaining.worker_seconds, allocation)}.")
    machine = "a node of the cluster" if request.machines.is_cluster else "this machine"
    print(f"From {' and '.join(remaining.sources)}; {machine}, {'GPU' if allocation.gpus else 'CPU'}.")


def _preview_list(
    plan: Plan, trials: Sequence[Trial], request: Request, estimator: Estimator, slots: int
) -> _Remaining:
    all_trials = [*trained_models(trials), *trials]
    estimate = estimator(all_trials)
    records = {trial.id: read_record(trial.folder) for trial in all_trials}
    complete = {trial_id for trial_id, record in records.items() if is_complete(record)}
    epochs = plan.base.training.epochs
    print(
        f"{plan.name}: {len(trials)} trials of {epochs} epochs; {len(complete)} of {len(all_trials)} finished"
    )
    seconds = estimate.seconds
    if request.budget is not None:
        seconds = begun_within(request.budget, all_trials, seconds, slots)
    done = complete | seconds.keys()
    for trial in all_trials:
        if request.budget is not None and trial.id not in done:
            continue
        role = "evaluates" if trial.is_evaluation else "trains"
        time_left = duration(seconds[trial.id]) if trial.id in seconds else ""
        print(f"  {trial.id}  {trial.name}  {role}  {records[trial.id].status}  {time_left}".rstrip())
    if request.budget is not None:
        # Where a time is not known, no budget is known to be enough.
        known = {} if estimate.unknown else estimate.seconds
        print_within(plan, request, trials, done, known, slots)
        print_power(plan, trials, [trial for trial in trials if trial.id in done])
    else:
        print_power(plan, trials, trials)
    # Detectors are trained before they are evaluated.
    batches = [
        [
            seconds[trial.id]
            for trial in all_trials
            if trial.id in seconds and trial.is_evaluation == evaluates
        ]
        for evaluates in (False, True)
    ]
    workers = {trial.id: 1 if trial.is_evaluation else request.workers for trial in all_trials}
    worker_seconds = sum(workers[trial_id] * time for trial_id, time in seconds.items())
    return _Remaining(batches, worker_seconds, estimate.sources, estimate.unknown)


def _preview_search(
    plan: Plan,
    study: SearchStudy,
    points: Sequence[Trial],
    request: Request,
    estimator: Estimator,
    slots: int,
) -> _Remaining:
    from studies.search.optuna_record import search_key, split_by_progress

    ended, begun = split_by_progress(plan, search_key(plan))
    print(
        f"{plan.name}: {study.trials} trials of {plan.base.training.epochs} epochs; "
        f"{len(ended)} of {study.trials} ended; chosen by TPE from:"
    )
    for key, space in study.space.items():
        print(f"  {parameter_name(key)}: {space}")
    estimates = [estimator(begun)]
    new = max(0, study.trials - len(ended) - len(begun))
    confirming = 0
    if study.confirm is not None:
        seeds = request.seeds or study.confirm.seeds
        against = label(study.confirm.against)
        print(f"then, with {seeds} seeds each, the best {study.confirm.top} and the baseline: {against}")
        confirmed = confirming_trials(plan, ended, request.seeds)
        _print_confirmation_power(plan, confirmed, points, seeds)
        if len(ended) < study.trials:
            confirming = confirming_count(plan, request.seeds)
        else:
            estimates.append(estimator(confirmed))
    remaining = _Remaining(
        [list(estimate.seconds.values()) for estimate in estimates],
        sum(estimate.worker_seconds for estimate in estimates),
        tuple(dict.fromkeys(source for estimate in estimates for source in estimate.sources)),
        sum(estimate.unknown for estimate in estimates),
    )
    typical = estimator(points, whole=True) if new + confirming else None
    if request.budget is not None and not remaining.unknown:
        print_search_within(request.budget, slots, remaining.batches, new, confirming, typical)
    return _with_typical(remaining, new, confirming, typical) if typical else remaining


def _print_confirmation_power(
    plan: Plan, confirmed: Sequence[Trial], points: Sequence[Trial], seeds: int
) -> None:
    """Say the smallest difference that the confirmation of a search can show."""
    base = plan.base.seed
    # Before the search has ended, points of its space stand for the settings that it will find.
    stand_in = [
        plan.trial_of_config(point.config.model_copy(update={"seed": base + 1 + number}))
        for point in points[-2:]
        for number in range(seeds)
    ]
    print_power(plan, confirmed or stand_in, confirmed or stand_in)


def _with_typical(remaining: _Remaining, new: int, confirming: int, typical: Estimate) -> _Remaining:
    """Add the trials that Optuna will choose: those at the ends of the space stand for them."""
    if not typical.seconds:
        unknown = remaining.unknown + new + confirming
        return replace(remaining, unknown=unknown)
    settings = len(typical.seconds)
    seconds = sum(typical.seconds.values()) / settings
    print(f"Estimated from {settings} settings of the space, as if no trial were pruned:")
    return replace(
        remaining,
        batches=[[*remaining.batches[0], *[seconds] * new], [seconds] * confirming],
        worker_seconds=remaining.worker_seconds + typical.worker_seconds / settings * (new + confirming),
        sources=tuple(dict.fromkeys([*remaining.sources, *typical.sources])),
    )


def _makespan(seconds: Iterable[float], slots: int) -> float:
    """How long trials take that start in this order, each when a slot is free."""
    free_at = [0.0] * slots
    for trial_seconds in seconds:
        heapq.heapreplace(free_at, free_at[0] + trial_seconds)
    return max(free_at)


@contextmanager
def _machines(
    request: Request, folders: TrialFolders
) -> Iterator[tuple[Allocation, Callable[[Trial], ImageTime] | None]]:
    """What each trial would get, and what measures throughput on such a machine, if there is one now."""
    if not request.machines.is_cluster:
        here = NodeShape(os.cpu_count() or 1, torch.cuda.device_count())
        allocation = allocate(request.machines, [here])
        yield allocation, partial(measure_image_time, run_options(allocation))
        return
    import ray

    from studies.resources.connection import connect

    with connect(request.machines) as allocation:
        total = ray.cluster_resources()  # type: ignore[no-untyped-call]
        is_up = total.get("CPU", 0) >= allocation.cpus and total.get("GPU", 0) >= allocation.gpus
        # To start a machine for an estimate would be more than was asked for.
        measure = partial(measure_on_node, allocation, folders, run_options(allocation))
        yield allocation, measure if is_up else None


def _cost(worker_seconds: float, allocation: Allocation) -> str:
    if allocation.gpus:
        return f"{worker_seconds * allocation.gpus / 3600:.3g} GPU hours"
    return f"{worker_seconds / 3600:.2g} core hours, 0 GPU hours"
