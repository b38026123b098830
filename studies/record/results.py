"""A study's results: ``results.parquet``, one row a trial, and ``published.json``, its best trial's model."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from drcnn.engine.record import read_record
from drcnn.files import replacing
from drcnn.identity import EVALUATION
from drcnn.sealed import write_sealed
from drcnn.trained_model import CHECKPOINT, PUBLISHED
from studies.definition.plan import Trial

__all__ = ["publish_best", "ranked", "write_results"]


def ranked(trials: Sequence[Trial], metric: str) -> list[Trial]:
    """The finished trials that have a metric of the last epoch, highest first."""
    records = [(trial, read_record(trial.folder)) for trial in trials]
    scored = [(trial, record.metric(metric)) for trial, record in records if record.is_finished]
    scored = [(trial, value) for trial, value in scored if not math.isnan(value)]
    return [trial for trial, _ in sorted(scored, key=lambda pair: -pair[1])]


def publish_best(folder: Path, trials: Sequence[Trial], metric: str) -> Trial | None:
    """Name the finished trial of the highest ``metric`` in a study's folder, for ``predict``; return it.

    Of an evaluation, the detector that it evaluates is published, with its settings of inference. Without
    a finished trial nothing is published.
    """
    best = next(iter(ranked(trials, metric)), None)
    path = folder / PUBLISHED
    if best is None:
        if path.is_file():
            path.unlink()
        return None
    trained = best.model or best
    there = dict(trained.config.flat())
    changes = {k: v for k, v in best.config.flat() if k in EVALUATION and v != there[k]}
    content = {
        "trial": best.id,
        "name": best.name,
        metric: read_record(best.folder).metric(metric),
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
