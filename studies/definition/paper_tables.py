"""The paper's tables, and which of their rows a configuration is."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from drcnn import presets
from drcnn.assignments import parse_assignments
from drcnn.config import Config, ConfigError
from studies.definition.errors import StudyError
from studies.definition.study import PaperTable

__all__ = ["FIGURES", "PaperRow", "paper_rows", "row_of"]

PAPER = Path(__file__).parents[1] / "paper"
ROMAN = ("", "I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI")
LAST_ON_VOC = 7
# Columns that are results; all others are settings. AP... in points, the time on the paper's TITAN X.
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
        settings: dotted; on a laptop the substitutes of the paper's.
        figures: the columns of ``FIGURES`` that it has.
    """

    table: str
    data: str
    settings: dict[str, Any]
    figures: dict[str, float]

    @property
    def seconds(self) -> float | None:
        """Of inference for an image, if the paper has them."""
        return self.figures.get("seconds_per_image")

    def is_for(self, config: Config) -> bool:
        """Whether this configuration has all the row's settings."""
        settings = dict(config.flat())
        return all(_same(settings[key], value) for key, value in self.settings.items())


def paper_rows(
    tables: Sequence[PaperTable], on_profile: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict
) -> list[PaperRow]:
    """Read the paper's tables, in order.

    Args:
        tables: of a study.
        on_profile: replaces a row's settings by their substitutes (``Overrides.changes``).

    Raises:
        StudyError: a table does not exist, or a column is neither a figure nor a setting.
    """
    return [row for table in tables for row in _rows(PAPER / table.table, on_profile)]


def row_of(rows: Sequence[PaperRow], config: Config) -> PaperRow | None:
    """The row of a configuration: of several, the one with most settings, then the first."""
    return max((row for row in rows if row.is_for(config)), key=lambda row: len(row.settings), default=None)


def _rows(path: Path, on_profile: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> Iterator[PaperRow]:
    if not path.is_file():
        names = ", ".join(table.name for table in sorted(PAPER.glob("*.csv")))
        raise StudyError(f"paper table {path.name!r} does not exist; expected one of {names}")
    number = int(path.stem[-2:])
    data = "VOC07+12" if number <= LAST_ON_VOC else "COCO"
    with path.open(newline="", encoding="utf-8") as file:
        for record in csv.DictReader(file):
            cells = {key: text for key, text in record.items() if key not in FIGURES}
            try:
                parse_assignments([f"{key}=null" for key in cells])
            except ConfigError as error:
                raise StudyError(f"{path}: column {error}") from None
            settings = {key: yaml.safe_load(text) for key, text in cells.items()}
            figures = {key: float(record[key]) for key in FIGURES if record.get(key)}
            yield PaperRow(f"Table {ROMAN[number]}", data, presets.expand(on_profile(settings)), figures)


def _same(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, list | tuple) and isinstance(theirs, list | tuple):
        return len(ours) == len(theirs) and all(map(_same, ours, theirs))
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (ours, theirs))
    return math.isclose(ours, theirs) if numbers else bool(ours == theirs)
