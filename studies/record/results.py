"""A study's results as a table: ``results.parquet``, one row a trial."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from drcnn.engine.record import read_record
from drcnn.files import replacing
from studies.definition.plan import Trial

__all__ = ["ranked", "write_results"]


def ranked(trials: Sequence[Trial], metric: str) -> list[Trial]:
    """The finished trials that have a metric of the last epoch, highest first."""
    records = [(trial, read_record(trial.folder)) for trial in trials]
    scored = [(trial, record.metric(metric)) for trial, record in records if record.is_finished]
    scored = [(trial, value) for trial, value in scored if not math.isnan(value)]
    return [trial for trial, _ in sorted(scored, key=lambda pair: -pair[1])]


def write_results(path: Path, trials: Sequence[Trial]) -> None:
    """Write one row a trial: its id, settings, seed, status, metrics of the last epoch, seconds, error."""
    rows = [_row(trial) for trial in trials]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = pa.table({name: [row.get(name) for row in rows] for name in columns})
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft:
        pq.write_table(table, draft)


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
