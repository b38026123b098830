"""A study's results: ``results.parquet``, and the table printed beside the paper's."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from drcnn.config import Config
from drcnn.files import replacing
from studies.progress import percent
from studies.study import PaperTable, StudyError
from studies.trials import Trial, outcome

__all__ = ["best", "paper_rows", "print_results", "write_results"]

PAPER = Path(__file__).parent / "paper"
SHOWN = ("AP", "AP50", "AP80", "AP90")
ROMAN = ("", "I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI")
FIGURES = ("AP", "AP50", "AP60", "AP70", "AP80", "AP90")


@dataclass(frozen=True)
class PaperRow:
    """A row of one of the paper's tables: the settings it is for, and its figures (0 to 100)."""

    table: str
    settings: dict[str, float]
    figures: dict[str, float]

    def is_for(self, config: Config) -> bool:
        """Whether this configuration has all the row's settings."""
        leaves = {key.rpartition(".")[2]: value for key, value in config.flat()}
        return all(math.isclose(leaves[key], value) for key, value in self.settings.items())


def paper_rows(tables: Sequence[PaperTable]) -> list[PaperRow]:
    """Read the paper's tables, in order.

    Raises:
        StudyError: a table does not exist, or a column is neither a figure nor a setting.
    """
    known = {key.rpartition(".")[2] for key, _ in Config().flat()}
    rows = []
    for table in tables:
        path = PAPER / table.table
        if not path.is_file():
            raise StudyError(f"paper table {table.table!r} does not exist; expected one of {_names()}")
        with path.open(newline="", encoding="utf-8") as file:
            for record in csv.DictReader(file):
                figures = {key: float(value) for key, value in record.items() if key in FIGURES}
                settings = {key: float(value) for key, value in record.items() if key not in FIGURES}
                if not settings.keys() <= known:
                    raise StudyError(f"{path}: {sorted(settings.keys() - known)[0]!r} is no setting")
                rows.append(PaperRow(f"Table {ROMAN[int(path.stem[-2:])]}", settings, figures))
    return rows


def best(trials: Sequence[Trial], metric: str) -> Trial | None:
    """The finished trial with the highest last value; none if none finished."""
    values = {trial.id: outcome(trial.folder) for trial in trials}
    scored = [
        (found.metrics[metric], trial)
        for trial in trials
        if (found := values[trial.id]).status == "finished"
        and not math.isnan(found.metrics.get(metric, math.nan))
    ]
    return max(scored, key=lambda pair: pair[0])[1] if scored else None


def write_results(path: Path, trials: Sequence[Trial]) -> None:
    """Write one row a trial: its id, settings, seed, status, figures of the last epoch, seconds, error."""
    rows: list[dict[str, Any]] = []
    for trial in trials:
        found = outcome(trial.folder)
        rows.append(
            {
                "trial_id": trial.id,
                "name": trial.name,
                **trial.varied,
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


def print_results(console: Console, trials: Sequence[Trial], tables: Sequence[PaperTable]) -> None:
    """Print every trial's last figures, with the paper's and the difference where it has the setting."""
    rows = paper_rows(tables)
    table = Table(title="Results, AP × 100" + (" (paper's figure, difference)" if rows else ""))
    table.add_column("trial", no_wrap=True)
    table.add_column("status")
    for key in SHOWN:
        table.add_column(key, justify="right", no_wrap=True)
    if rows:
        table.add_column("paper's", no_wrap=True)
    for trial in trials:
        found = outcome(trial.folder)
        row = next((row for row in rows if row.is_for(trial.config)), None)
        cells = [_cell(found.metrics, key, row) for key in SHOWN]
        table.add_row(trial.name, found.status, *cells, *([row.table if row else "–"] if rows else []))
    console.print(table)
    if rows and trials:
        config = trials[0].config
        console.print(
            "The paper's figures are for VOC07+12 with a ResNet-101; these are for "
            f"{config.data.source} with {config.detector.backbone}: "
            "compare how they change, not their level.",
            soft_wrap=True,
        )
    for note in (table.note for table in tables if table.note):
        console.print(note, soft_wrap=True)


def _cell(metrics: dict[str, float], key: str, row: PaperRow | None) -> str:
    ours = percent(metrics, f"val/{key}")
    if row is None or ours == "–":
        return ours
    theirs = row.figures[key]
    return f"{ours} ({theirs:.1f}, {100 * metrics[f'val/{key}'] - theirs:+.1f})"


def _names() -> str:
    return ", ".join(path.name for path in sorted(PAPER.glob("*.csv")))
