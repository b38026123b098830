"""``drcnn complexity`` and ``drcnn bench``: what a detector costs, counted and measured."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

from drcnn.assignments import parse_assignments
from drcnn.commands.options import SubCommands, add_changes, run_options
from drcnn.config import Config

__all__ = ["add"]


def add(commands: SubCommands[argparse.ArgumentParser]) -> None:
    """Add the verb, with its options."""
    complexity = commands.add_parser(
        "complexity",
        help="count parameters and FLOPs as the paper does",
        epilog="example: drcnn complexity --set detector.variant=decoupled_cascade",
    )
    add_changes(complexity)
    complexity.add_argument(
        "--classes", type=int, default=80, help="number of classes without the background (80, as in COCO)"
    )
    complexity.add_argument(
        "--table", action="store_true", help="count every detector of the paper's Tables VIII-XI"
    )
    complexity.add_argument("--json", action="store_true")
    complexity.set_defaults(run=_complexity)

    bench = commands.add_parser(
        "bench",
        help="measure speed beside torchvision's Faster R-CNN, in one run",
        epilog="example: drcnn bench --images 1 --size 480 640",
    )
    add_changes(bench)
    bench.add_argument("--images", type=int, default=2, help="images per batch (2)")
    bench.add_argument("--size", type=int, nargs=2, default=(480, 608), metavar=("HEIGHT", "WIDTH"))
    bench.add_argument("--repeats", type=int, default=5, help="measured rounds (5)")
    bench.add_argument("--amp", action="store_true", help="measure our detectors in bf16 too")
    bench.add_argument(
        "--output",
        type=Path,
        default=Path("runs/bench"),
        help="folder that keeps the trained weights (runs/bench)",
    )
    bench.add_argument("--json", action="store_true")
    bench.set_defaults(run=_bench)


def _complexity(options: argparse.Namespace) -> int:
    from drcnn.engine import complexity, figures

    if options.table:
        rows = complexity.paper_rows()
        print(json.dumps([asdict(row) for row in rows]) if options.json else figures.paper_table(rows))
        return 0
    config = Config().with_changes(parse_assignments(options.changes))
    counted = complexity.complexity(config.detector, classes=options.classes)
    print(json.dumps(figures.as_json(counted)) if options.json else figures.parts_table(counted))
    return 0


def _bench(options: argparse.Namespace) -> int:
    from drcnn.engine import bench, figures

    height, width = options.size
    bench_options = bench.BenchOptions(
        changes=parse_assignments(options.changes),
        images=options.images,
        height=height,
        width=width,
        repeats=options.repeats,
        amp=options.amp,
        run=run_options(),
    )
    report = partial(print, file=sys.stderr, flush=True)
    result = bench.bench(bench_options, options.output, report=report)
    print(json.dumps(result) if options.json else figures.bench_table(result))
    return 0
