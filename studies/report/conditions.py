"""The conditions of a study's results: how they differ from the paper's, and how to make them again."""

from __future__ import annotations

import json
import platform
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from drcnn.config import Config
from drcnn.presets import expand
from drcnn.recipes import recipe
from studies.analysis.replicates import Replicate
from studies.definition.labels import label, value_text
from studies.definition.metrics import MISSING, name_of, points
from studies.definition.plan import Plan
from studies.definition.settings import Changes
from studies.definition.study import SearchStudy, Study
from studies.record import provenance
from studies.report.blocks import Cell, Table

__all__ = ["deviations", "origin"]

PACKAGES = ("torch", "torchvision", "ray", "optuna", "mlflow", "numpy", "pycocotools")
# These say where the data lies, how much of it is used (said in words), and how damaged files are treated.
NOT_COMPARED = {"seed", "data.source", "data.on_bad_data", "data.train_images", "data.val_images"}
# The digits have no lists of images to choose from.
SPLITS = {"data.train_split", "data.val_split"}
IMAGES = {"VOC07+12": "16,551 training images", "COCO": "about 118,000 training images"}


@dataclass(frozen=True)
class _Pair:
    """A setting of the study as its file names it, and the complete configurations of the paper and here."""

    named: Changes
    paper: dict[str, Any]
    here: dict[str, Any]


def deviations(plan: Plan, data_here: str, data_there: str) -> dict[str, object]:
    """What ``deviations.md.j2`` tells: every setting that is another than the paper's.

    Args:
        plan: the study.
        data_here: its data, in words.
        data_there: the paper's, as its tables name it; "" for a study without a table.
    """
    is_coco = (data_there or plan.base.data.source.partition(":")[0].upper()) == "COCO"
    data = "COCO" if is_coco else "VOC07+12"
    pairs = [_pair(plan, named, "coco" if is_coco else "voc") for named in _settings(plan.study)]
    not_compared = NOT_COMPARED | (SPLITS if plan.base.data.source == "digits" else set())
    meanings = _meanings(Config)
    rows: list[tuple[Cell | str, ...]] = [
        ("data", f"{data}, {IMAGES[data]}", data_here, "what is learnt and tested")
    ]
    for key in pairs[0].here:
        for paper, here, settings in _differences(pairs, key) if key not in not_compared else ():
            rows.append((Cell(key, settings, is_code=True), paper, here, meanings.get(key, "")))
    caption = (
        f"What differs from the paper's setting on {data}. Each setting of the study is compared with the "
        "same one of the paper; in brackets, the settings in which they differ, if not in all."
    )
    columns = ("setting", "paper", "here", "meaning")
    cascades = [pair.paper for pair in pairs if pair.paper["detector.stages"] > 1]
    single = [pair.paper for pair in pairs if pair.paper["detector.stages"] == 1]
    return {
        "table": Table(caption, columns, rows, words=columns),
        "is_coco": is_coco,
        "stage_weights": value_text(cascades[0]["detector.stage_weights"][:3]) if cascades else "",
        "has_lambda_of_coco": is_coco and any(paper["detector.lambda_reg"] == 0.5 for paper in single),
    }


def _settings(study: Study) -> list[Changes]:
    """All settings of a study as its file names them; of a search, points that hold each of its choices."""
    if not isinstance(study, SearchStudy):
        return study.settings()
    points = [*([study.confirm.against] if study.confirm else ()), *study.first] or [study.middle]
    choices = ((key, value) for key, space in study.space.items() for value in space.choices)
    return [*points, *({**study.middle, key: value} for key, value in choices)]


def _pair(plan: Plan, named: Changes, kind: str) -> _Pair:
    # Not checked as a whole: somebody's own study may ask for what the paper's backbone refuses.
    paper = dict(Config().flat()) | expand(recipe("paper", f"{kind}:")) | expand(plan.study.base)
    return _Pair(named, paper | expand(named), dict(plan.overrides.config(named, plan.base.seed).flat()))


def _differences(pairs: Sequence[_Pair], key: str) -> Iterator[tuple[str, str, str]]:
    """Yield the paper's value of a key, ours, and in which settings; "" for all, or if the value says it."""
    by_values: dict[tuple[str, str], list[_Pair]] = {}
    for pair in pairs:
        by_values.setdefault((value_text(pair.paper[key]), value_text(pair.here[key])), []).append(pair)
    for (paper, here), members in by_values.items():
        if paper == here:
            continue
        is_plain = len(by_values) == 1 or all(key in pair.named for pair in pairs)
        yield paper, here, "" if is_plain else _which(members, pairs)


def _which(members: Sequence[_Pair], pairs: Sequence[_Pair]) -> str:
    """Name some of a study's settings: by one key that distinguishes them from the others, else by number."""
    others = [pair for pair in pairs if pair not in members]
    for key in members[0].named:
        values = list(dict.fromkeys(_value(pair, key) for pair in members))
        if not set(values) & {_value(pair, key) for pair in others}:
            return ", ".join(values)
    return f"{len(members)} of {len(pairs)} settings"


def _value(pair: _Pair, key: str) -> str:
    return label({key: pair.named.get(key, pair.paper[key])})


def _meanings(model: type[BaseModel], prefix: str = "") -> dict[str, str]:
    """The descriptions of a configuration's fields, by dotted key."""
    meanings: dict[str, str] = {}
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            meanings |= _meanings(field.annotation, f"{name}.")
        elif field.description:
            meanings[prefix + name] = field.description
    return meanings


def origin(plan: Plan, replicates: Sequence[Replicate]) -> dict[str, object]:
    """What ``origin.md.j2`` tells of the results of these trials."""
    packages = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
    return {
        "command": _command(plan),
        "output": _typed(plan.output),
        "commit": provenance.tags().get("mlflow.source.git.commit", "unknown"),
        "is_changed": bool(provenance.git_diff()),
        "versions": f"Python {platform.python_version()}, {packages}",
        "machine": f"{platform.machine()}, {platform.system()}",
        "fingerprints": sorted({replicate.trial.data.fingerprint for replicate in replicates}),
        "seeds": sorted({replicate.trial.config.seed for replicate in replicates}),
        "trials": _trials_table(replicates, plan.study.metric),
    }


def _trials_table(replicates: Sequence[Replicate], metric: str) -> Table:
    rows = [
        [
            replicate.trial.name,
            points(replicate.record.metric(metric)),
            Cell(replicate.trial.id, is_code=True),
            Cell(replicate.trial.model.id, is_code=True) if replicate.trial.model else MISSING,
        ]
        for replicate in replicates
    ]
    caption = "Every trial with its figure after its last epoch, finished or not, and its id."
    columns = ("trial", f"{name_of(metric)} × 100", "id", "trained by")
    return Table(caption, columns, rows, words=("id", "trained by")).without_empty_columns()


def _command(plan: Plan) -> str:
    """The launch as its folder remembers it: what decides results, and nothing that may hold a password."""
    try:
        request = json.loads((plan.folder / "request.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return f"python studies/run_study.py {shlex.quote(plan.name)} --profile {plan.profile}"
    words = ["python", "studies/run_study.py", request["study"], "--profile", request["profile"]]
    words += ["--data", request["source"], "--output", _typed(plan.output)]
    words += ["--set", *request["assignments"]] if request["assignments"] else []
    words += ["--seeds", str(request["seeds"])] if request["seeds"] else []
    words += ["--workers-per-trial", str(request["workers"])] if request["workers"] > 1 else []
    words += ["--on-bad-data", "skip"] if request["on_bad_data"] == "skip" else []
    words += ["--smoke"] if request["smoke"] else []
    return shlex.join(words)


def _typed(path: Path) -> str:
    """A path as it would be typed here: without what leads to the current folder."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
