"""``drcnn train``: train one configuration, or resume it."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Mapping
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
from drcnn.identity import effective_settings, start_digest
from drcnn.plain_text import printable
from drcnn.recipes import configured
from drcnn.trained_model import find_model

__all__ = ["add"]

# What a detector sees of any data.
SIZES = ("data.short_side", "data.long_side", "data.train_short_sides")
# Metrics of an epoch's line.
SHOWN = ("AP", "AP50", "AP90")


def add(commands: SubCommands[argparse.ArgumentParser]) -> None:
    """Add the verb, with its options."""
    train = commands.add_parser(
        "train",
        help="train one configuration, or resume it",
        epilog="example: drcnn train --data photos --set training.epochs=4 --output runs/one. Ctrl-C, "
        "SIGTERM and a closed terminal (SIGHUP) end it with status 130, and the same command resumes it "
        "where it was last saved, at the latest after the last finished epoch; under nohup it survives its "
        "terminal.",
    )
    add_configuration(train)
    train.add_argument(
        "--from",
        dest="start",
        metavar="MODEL|coco",
        help="start from a whole detector: 'coco' (torchvision's Faster R-CNN), or, with its detector's "
        f"settings, its image sizes and, without --data, its data and splits, {MODEL}",
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
    train.set_defaults(
        run=_train, interrupted="interrupted; the same command goes on where it was last saved"
    )


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
    from drcnn.engine.required_start import require_start
    from drcnn.engine.train import fit
    from drcnn.locks import held

    def refuse_other_settings() -> bool:
        """Whether there is a run to go on with."""
        before = newest_header(options.output)
        if before is not None:
            _refuse_other_settings(options.output, before.state, config)
        return before is not None

    resumes = refuse_other_settings()
    # Of a folder that does not exist ``prepare`` tells at once: no download before that.
    if not resumes and (config.data.source == "digits" or _exists(config.data.source)):
        progress.phase("looking for the weights, which are downloaded once")
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
        print("\n".join(_next(options.output)))
    return 0


def _next(output: Path) -> list[str]:
    """The commands that use the detector, to be copied into a shell."""
    model, page, found = (shlex.quote(str(path)) for path in (output, output / "errors", output / "found"))
    return [
        f"what is wrong with it:   drcnn evaluate {model} --output {page}",
        f"find objects with it:    drcnn predict {model} PICTURES --output {found}",
    ]


def _refuse_other_settings(output: Path, state: Mapping[str, Any], now: Config) -> None:
    """Refuse to go on with a run of which anything that decides its result was different.

    ``fit`` compares the content of the data, wherever it lies.
    """
    before = Config.from_yaml(state["config"])
    old, new = effective_settings(before), effective_settings(now)
    changed = [
        f"{key}={old.get(key)} there, {new.get(key)} here"
        for key in {**old, **new}
        if old.get(key) != new.get(key)
    ]
    there, here, recorded = _start(before), _start(now), state.get("start", "")
    # A checkpoint holds all weights: the file that it started from need not be there any more.
    is_to_read = there != here or (recorded and Path(here[1]).is_file())
    if is_to_read and recorded != start_digest(now):
        changed.append(
            f"{'='.join(there)} there, {'='.join(here)} here"
            if there != here
            else f"the content of {here[1]}"
        )
    if changed:
        raise ConfigError(
            f"{output} holds a run of another configuration ({', '.join(changed)}); give another --output"
        )


def _start(config: Config) -> tuple[str, str]:
    init = config.training.init
    return ("detector.weights", config.detector.weights) if init == "none" else ("training.init", init)


def _exists(source: str) -> bool:
    from drcnn.data.formats.folders import joined_folders

    return Path(joined_folders(source.partition(":")[2])[0]).exists()


def _configuration_from(options: argparse.Namespace) -> Config:
    """The configuration of ``--from``: detector, image sizes and data are those which it starts from.

    ``--data`` replaces the data with their splits, ``--set`` anything. The schedule is the profile's.
    """
    from drcnn.engine.checkpoint_header import read_header

    source = None if options.data is None else absolute_source(options.data)
    changes: dict[str, Any] = {"training.init": "coco"}
    if options.start != "coco":
        checkpoint = find_model(options.start).checkpoint.resolve()
        theirs = dict(Config.from_yaml(read_header(checkpoint).state["config"]).flat())
        taken = ("detector.", *(SIZES if source else ("data.",)))
        changes = {key: value for key, value in theirs.items() if key.startswith(taken)}
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
