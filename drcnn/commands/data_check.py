"""``drcnn data check``: what is wrong or odd with a data folder, and what it holds."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from drcnn.commands.options import SubCommands, add_data, configuration
from drcnn.plain_text import printable

if TYPE_CHECKING:
    from drcnn.data.check import Checked
    from drcnn.data.summary import ClassCounts, Quartiles

__all__ = ["add"]

# Letters of a class's name in a table of 80 columns.
WIDEST = 13


def add(commands: SubCommands[argparse.ArgumentParser]) -> None:
    """Add the verb, with its options."""
    check = commands.add_parser(
        "check",
        help="list the faults and warnings of all splits, and what the splits hold",
        epilog="example: drcnn data check photos. Status 0: no faults, 1: faults.",
    )
    add_data(check)
    check.add_argument("--json", action="store_true")
    check.set_defaults(run=_check)


def _check(options: argparse.Namespace) -> int:
    config = configuration(options)
    # Loads torch: not before the arguments are known to make sense.
    from drcnn.data.check import check
    from drcnn.data.summary import counts_by_class

    checked = check(config.data)
    counts = counts_by_class(checked.tables)
    if options.json:
        print(json.dumps(_as_json(checked, counts)))
    else:
        print("\n".join(map(printable, _lines(checked, counts, options.data))))
    return 1 if checked.faults else 0


def _as_json(checked: Checked, counts: list[ClassCounts]) -> dict[str, object]:
    return {
        "format": checked.words,
        "faults": checked.faults,
        "warnings": [asdict(warning) for warning in checked.warnings],
        "counts": [asdict(row) for row in counts],
    }


def _lines(checked: Checked, counts: list[ClassCounts], source: str) -> Iterator[str]:
    from drcnn.data.warnings import count_warnings

    if checked.words:
        yield f"data: {checked.words}"
    yield from (f"fault: {message}" for message in checked.faults)
    yield from (f"warning: {warning.message}" for warning in checked.warnings)
    if counts:
        yield from _table(counts)
    if checked.warnings:
        kinds = ", ".join(f"{kind}: {number}" for kind, number in count_warnings(checked.warnings))
        yield f"{_number(len(checked.warnings), 'warning')}, which training does not mind ({kinds})"
    if checked.faults:
        yield (
            f"{source}: {_number(len(checked.faults), 'fault')}; training refuses the data, or leaves images "
            "with a fault out with --on-bad-data skip"
        )
    else:
        yield f"{source}: no faults"


def _number(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _table(counts: list[ClassCounts]) -> Iterator[str]:
    """Sides of boxes (those ignored among them) are given as lower quartile, median and upper quartile."""
    names = ["all" if row.name is None else _cut(row.name) for row in counts]
    width = max(len("class"), *map(len, names))
    yield f"{'class':{width}}  {'split':5}  {'images':>6}  {'objects':>7}  {'ignored':>7}  " + (
        f"{'width 25-75%':>14}  {'height 25-75%':>14}"
    )
    for name, row in zip(names, counts, strict=True):
        yield (
            f"{name:{width}}  {row.split:5}  {row.images:6}  {row.objects:7}  {row.ignored:7}  "
            f"{_quartiles(row.widths):>14}  {_quartiles(row.heights):>14}"
        )


def _cut(name: str) -> str:
    return name if len(name) <= WIDEST else f"{name[: WIDEST - 1]}…"


def _quartiles(sides: Quartiles | None) -> str:
    """Whole pixels: the table fits 80 columns."""
    return "" if sides is None else " ".join(f"{side:.0f}" for side in sides)
