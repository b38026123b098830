"""``drcnn evaluate``: the metrics of a checkpoint."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from drcnn.assignments import parse_assignments
from drcnn.commands.options import DATA_HELP, MODEL, SubCommands, add_changes, run_options
from drcnn.config import Config, ConfigError, DataConfig
from drcnn.trained_model import find_model

if TYPE_CHECKING:
    from drcnn.engine.metrics import Metrics


__all__ = ["add"]


def add(commands: SubCommands[argparse.ArgumentParser]) -> None:
    """Add the verb, with its options."""
    evaluate = commands.add_parser(
        "evaluate", help="compute the metrics of a checkpoint on the validation split"
    )
    evaluate.add_argument("model", metavar="MODEL", help=MODEL)
    evaluate.add_argument("--data", help=f"data other than that of its training: {DATA_HELP}")
    add_changes(evaluate)
    evaluate.add_argument("--json", action="store_true")
    evaluate.set_defaults(run=_evaluate)


def _evaluate(options: argparse.Namespace) -> int:
    from drcnn.data.layouts import resolve_source
    from drcnn.engine.checkpoint import read_state

    model = find_model(options.model)
    changes = {**model.changes, **parse_assignments(options.changes)}
    if options.data is not None:
        changes["data.source"] = resolve_source(options.data)
    state = read_state(model.checkpoint)
    config = Config.from_yaml(state.config).with_changes(changes)
    with TemporaryDirectory(prefix="drcnn-") as spare:
        split = _judged(config.data, model.checkpoint.parent / "data", Path(spare))
        metrics = _metrics(model.checkpoint, config, state.classes, split)
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
    from drcnn.data.annotations import DataError
    from drcnn.data.classes import matched
    from drcnn.engine.inference import evaluate_checkpoint

    try:
        split = matched(split, classes)
    except DataError as error:
        raise ConfigError(
            f"{checkpoint} was trained on the classes {', '.join(classes)}; {config.data.source} has {error}"
        ) from None
    return evaluate_checkpoint(checkpoint, config, {"judged": split}, run_options())["judged"].metrics
