"""The ``drcnn`` command: train, evaluate, check data, count complexity and measure speed.

drcnn train --data voc:VOC2007 --set training.epochs=4 --output runs/one
drcnn evaluate runs/one/last.safetensors --data voc:VOC2007
drcnn data check coco:COCO
drcnn complexity --set detector.variant=decoupled_cascade
drcnn bench
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from drcnn.assignments import parse_assignments
from drcnn.config import Config, ConfigError, DataConfig
from drcnn.recipes import PROFILES, configured

if TYPE_CHECKING:
    from drcnn.engine.metrics import Metrics
    from drcnn.engine.run_options import RunOptions

__all__ = ["main"]

BAD_INPUT = 2
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    0: done; 1: training failed, or faults found; 2: bad input, or files or the network failed (one line says
    which); 130: interrupted.
    """
    options = _parser().parse_args(arguments)
    from drcnn.data.annotations import DataError
    from drcnn.engine.checkpoint import CheckpointError
    from drcnn.engine.train import TrainingDiverged

    try:
        status: int = options.run(options)
    except (ConfigError, DataError, CheckpointError, OSError) as error:
        print(f"drcnn: {' '.join(str(error).splitlines())}", file=sys.stderr)
        return BAD_INPUT
    except TrainingDiverged as error:
        print(f"drcnn: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("drcnn: interrupted; the same command resumes after the last finished epoch", file=sys.stderr)
        return INTERRUPTED
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="drcnn", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    train = commands.add_parser("train", help="train one configuration, or resume it")
    _add_configuration(train)
    train.add_argument(
        "--output", type=Path, default=Path("runs/train"), help="folder of the run (runs/train)"
    )
    train.add_argument("--json", action="store_true", help="print one JSON object per epoch")
    train.set_defaults(run=_train)

    evaluate = commands.add_parser(
        "evaluate", help="compute the metrics of a checkpoint on the validation split"
    )
    evaluate.add_argument("checkpoint", type=Path)
    evaluate.add_argument("--data", help="data other than that of its training: digits, voc:DIR or coco:DIR")
    _add_changes(evaluate)
    evaluate.add_argument("--json", action="store_true")
    evaluate.set_defaults(run=_evaluate)

    complexity = commands.add_parser("complexity", help="count parameters and FLOPs as the paper does")
    _add_changes(complexity)
    complexity.add_argument(
        "--classes", type=int, default=80, help="number of classes without the background (80, as in COCO)"
    )
    complexity.add_argument(
        "--table", action="store_true", help="count every detector of the paper's Tables VIII-XI"
    )
    complexity.add_argument("--json", action="store_true")
    complexity.set_defaults(run=_complexity)

    bench = commands.add_parser("bench", help="measure speed beside torchvision's Faster R-CNN, in one run")
    _add_changes(bench)
    bench.add_argument("--images", type=int, default=2, help="images per batch (2)")
    bench.add_argument("--size", type=int, nargs=2, default=(480, 608), metavar=("HEIGHT", "WIDTH"))
    bench.add_argument("--repeats", type=int, default=5, help="measured rounds (5)")
    bench.add_argument(
        "--output",
        type=Path,
        default=Path("runs/bench"),
        help="folder that keeps the trained weights (runs/bench)",
    )
    bench.add_argument("--json", action="store_true")
    bench.set_defaults(run=_bench)

    data = commands.add_parser("data", help="inspect a data folder").add_subparsers(required=True)
    check = data.add_parser("check", help="list every fault of all splits")
    check.add_argument("data", help="voc:DIR or coco:DIR")
    _add_changes(check)
    check.add_argument("--json", action="store_true")
    check.set_defaults(run=_check, profile="laptop")
    return parser


def _add_changes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", dest="changes")


def _add_configuration(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--profile", choices=PROFILES, default="laptop")
    parser.add_argument("--data", default="digits", help="digits, voc:DIR[+DIR] or coco:DIR")
    _add_changes(parser)


def _configuration(options: argparse.Namespace) -> Config:
    return configured(options.profile, options.data, parse_assignments(options.changes))


def _run_options() -> RunOptions:
    import torch

    from drcnn.engine.run_options import RunOptions

    if torch.cuda.is_available():
        return RunOptions(device="cuda", loader_workers=8)
    return RunOptions()


def _train(options: argparse.Namespace) -> int:
    from drcnn.data.prepare import prepare
    from drcnn.engine.checkpoint import read_state
    from drcnn.engine.train import fit

    config = _configuration(options)
    last = options.output / "last.safetensors"
    if last.exists() and Config.from_yaml(read_state(last).config) != config:
        raise ConfigError(f"{options.output} holds a run of another configuration; give another --output")
    data = prepare(config.data, options.output / "data")

    def report(metrics: dict[str, float]) -> None:
        if options.json:
            print(json.dumps(metrics), flush=True)
        else:
            print(_line(metrics, config.training.epochs), flush=True)

    fit(config, data, options.output, report=report, options=_run_options())
    if not options.json:
        print(f"{options.output}: finished; model in last.safetensors, record in result.json")
    return 0


def _line(metrics: dict[str, float], epochs: int) -> str:
    figures = "  ".join(
        f"{split} {name} {100 * metrics[f'{split}/{name}']:.1f}"
        for split in ("val", "test")
        for name in ("AP", "AP50", "AP75", "AP90")
        if f"{split}/{name}" in metrics
    )
    return (
        f"epoch {metrics['epoch']:.0f}/{epochs}  {figures}  loss {metrics['train/loss']:.3f}  "
        f"{metrics['perf/images_per_s']:.1f} images/s  {metrics['perf/epoch_seconds']:.0f} s"
    )


def _evaluate(options: argparse.Namespace) -> int:
    from drcnn.engine.checkpoint import read_state

    changes = parse_assignments(options.changes)
    if options.data is not None:
        changes["data.source"] = options.data
    state = read_state(options.checkpoint)
    config = Config.from_yaml(state.config).with_changes(changes)
    with TemporaryDirectory(prefix="drcnn-") as spare:
        split = _judged(config.data, options.checkpoint.parent / "data", Path(spare))
        metrics = _metrics(options.checkpoint, config, state.classes, split)
    if options.json:
        print(json.dumps({"summary": metrics.summary, "per_class": metrics.per_class}))
    else:
        for name, value in {**metrics.summary, **metrics.per_class}.items():
            print(f"{name:<12} {100 * value:5.1f}")
    return 0


def _judged(data: DataConfig, cache: Path, spare: Path) -> str:
    """Prepare the split to judge by in ``cache``, or in ``spare`` if ``cache`` cannot be written."""
    from drcnn.data.prepare import prepare_judged

    try:
        return prepare_judged(data, cache)
    except OSError:
        return prepare_judged(data, spare)


def _metrics(checkpoint: Path, config: Config, classes: list[str], split: str) -> Metrics:
    from drcnn.data.annotations import Annotations
    from drcnn.engine.inference import evaluate_checkpoint

    split_classes = Annotations.load(split).classes
    if list(split_classes) != classes:
        raise ConfigError(
            f"{checkpoint} was trained on the classes {', '.join(classes)}; "
            f"{config.data.source} has {', '.join(split_classes)}"
        )
    return evaluate_checkpoint(checkpoint, config, {"judged": split}, _run_options())["judged"].metrics


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
        run=_run_options(),
    )
    report = partial(print, file=sys.stderr, flush=True)
    result = bench.bench(bench_options, options.output, report=report)
    print(json.dumps(result) if options.json else figures.bench_table(result))
    return 0


def _check(options: argparse.Namespace) -> int:
    from drcnn.data.prepare import check

    faults = check(_configuration(options).data)
    if options.json:
        print(json.dumps({"faults": faults}))
    else:
        print("\n".join(faults) or f"{options.data}: no faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
