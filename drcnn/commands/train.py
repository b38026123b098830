"""``drcnn train``: train one configuration, or resume it."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from drcnn.assignments import parse_assignments
from drcnn.commands.options import (
    MODEL,
    SubCommands,
    absolute_source,
    add_configuration,
    configuration,
    run_options,
)
from drcnn.commands.progress import StepProgress
from drcnn.config import Config, ConfigError
from drcnn.plain_text import printable
from drcnn.recipes import configured
from drcnn.trained_model import find_model

__all__ = ["add"]

# Metrics of an epoch's line.
SHOWN = ("AP", "AP50", "AP90")


def add(commands: SubCommands[argparse.ArgumentParser]) -> None:
    """Add the verb, with its options."""
    train = commands.add_parser(
        "train",
        help="train one configuration, or resume it",
        epilog="Ctrl-C, SIGTERM and a closed terminal (SIGHUP) end it with status 130, and the same command "
        "resumes it after the last finished epoch; under nohup it survives its terminal.",
    )
    add_configuration(train)
    train.add_argument(
        "--from",
        dest="start",
        metavar="MODEL|coco",
        help="start from a whole detector: 'coco' (torchvision's Faster R-CNN), or, with its settings and "
        f"data, {MODEL}",
    )
    train.add_argument(
        "--on-bad-data",
        choices=("fail", "skip"),
        help="on an image that cannot be used: fail (default), or skip it and say so",
    )
    train.add_argument(
        "--output", type=Path, default=Path("runs/train"), help="folder of the run (runs/train)"
    )
    train.add_argument("--json", action="store_true", help="print one JSON object per epoch")
    train.set_defaults(run=_train)


def _train(options: argparse.Namespace) -> int:
    if options.on_bad_data is not None:
        options.changes.append(f"data.on_bad_data={options.on_bad_data}")
    config = configuration(options) if options.start is None else _configuration_from(options)
    progress = StepProgress(config.training.epochs)
    progress.phase("loading torch")
    # Not before the arguments are known to make sense.
    from drcnn.data.prepare import prepare
    from drcnn.engine.checkpoint_header import newest_header
    from drcnn.engine.metrics import counted_detections
    from drcnn.engine.start import require_start
    from drcnn.engine.train import fit
    from drcnn.locks import held

    def refuse_other_settings() -> bool:
        """Whether there is a run to go on with."""
        before = newest_header(options.output)
        if before is not None:
            _refuse_other_settings(options.output, Config.from_yaml(before.state["config"]), config)
        return before is not None

    resumes = refuse_other_settings()
    # Of a folder that does not exist ``prepare`` tells at once: no download before that.
    if not resumes and (config.data.source == "digits" or _exists(config.data.source)):
        require_start(config)
    progress.phase("reading the data")
    data = prepare(config.data, options.output / "data")
    progress.clear()
    capped = counted_detections(config)
    for line in [*data.said_at_start(config.data.source), *([capped] if capped else [])]:
        print(line, file=sys.stderr, flush=True)

    def report(metrics: dict[str, float]) -> None:
        progress.clear()
        if options.json:
            print(json.dumps(metrics), flush=True)
        else:
            print(_line(metrics, config.training.epochs), flush=True)

    def say(line: str) -> None:
        progress.clear()
        print(printable(line), file=sys.stderr, flush=True)

    with held(options.output, f"{options.output} is being trained already"):
        refuse_other_settings()  # of a process that has trained there meanwhile
        fit(config, data, options.output, report=report, options=run_options(), say=say, step=progress.step)
    if not options.json:
        print(f"{options.output}: finished; model in last.safetensors, record in result.json")
    return 0


def _refuse_other_settings(output: Path, before: Config, now: Config) -> None:
    old, new = dict(before.flat()), dict(now.flat())
    changed = ", ".join(f"{key}={old[key]} there, {new[key]} here" for key in new if old[key] != new[key])
    if changed:
        raise ConfigError(f"{output} holds a run of another configuration ({changed}); give another --output")


def _exists(source: str) -> bool:
    from drcnn.data.formats.folders import joined_folders

    return Path(joined_folders(source.partition(":")[2])[0]).exists()


def _configuration_from(options: argparse.Namespace) -> Config:
    """The configuration of ``--from``: detector and data are those which it starts from, unless given."""
    from drcnn.engine.checkpoint import read_state

    source = None if options.data is None else absolute_source(options.data)
    changes: dict[str, Any] = {"training.init": "coco"}
    if options.start != "coco":
        checkpoint = find_model(options.start).checkpoint.resolve()
        theirs = dict(Config.from_yaml(read_state(checkpoint).config).flat())
        changes = {key: value for key, value in theirs.items() if key.startswith("detector.")}
        changes["training.init"] = str(checkpoint)
        source = source or theirs["data.source"]
    if source is None:
        raise ConfigError("--from coco: which data? give --data DIR, or --data digits")
    whole = configured(options.profile, source, changes)
    return whole.with_changes(parse_assignments(options.changes))


def _line(metrics: dict[str, float], epochs: int) -> str:
    """An epoch in a line, and what it is judged by on the test split, if it was, in another."""
    figures = {
        split: f"{split} "
        + " ".join(
            f"{name} {100 * metrics[f'{split}/{name}']:.1f}" for name in SHOWN if f"{split}/{name}" in metrics
        )
        for split in ("val", "test")
        if f"{split}/AP" in metrics
    }
    epoch = f"epoch {metrics['epoch']:.0f}/{epochs}"
    speed = f"{metrics['perf/images_per_s']:.1f} images/s  {metrics['perf/epoch_seconds']:.0f} s"
    first = [
        epoch,
        *([figures["val"]] if "val" in figures else []),
        f"loss {metrics['train/loss']:.3f}",
        speed,
    ]
    return "\n".join(
        ["  ".join(first), *([f"{' ' * len(epoch)}  {figures['test']}"] if "test" in figures else [])]
    )
