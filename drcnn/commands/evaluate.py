"""``drcnn evaluate``: the metrics of a checkpoint, and what is wrong with it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from drcnn.assignments import parse_assignments
from drcnn.commands.options import DATA_HELP, MODEL, SubCommands, absolute_source, add_changes, run_options
from drcnn.config import Config, ConfigError, DataConfig
from drcnn.trained_model import find_model

if TYPE_CHECKING:
    from drcnn.data.annotations import Annotations
    from drcnn.engine.inference import Evaluation


__all__ = ["add", "prepare_split"]


def add(commands: SubCommands[argparse.ArgumentParser]) -> None:
    """Add the verb, with its options."""
    evaluate = commands.add_parser(
        "evaluate",
        help="compute the metrics of a checkpoint, and its errors by type",
        description="Evaluate on the test split of the data, or on its validation split where there is none: "
        "AP, AP by class, and errors by type with the AP50 that each costs (TIDE).",
        epilog="example: drcnn evaluate runs/one --data voc:VOC2007 --output evaluation",
    )
    evaluate.add_argument("model", metavar="MODEL", help=MODEL)
    evaluate.add_argument("--data", help=f"data other than that of its training: {DATA_HELP}")
    evaluate.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="write evaluation.html there: curves, confusion matrix, worst images",
    )
    add_changes(evaluate)
    evaluate.add_argument("--json", action="store_true", help="print all figures as JSON")
    evaluate.set_defaults(run=_evaluate)


def _evaluate(options: argparse.Namespace) -> int:
    model = find_model(options.model)
    changes = {**model.changes, **parse_assignments(options.changes)}
    if options.data is not None:
        changes["data.source"] = absolute_source(options.data)
    from drcnn.engine.checkpoint import read_state

    state = read_state(model.checkpoint)
    config = Config.from_yaml(state.config).with_changes(changes)
    with TemporaryDirectory(prefix="drcnn-") as spare:
        split = prepare_split(config.data, model.checkpoint.parent / "data", Path(spare))
        annotations, evaluation = _detect(model.checkpoint, config, state.classes, split)
        _tell(options, config, annotations, evaluation)
    return 0


def prepare_split(data: DataConfig, cache: Path, spare: Path) -> str:
    """Prepare the split to judge by in ``cache``, or in ``spare`` if ``cache`` cannot be written."""
    from drcnn.data.prepare import prepare_judged

    try:
        return prepare_judged(data, cache)
    except OSError:
        return prepare_judged(data, spare)


def _detect(
    checkpoint: Path, config: Config, classes: list[str], split: str
) -> tuple[Annotations, Evaluation]:
    from drcnn.data.annotations import Annotations, DataError
    from drcnn.data.formats.classes import matched
    from drcnn.engine.inference import evaluate_checkpoint

    try:
        split = matched(split, classes)
    except DataError as error:
        raise ConfigError(
            f"{checkpoint} was trained on the classes {', '.join(classes)}; {config.data.source} has {error}"
        ) from None
    annotations = Annotations.load(split)
    return annotations, evaluate_checkpoint(checkpoint, config, {"judged": split}, run_options())["judged"]


def _tell(
    options: argparse.Namespace, config: Config, annotations: Annotations, evaluation: Evaluation
) -> None:
    """Print the figures, and write them to ``--output``."""
    from drcnn.engine.diagnosis import diagnose
    from drcnn.engine.judged_detections import judge

    judged = judge(annotations, evaluation.detections, config.evaluation.metric)
    diagnosis = diagnose(annotations, judged)
    files = []
    if options.output is not None:
        from drcnn.report.evaluation import write_evaluation

        title = f"{options.model} on {config.data.source}"
        files = write_evaluation(options.output, title, annotations, judged, evaluation.metrics, diagnosis)
    if options.json:
        metrics = evaluation.metrics
        figures = {"summary": metrics.summary, "per_class": metrics.per_class}
        print(json.dumps({**figures, **diagnosis.to_json()}))
        return

    from rich.console import Console

    from drcnn.report.diagnosis_tables import classes_table, errors_table

    print(f"{len(annotations):,} images of {config.data.source}")
    for name, value in evaluation.metrics.summary.items():
        print(f"{name:<12} {100 * value:5.1f}")
    console = Console()
    for table in (classes_table(diagnosis), errors_table(diagnosis)):
        console.print(table.to_rich())
    if files:
        print(f"curves, confusion matrix and worst images: {files[0]}")
    else:
        print("--output DIR shows curves, the confusion matrix and the worst images")
