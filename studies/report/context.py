"""The report's parts on circumstances: how to read it, and where it is from."""

from __future__ import annotations

import json
import math
import platform
import shlex
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from studies.analysis.replicates import Setting, load_annotations
from studies.definition.plan import Plan, Trial
from studies.record import provenance
from studies.report.document import Block, Bullets, Code, Table, Text, literal

__all__ = ["data_words", "how_to_read", "origin"]

VERSIONS = ("torch", "torchvision", "ray", "optuna", "mlflow", "numpy", "pycocotools")


def how_to_read() -> list[Block]:
    """The words of the report, for those who have not read the paper."""
    return [
        Text(
            "A detector draws boxes around the objects of an image and names them. This study trains "
            "variants of **Decoupled R-CNN** and counts how well their boxes and names fit. The words used:"
        ),
        Bullets(
            (
                "**IoU** of two boxes: their common area divided by the area of both together; 1 means they "
                "are the same box.",
                "**AP50, AP60 ... AP90** (average precision): how completely and how cleanly the objects are "
                "found, from 0 to 100, when a box counts as right from an IoU of 0.5, 0.6 ... 0.9 with the "
                "true one. **AP** is the mean over 0.50, 0.55 ... 0.95. AP90 asks for very exact boxes.",
                "**Proposals** are the first guesses where an object may be. Two branches refine them: the "
                "**classifier** names the object, the **regressor** corrects the box.",
                "**NMS** removes a proposal that overlaps a better one by more than a threshold. **NMS_cls** "
                "is the threshold for the classifier's training proposals, **NMS_reg** for the regressor's: "
                "a higher one leaves more proposals around each object. The paper's idea is that the two "
                "should differ.",
                "**stages**: how many regressors correct a box one after another.",
                "**λ** (lambda_reg): the weight of the box errors in training, against those of the names.",
                "**Seed**: the start of all random choices. Training again with another seed gives somewhat "
                "other figures.",
                "**95 % interval**: a range found in a way that holds the true value 19 times in 20. A "
                "difference is **shown** if p, corrected for the number of comparisons (Holm), is below "
                "0.05; else the figures do not tell the settings apart. The intervals are those of one "
                "comparison alone, uncorrected: of many that are made, one in 20 misses 0 by chance, so an "
                "interval that does not hold 0 does not yet show a difference.",
            )
        ),
    ]


def data_words(trial: Trial) -> str:
    """The data and how much of it, in words."""
    source = trial.config.data.source
    train, val = load_annotations(trial.data.train), load_annotations(trial.data.val)
    name = "handwritten digits on cluttered canvases (`digits`)" if source == "digits" else f"`{source}`"
    if train is None or val is None:
        return name
    return f"{name}: {len(train):,} training images, {len(val):,} test images, {len(val.classes)} classes"


def origin(plan: Plan, settings: Sequence[Setting]) -> list[Block]:
    """Command, commit, versions, data, seeds and trial ids: what it takes to find or make this again."""
    runs = [run for setting in settings for run in setting.runs]
    commit = provenance.tags().get("mlflow.source.git.commit", "")
    changed = ", with uncommitted changes" if provenance.git_diff() else ""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in VERSIONS)
    seeds = sorted({run.trial.config.seed for run in runs})
    prints = sorted({run.trial.data.fingerprint for run in runs})
    items = (
        f"Study `{plan.name}`, profile `{plan.profile}`, kept in `{literal(_shown(plan.output))}`.",
        f"Code that wrote this report: commit `{commit or 'unknown'}`{changed}.",
        f"Python {platform.python_version()}, {versions}; {platform.machine()}, {platform.system()}.",
        f"Fingerprint of the data (images, objects, splits): {', '.join(f'`{each}`' for each in prints)}.",
        f"Seeds: {', '.join(map(str, seeds))}.",
    )
    metric = plan.study.metric
    columns = ["trial", f"{metric.removeprefix('val/')} × 100", "id"]
    rows = [
        [run.trial.name, _percent(run.record.metrics.get(metric, math.nan)), f"`{run.trial.id}`"]
        for run in runs
    ]
    if any(run.trial.model for run in runs):
        columns.append("trained by")
        for row, run in zip(rows, runs, strict=True):
            row.append(f"`{run.trial.model.id}`" if run.trial.model else "itself")
    return [
        Text("The command that made these results:"),
        Code(_command(plan)),
        Bullets(items),
        Table(
            "Every trial with its figure after its last epoch, finished or not, and its id, a hash of "
            "configuration, seed and data. Each has a folder `trials/ID` with its "
            "configuration, checkpoints and detections, and a run in MLflow tagged with it; an evaluation is "
            "kept in the folder of the trial that trained its detector.",
            tuple(columns),
            tuple(map(tuple, rows)),
            words=("id", "trained by"),
        ),
    ]


def _command(plan: Plan) -> str:
    """The launch as its folder remembers it: what decides results, and nothing that may hold a password."""
    try:
        asked = json.loads((plan.folder / "request.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return f"python studies/run_study.py {shlex.quote(plan.name)} --profile {plan.profile}"
    words = ["python", "studies/run_study.py", asked["study"], "--profile", asked["profile"]]
    words += ["--data", asked["source"], "--output", _shown(plan.output)]
    if asked["assignments"]:
        words += ["--set", *asked["assignments"]]
    if asked["seeds"]:
        words += ["--seeds", str(asked["seeds"])]
    if asked["workers"] > 1:
        words += ["--workers-per-trial", str(asked["workers"])]
    if asked["on_bad_data"] == "skip":
        words += ["--on-bad-data", "skip"]
    return shlex.join([*words, "--smoke"] if asked["smoke"] else words)


def _shown(path: Path) -> str:
    """A path as it would be typed here: without what leads to the current folder."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.1f}"
