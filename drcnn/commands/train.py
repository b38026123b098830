"""``drcnn train``: train one configuration, or resume it."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from drcnn.commands.options import SubCommands, add_configuration, configuration, run_options
from drcnn.config import Config, ConfigError

__all__ = ["add"]


def add(commands: SubCommands[argparse.ArgumentParser]) -> None:
    """Add the verb, with its options."""
    train = commands.add_parser("train", help="train one configuration, or resume it")
    add_configuration(train)
    train.add_argument(
        "--output", type=Path, default=Path("runs/train"), help="folder of the run (runs/train)"
    )
    train.add_argument("--json", action="store_true", help="print one JSON object per epoch")
    train.set_defaults(run=_train)


def _train(options: argparse.Namespace) -> int:
    from drcnn.data.prepare import prepare
    from drcnn.engine.checkpoint import read_state
    from drcnn.engine.train import fit

    config = configuration(options)
    last = options.output / "last.safetensors"
    if last.exists() and Config.from_yaml(read_state(last).config) != config:
        raise ConfigError(f"{options.output} holds a run of another configuration; give another --output")
    data = prepare(config.data, options.output / "data")
    if data.described:
        print(f"data: {data.described}", file=sys.stderr, flush=True)

    def report(metrics: dict[str, float]) -> None:
        if options.json:
            print(json.dumps(metrics), flush=True)
        else:
            print(_line(metrics, config.training.epochs), flush=True)

    fit(config, data, options.output, report=report, options=run_options())
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
