"""A study's results: ``results.parquet``, and the tables printed beside the paper's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from drcnn.engine.record import TrialRecord, read_record
from drcnn.files import replacing
from studies.analysis.statistics import mean_interval
from studies.definition.labels import trial_name
from studies.definition.metrics import points
from studies.definition.paper_tables import PaperRow, paper_rows, row_of
from studies.definition.plan import Plan, Trial

__all__ = ["best", "print_means", "print_results", "write_results"]

SHOWN = ("AP", "AP50", "AP80", "AP90")


def best(trials: Sequence[Trial], metric: str) -> Trial | None:
    """The finished trial with the highest last value; none if none finished."""
    values = {trial.id: read_record(trial.folder) for trial in trials}
    scored = [
        (found.metrics[metric], trial)
        for trial in trials
        if (found := values[trial.id]).is_finished and not math.isnan(found.metrics.get(metric, math.nan))
    ]
    return max(scored, key=lambda pair: pair[0])[1] if scored else None


def write_results(path: Path, trials: Sequence[Trial]) -> None:
    """Write one row a trial: its id, settings, seed, status, figures of the last epoch, seconds, error."""
    rows: list[dict[str, Any]] = []
    for trial in trials:
        found = read_record(trial.folder)
        rows.append(
            {
                "trial_id": trial.id,
                "name": trial.name,
                # Of an evaluation: the trial that trained its detector.
                "model_id": trial.model.id if trial.model else None,
                **{key: _storable(value) for key, value in trial.varied.items()},
                "seed": trial.config.seed,
                "status": found.status,
                "epoch": int(found.metrics.get("epoch", 0)),
                "epochs": trial.config.training.epochs,
                **{key: value for key, value in found.metrics.items() if key != "epoch"},
                "seconds": found.seconds,
                "error": found.error,
                "data_fingerprint": trial.data.fingerprint,
            }
        )
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = pa.table({name: [row.get(name) for row in rows] for name in columns})
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft:
        pq.write_table(table, draft)


def _storable(value: Any) -> Any:
    """A list as text: not every row has one, and a column has one type."""
    return str(list(value)) if isinstance(value, list | tuple) else value


def print_results(console: Console, plan: Plan, trials: Sequence[Trial]) -> None:
    """Print every trial's last figures, with the paper's and the difference where it has the setting."""
    rows = paper_rows(plan.study.paper, plan.overrides.changes)
    table = _table("Results, AP × 100", rows, "status")
    found = {trial.id: read_record(trial.folder) for trial in trials}
    timed = any(each.latency is not None for each in found.values())
    if timed:
        table.add_column("ms/image", justify="right")
    for trial in trials:
        row, its = row_of(rows, trial.config), found[trial.id]
        cells = [_cell(its.metrics, key, row) for key in SHOWN]
        source = [row.table if row else "–"] if rows else []
        latency = ["–" if its.latency is None else f"{its.latency:.1f}"] if timed else []
        table.add_row(trial.name, its.status, *cells, *source, *latency)
    console.print(table)
    if max(map(len, _settings(trials).values()), default=0) > 1:
        print_means(console, plan, trials)
    if rows and trials:
        config = trials[0].config
        data = " and ".join(dict.fromkeys(row.data for row in rows))
        console.print(
            f"The paper's figures are for {data} with its own backbones; these are for "
            f"{config.data.source} with {' and '.join(_backbones(trials))}: "
            "compare how they change, not their level.",
            soft_wrap=True,
        )
    for note in (table.note for table in plan.study.paper if table.note):
        console.print(note, soft_wrap=True)


def print_means(console: Console, plan: Plan, trials: Sequence[Trial]) -> None:
    """Print each setting's mean over its finished seeds, with its 95 % interval."""
    rows = paper_rows(plan.study.paper, plan.overrides.changes)
    table = _table("Mean over seeds ± 95 % interval, AP × 100", rows, "seeds")
    for group in _settings(trials).values():
        found = [read_record(trial.folder) for trial in group]
        finished = [each for each in found if each.is_finished]
        row = row_of(rows, group[0].config)
        cells = [_mean_cell(finished, key, row) for key in SHOWN]
        name = trial_name(group[0].varied, 0).rpartition("seed=")[0].strip() or "the one setting"
        table.add_row(
            name, f"{len(finished)} of {len(group)}", *cells, *([row.table if row else "–"] if rows else [])
        )
    console.print(table)


def _table(title: str, rows: Sequence[PaperRow], second: str) -> Table:
    table = Table(title=title + (" (paper's figure, difference)" if rows else ""))
    table.add_column("trial", no_wrap=True)
    table.add_column(second)
    for key in SHOWN:
        table.add_column(key, justify="right", no_wrap=True)
    if rows:
        table.add_column("paper's", no_wrap=True)
    return table


def _settings(trials: Sequence[Trial]) -> dict[str, list[Trial]]:
    """Trials that differ in their seed only, together."""
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(trial.config.model_copy(update={"seed": 0}).to_yaml(), []).append(trial)
    return groups


def _backbones(trials: Sequence[Trial]) -> list[str]:
    return list(dict.fromkeys(trial.config.detector.backbone for trial in trials))


def _cell(metrics: Mapping[str, float], key: str, row: PaperRow | None) -> str:
    ours = points(metrics.get(f"val/{key}", math.nan))
    theirs = row.figures.get(key) if row else None
    if theirs is None or ours == "–":
        return ours
    return f"{ours} ({theirs:.1f}, {100 * metrics[f'val/{key}'] - theirs:+.1f})"


def _mean_cell(found: Sequence[TrialRecord], key: str, row: PaperRow | None) -> str:
    values = [each.metrics.get(f"val/{key}", math.nan) for each in found]
    values = [value for value in values if not math.isnan(value)]
    if not values:
        return "–"
    interval = mean_interval(values)
    half = "" if math.isnan(interval.low) else f" ± {100 * (interval.high - interval.mean):.1f}"
    theirs = row.figures.get(key) if row else None
    beside = "" if theirs is None else f" ({theirs:.1f}, {100 * interval.mean - theirs:+.1f})"
    return f"{100 * interval.mean:.1f}{half}{beside}"
