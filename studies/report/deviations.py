"""How a study's settings differ from the paper's, each beside the same setting as the paper has it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from drcnn.backbone_weights import IMAGENET_BACKBONES, WEIGHT_NAMES
from drcnn.config import Config
from drcnn.identity import WITHOUT_EFFECT
from drcnn.presets import expand
from drcnn.recipes import recipe
from drcnn.report.blocks import Cell, Table
from drcnn.variants import VARIANTS
from studies.definition.labels import label, value_text
from studies.definition.paper_tables import paper_rows, row_of
from studies.definition.plan import Plan
from studies.definition.settings import Changes
from studies.definition.study import SearchStudy, Study

__all__ = ["deviations"]

# The digits have no lists of images to choose from.
SPLITS = {"data.train_split", "data.val_split", "data.test_split"}
# What has no effect says where the data lies, how much of it is used (said in words), how damaged files are
# treated, and how often somebody looks.
NOT_COMPARED = ({"seed"} | set(WITHOUT_EFFECT)) - SPLITS
IMAGES = {"VOC07+12": "16,551 training images", "COCO": "about 118,000 training images"}


@dataclass(frozen=True)
class _Pair:
    """A setting of the study as its file names it, and the complete configurations of the paper and here."""

    named: Changes
    paper: dict[str, Any]
    here: dict[str, Any]


@dataclass(frozen=True)
class _Notes:
    """What differs without being a setting, told from all complete configurations here."""

    here: list[dict[str, Any]]

    @property
    def variants(self) -> set[str]:
        """The variants that are trained."""
        return {flat["detector.variant"] for flat in self.here}

    @property
    def has_four_stages(self) -> bool:
        """Whether a regressor has a fourth stage."""
        return any(flat["detector.stages"] == 4 for flat in self.here)

    @property
    def averages_classifiers(self) -> bool:
        """Whether scores are the mean of several classifiers."""
        return any(
            flat["detector.test_classifier"] is None
            and VARIANTS[flat["detector.variant"]].classifiers(flat["detector.stages"]) > 1
            for flat in self.here
        )

    @property
    def has_newer_weights(self) -> bool:
        """Whether a backbone starts from weights of torchvision's newer recipe."""
        started = {(flat["detector.backbone"], flat["detector.weights"]) for flat in self.here}
        return ("resnext101_64x4d", "imagenet") in started

    @property
    def files(self) -> dict[str, str]:
        """The weights files by the backbones that torchvision has no weights for."""
        started = ((flat["detector.backbone"], flat["detector.weights"]) for flat in self.here)
        return {name: file for name, file in started if _needs_file(name, file)}


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
    notes = _Notes([pair.here for pair in pairs])
    cascades = [pair.paper for pair in pairs if pair.paper["detector.stages"] > 1]
    single = [pair.paper for pair in pairs if pair.paper["detector.stages"] == 1]
    return {
        "table": Table(caption, columns, rows, words=columns),
        "is_coco": is_coco,
        "stage_weights": value_text(cascades[0]["detector.stage_weights"][:3]) if cascades else "",
        "notes": notes,
        "without_figure": _without_figure(plan),
        "baselines": notes.variants & {"fpn", "cascade_rcnn"} if data_there == "COCO" else set(),
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
    paper |= expand(named)
    here = dict(plan.overrides.config(named, plan.base.seed).flat())
    # The folder of a weights file says nothing.
    here["detector.weights"] = Path(here["detector.weights"]).name
    is_same = paper["detector.backbone"] == here["detector.backbone"]
    if is_same and _needs_file(here["detector.backbone"], here["detector.weights"]):
        paper["detector.weights"] = here["detector.weights"]  # a note tells of it
    return _Pair(named, paper, here)


def _needs_file(backbone: str, weights: str) -> bool:
    """Whether a backbone that torchvision has no weights for starts from a file."""
    return backbone not in IMAGENET_BACKBONES and weights not in WEIGHT_NAMES


def _without_figure(plan: Plan) -> list[str]:
    """The settings that the paper's tables have no row of."""
    rows = paper_rows(plan.study.paper, plan.overrides.changes)
    if not rows or isinstance(plan.study, SearchStudy):
        return []
    configs = [plan.overrides.config(named, plan.base.seed) for named in plan.study.settings()]
    flats = [dict(config.flat()) for config in configs if row_of(rows, config) is None]
    return [label({key: flat[key] for key in plan.naming_keys}) for flat in flats]


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
