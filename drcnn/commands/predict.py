"""``drcnn predict``: detect the objects in pictures and videos."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from drcnn.assignments import parse_assignments
from drcnn.commands.options import MODEL, SubCommands, add_changes, run_options
from drcnn.config import ConfigError
from drcnn.plain_text import printable
from drcnn.trained_model import find_model

if TYPE_CHECKING:
    from drcnn.engine.predict_files import Summary

__all__ = ["add"]

SCORE = 0.5
# Below it a detection is as good as none.
UNSURE = 0.05


def add(commands: SubCommands[argparse.ArgumentParser]) -> None:
    """Add the verb, with its options."""
    predict = commands.add_parser(
        "predict",
        help="detect the objects in pictures and videos",
        description="Detect objects. OUTPUT gets pictures/ with the boxes drawn in, and predictions.json "
        "(COCO's format).",
        epilog="example: drcnn predict runs/nms_sweep photos/ --output found --format yolo",
    )
    predict.add_argument("model", metavar="MODEL", help=MODEL)
    predict.add_argument("inputs", nargs="+", metavar="PATH", help="pictures, folders of pictures, or videos")
    predict.add_argument("--output", type=Path, required=True, help="folder of the results")
    predict.add_argument(
        "--score", type=_score, default=SCORE, help=f"least score of a detection, 0 to 1 ({SCORE})"
    )
    predict.add_argument(
        "--format", choices=("yolo", "voc"), help="write label files too, to correct them in a labelling tool"
    )
    add_changes(predict)
    predict.add_argument("--json", action="store_true", help="print a summary as JSON")
    predict.set_defaults(run=_predict)


def _score(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 to 1")
    return value


def _predict(options: argparse.Namespace) -> int:
    from drcnn.data.files.picture_files import find_pictures

    pictures = find_pictures(options.inputs, without=options.output)
    model = find_model(options.model)
    changes = {**model.changes, **parse_assignments(options.changes)}
    if options.output.exists() and not options.output.is_dir():
        raise ConfigError(f"--output {options.output}: is a file; give a folder")

    from drcnn.engine.predict import Predictor
    from drcnn.engine.predict_files import predict_files

    predictor = Predictor(model.checkpoint, run_options(), changes)
    if options.score < predictor.config.detector.score_thr:
        changes["detector.score_thr"] = options.score
        predictor = Predictor(model.checkpoint, run_options(), changes)
    summary = predict_files(
        predictor, pictures, options.output, score=options.score, label_format=options.format
    )
    for fault in summary.skipped:
        print(f"drcnn: skipped {printable(fault)}", file=sys.stderr)
    print(json.dumps(summary.as_json()) if options.json else _text(summary, options))
    return 1 if summary.skipped else 0


def _text(summary: Summary, options: argparse.Namespace) -> str:
    from drcnn.data.files.drawing import numbers_in_words

    if not summary.pictures:
        return "No file could be read: nothing was written but an empty predictions.json"
    total = sum(summary.counts.values())
    lines = [f"{summary.pictures} pictures, {total} detections of score {options.score:g} or more"]
    if total:
        lines.append(", ".join(f"{name}: {count}" for name, count in summary.counts.items() if count))
    elif summary.highest >= UNSURE:
        lines.append(f"The highest score is {summary.highest:.2f}: try --score {summary.highest / 2:.2g}")
    else:
        lines.append(
            f"No score is above {UNSURE:g}: the detector sees none of its classes, or learned too little"
        )
    lines.append(f"Pictures: {options.output / 'pictures'}")
    if numbers := numbers_in_words(list(summary.counts)):
        lines.append(numbers)
    lines.append(f"Detections: {summary.predictions}")
    if summary.labels is not None:
        lines.append(f"Labels: {summary.labels}")
    return "\n".join(lines)
