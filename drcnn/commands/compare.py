"""``drcnn compare``: two trained detectors, or two settings, on the same images."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory

from drcnn.commands.evaluate import prepare_split
from drcnn.commands.options import SubCommands, absolute_source
from drcnn.config import ConfigError
from drcnn.file_names import typed_path

__all__ = ["add"]

TRIALS = "a trial's folder (or the checkpoint in it), or several of one setting: A1,A2,..."


def add(commands: SubCommands[argparse.ArgumentParser]) -> None:
    """Add the verb, with its options."""
    compare = commands.add_parser(
        "compare",
        help="compare two trained detectors, or two settings with several seeds each",
        description="Compare by the detections that the trials left: settings that differ, metrics with "
        "paired 95%% intervals over the judged images, errors by type, the images where one wins most.",
        epilog="example: drcnn compare runs/one,runs/two runs/three,runs/four --output compared",
    )
    compare.add_argument("a", metavar="A", help=TRIALS)
    compare.add_argument("b", metavar="B", help="likewise")
    compare.add_argument("--data", help="where the data that both were judged by is now")
    compare.add_argument(
        "--output", type=Path, metavar="DIR", help="write comparison.html there: images where one wins most"
    )
    compare.add_argument("--json", action="store_true", help="print all figures as JSON")
    compare.set_defaults(run=_compare)


def _compare(options: argparse.Namespace) -> int:
    sides = [_paths(text) for text in (options.a, options.b)]

    from drcnn.data.annotations import Annotations
    from drcnn.engine.comparison import compare_trials
    from drcnn.engine.stored_trial import read_trial
    from drcnn.report.comparison import (
        about_intervals,
        comparison_tables,
        sides_in_words,
        verdict,
        write_comparison,
    )

    a, b = ([read_trial(path) for path in paths] for paths in sides)
    changes: dict[str, str | None] = (
        {} if options.data is None else {"data.source": absolute_source(options.data)}
    )
    if a[0].judged == "val":  # also where the data has got a test split since
        changes["data.test_split"] = None
    data = a[0].config.with_changes(changes).data
    with TemporaryDirectory(prefix="drcnn-") as spare:
        own = a[0].folder / "data"
        cache = own if own.is_dir() else Path(spare)
        comparison = compare_trials(a, b, Annotations.load(prepare_split(data, cache, Path(spare))))
        files = write_comparison(options.output, comparison) if options.output is not None else []
    if options.json:
        print(json.dumps(comparison.to_json()))
        return 0

    from rich.console import Console

    console = Console()
    print("\n".join(sides_in_words(comparison)))
    for table in comparison_tables(comparison):
        console.print(table.to_rich())
    print(verdict(comparison))
    print(about_intervals(comparison))
    print(f"images where one wins most: {files[0]}" if files else "--output DIR draws where one wins most")
    return 0


def _paths(text: str) -> list[Path]:
    """The paths that are joined by commas; a path that exists may hold some itself."""
    if typed_path(text).exists():
        return [typed_path(text)]
    parts = [part for part in text.split(",") if part]
    if not parts:
        raise ConfigError(f"{text!r}: expected {TRIALS}")
    return [typed_path(part) for part in parts]
