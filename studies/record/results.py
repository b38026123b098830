"""A study's results: ``results.parquet``, one row a trial, and ``published.json``, its published model."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from drcnn.engine.record import read_record
from drcnn.files import replacing
from drcnn.identity import EVALUATION
from drcnn.sealed import write_sealed
from drcnn.trained_model import CHECKPOINT, PUBLISHED
from studies.definition.plan import Plan, Trial
from studies.definition.study import SearchStudy

__all__ = ["Choice", "choose", "publish_best", "ranked", "write_results"]


def ranked(trials: Sequence[Trial], metric: str) -> list[tuple[Trial, float]]:
    """The finished trials that have a metric of the last epoch, and its value, highest first."""
    records = [(trial, read_record(trial.folder)) for trial in trials]
    scored = [(trial, record.metric(metric)) for trial, record in records if record.is_finished]
    scored = [(trial, value) for trial, value in scored if not math.isnan(value)]
    return sorted(scored, key=lambda pair: -pair[1])


@dataclass(frozen=True)
class Choice:
    """The trial whose detector a study publishes.

    Attributes:
        trial: of its setting's replicates the one with the highest val figure.
        mean: of the setting's val figures, the highest mean of all settings.
        seeds: how many figures those are.
    """

    trial: Trial
    mean: float
    seeds: int


def choose(plan: Plan, trials: Sequence[Trial]) -> Choice | None:
    """Choose what a study publishes, by val alone: the best detector of the setting of the highest mean.

    The highest of all single runs would be a lucky one, perhaps of another setting. So settings of one seed
    do not count beside those of several, and of a search only those trials count that confirm it, once any
    has finished: its own were chosen for being high.

    Args:
        plan: the study.
        trials: all of it; those that confirm a search have other seeds than its own.

    Returns:
        None if no finished trial has the metric to choose by.
    """
    metric = plan.study.chosen_by
    scored = ranked(trials, metric)
    if isinstance(plan.study, SearchStudy):
        scored = [pair for pair in scored if pair[0].config.seed != plan.base.seed] or scored
    settings: dict[str, list[tuple[Trial, float]]] = {}
    for trial, value in scored:
        settings.setdefault(trial.setting_key, []).append((trial, value))
    fewest = min(2, max(map(len, settings.values()), default=0))
    choices = [
        Choice(replicates[0][0], mean(value for _, value in replicates), len(replicates))
        for replicates in settings.values()
        if len(replicates) >= fewest
    ]
    return max(choices, key=lambda choice: choice.mean, default=None)


def publish_best(plan: Plan, trials: Sequence[Trial]) -> Trial | None:
    """Name the trial that ``choose`` chooses in the study's folder, for ``predict``; return it.

    Of an evaluation, the detector that it evaluates is published, with its settings of inference.
    """
    folder, metric = plan.folder, plan.study.chosen_by
    choice = choose(plan, trials)
    path = folder / PUBLISHED
    if choice is None:
        if path.is_file():
            path.unlink()
        return None
    best = choice.trial
    trained = best.model or best
    there = dict(trained.config.flat())
    changes = {k: v for k, v in best.config.flat() if k in EVALUATION and v != there[k]}
    content = {
        "trial": best.id,
        "name": best.name,
        metric: read_record(best.folder).metric(metric),
        "mean": choice.mean,
        "seeds": choice.seeds,
        "checkpoint": Path(os.path.relpath(trained.folder / CHECKPOINT, folder)).as_posix(),
        "changes": changes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_sealed(path, content)
    return best


def write_results(path: Path, trials: Sequence[Trial]) -> Path:
    """Write one row a trial: its id, settings, seed, status, metrics of the last epoch, seconds, error.

    Returns:
        The path.
    """
    rows = [_row(trial) for trial in trials]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = pa.table({name: [row.get(name) for row in rows] for name in columns})
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft:
        pq.write_table(table, draft)
    return path


def _row(trial: Trial) -> dict[str, Any]:
    record = read_record(trial.folder)
    return {
        "trial_id": trial.id,
        "name": trial.name,
        # Of an evaluation: the trial that trained its detector.
        "model_id": trial.model.id if trial.model else None,
        **{key: _storable(value) for key, value in trial.varied.items()},
        "seed": trial.config.seed,
        "status": record.status,
        "epoch": record.epoch,
        "epochs": trial.config.training.epochs,
        **{key: value for key, value in record.metrics.items() if key != "epoch"},
        "seconds": record.seconds,
        "error": record.error,
        "data_fingerprint": trial.data.fingerprint,
    }


def _storable(value: Any) -> Any:
    """A list as text: not every row has one, and a column has one type."""
    return str(list(value)) if isinstance(value, list | tuple) else value
