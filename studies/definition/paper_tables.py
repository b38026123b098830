"""The paper's tables, and which of their rows a configuration is."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from drcnn import presets
from drcnn.config import Config, ConfigError, parse_assignments
from studies.definition.errors import StudyError
from studies.definition.study import PaperTable

__all__ = ["FIGURES", "PaperRow", "paper_rows", "row_of"]

PAPER = Path(__file__).parents[1] / "paper"
ROMAN = ("", "I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI")
LAST_ON_VOC = 7
# Columns that are results; all others are settings. AP... in percent, the time on the paper's TITAN X.
FIGURES = (
    "AP",
    "AP50",
    "AP60",
    "AP70",
    "AP75",
    "AP80",
    "AP90",
    "AP_small",
    "AP_medium",
    "AP_large",
    "seconds_per_image",
)


@dataclass(frozen=True)
class PaperRow:
    """A row of one of the paper's tables.

    Attributes:
        table: for example "Table III".
        data: what the paper trained and tested it on.
        settings: dotted; on a laptop those that stand for the paper's.
        figures: the columns of ``FIGURES`` that it has.
    """

    table: str
    data: str
    settings: dict[str, Any]
    figures: dict[str, float]

    def is_for(self, config: Config) -> bool:
        """Whether this configuration has all the row's settings."""
        known = dict(config.flat())
        return all(_same(known[key], value) for key, value in self.settings.items())


def paper_rows(
    tables: Sequence[PaperTable], on_profile: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict
) -> list[PaperRow]:
    """Read the paper's tables, in order.

    Args:
        tables: of a study.
        on_profile: gives the settings that stand for a row's (``Plan.on_profile``).

    Raises:
        StudyError: a table does not exist, or a column is neither a figure nor a setting.
    """
    rows = []
    for table in tables:
        path = PAPER / table.table
        if not path.is_file():
            names = ", ".join(each.name for each in sorted(PAPER.glob("*.csv")))
            raise StudyError(f"paper table {table.table!r} does not exist; expected one of {names}")
        number = int(path.stem[-2:])
        data = "VOC07+12" if number <= LAST_ON_VOC else "COCO"
        with path.open(newline="", encoding="utf-8") as file:
            for record in csv.DictReader(file):
                given = {key: text for key, text in record.items() if key not in FIGURES}
                try:
                    parse_assignments([f"{key}=null" for key in given])
                except ConfigError as error:
                    raise StudyError(f"{path}: column {error}") from None
                cells = {key: yaml.safe_load(text) for key, text in given.items()}
                figures = {key: float(record[key]) for key in FIGURES if record.get(key)}
                settings = presets.expand(on_profile(cells))
                rows.append(PaperRow(f"Table {ROMAN[number]}", data, settings, figures))
    return rows


def row_of(rows: Sequence[PaperRow], config: Config) -> PaperRow | None:
    """The row of a configuration: the one with most settings where several agree, then the first."""
    return max((row for row in rows if row.is_for(config)), key=lambda row: len(row.settings), default=None)


def _same(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, list | tuple) and isinstance(theirs, list | tuple):
        return len(ours) == len(theirs) and all(map(_same, ours, theirs))
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (ours, theirs))
    return math.isclose(ours, theirs) if numbers else bool(ours == theirs)
