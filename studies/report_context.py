"""The report's parts on circumstances: how to read it, what differs from the paper, where it is from."""

from __future__ import annotations

import json
import math
import platform
import shlex
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from pydantic import BaseModel

from drcnn.config import Config
from drcnn.presets import expand
from drcnn.recipes import recipe
from studies import provenance
from studies.document import Block, Bullets, Code, Table, Text, literal
from studies.evidence import Setting, load_annotations, short
from studies.trials import Plan, Trial

__all__ = ["data_words", "deviations", "how_to_read", "origin"]

VERSIONS = ("torch", "torchvision", "ray", "optuna", "mlflow", "numpy", "pycocotools")
# Of the paper's setting, these say where the data lies or what to do with damaged files.
NOT_COMPARED = {"seed", "data.source", "data.on_bad_data", "data.train_images", "data.val_images"}
IMAGES = {"VOC07+12": "16,551 training images", "COCO": "about 118,000 training images"}


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
                "0.05; else the figures do not tell the settings apart.",
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


def deviations(plan: Plan, settings: Sequence[Setting], data: str) -> list[Block]:
    """Every setting that is another than the paper's, but for those in which the study's own differ.

    Args:
        plan: the study.
        settings: its settings.
        data: the paper's, as its tables name it; "" for a study without a table.
    """
    trial = settings[0].first
    flats = [dict(setting.first.config.flat()) for setting in settings]
    varied = {key for key in flats[0] if len({short(flat[key]) for flat in flats}) > 1} | set(trial.varied)
    ours = dict(trial.config.flat())
    kind = "coco" if (data or ours["data.source"].partition(":")[0].upper()) == "COCO" else "voc"
    name = data or ("COCO" if kind == "coco" else "VOC07+12")
    # Without the checks of a whole configuration: a laptop's base may ask for what the paper's refuses.
    paper = dict(Config().flat()) | expand(recipe("paper", f"{kind}:")) | expand(plan.study.base)
    words = _meanings(Config)
    rows: list[tuple[str, ...]] = [
        ("data", f"{name}, {IMAGES[name]}", data_words(trial), "what is learnt and tested"),
    ]
    for key, value in ours.items():
        if key not in NOT_COMPARED | varied and short(value) != short(paper[key]):
            rows.append((f"`{key}`", short(paper[key]), short(value), words.get(key, "")))
    for key, values in plan.study.laptop.items() if plan.profile == "laptop" else ():
        for value, changes in values.items():
            stands = ", ".join(f"{name.rpartition('.')[2]} {short(given)}" for name, given in changes.items())
            rows.append((f"`{key}`", short(value), stands, "stands for the paper's, at a laptop's size"))
    caption = (
        f"What differs from the paper's setting on {name}; the settings that the study varies are left out."
    )
    said = (
        "The levels of AP here and in the paper cannot be compared: only how AP changes with a setting can."
        if len(rows) > 2
        else "Data and settings are close to the paper's."
    )
    columns = ("setting", "paper", "here", "meaning")
    return [Text(said), Table(caption, columns, tuple(rows), words=columns)]


def _meanings(model: type[BaseModel], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found |= _meanings(field.annotation, f"{name}.")
        elif field.description:
            found[prefix + name] = field.description
    return found


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
        [run.trial.name, _percent(run.outcome.metrics.get(metric, math.nan)), f"`{run.trial.id}`"]
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
