"""The report's part on what differs from the paper: each setting beside the same one as the paper has it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from drcnn.config import Config
from drcnn.presets import expand
from drcnn.recipes import recipe
from studies.definition.labels import parameter_name, value_text
from studies.definition.plan import Plan, Trial
from studies.definition.settings import Changes
from studies.definition.study import SearchStudy, Study
from studies.report.context import data_words
from studies.report.document import Block, Bullets, Cell, Table, Text

__all__ = ["deviations"]

# These say where the data lies, how much of it is used (said in words), and what to do with damaged files.
NOT_COMPARED = {"seed", "data.source", "data.on_bad_data", "data.train_images", "data.val_images"}
# The digits have no lists of images to choose from.
SPLITS = {"data.train_split", "data.val_split"}
IMAGES = {"VOC07+12": "16,551 training images", "COCO": "about 118,000 training images"}


@dataclass(frozen=True)
class _Pair:
    """A setting of the study: as its file names it, and complete, in the paper and here."""

    named: Changes
    paper: dict[str, Any]
    here: dict[str, Any]


def deviations(plan: Plan, trial: Trial, data: str) -> list[Block]:
    """Every setting that is another than the paper's, and for which of the study's settings.

    Args:
        plan: the study.
        trial: one of it, for its data.
        data: the paper's, as its tables name it; "" for a study without a table.
    """
    is_coco = (data or plan.base.data.source.partition(":")[0].upper()) == "COCO"
    name = "COCO" if is_coco else "VOC07+12"
    pairs = [_pair(plan, each, "coco" if is_coco else "voc") for each in _settings(plan.study)]
    words = _meanings(Config)
    rows: list[tuple[Cell, ...]] = [
        ("data", f"{name}, {IMAGES[name]}", data_words(trial), "what is learnt and tested"),
    ]
    left_out = NOT_COMPARED | (SPLITS if plan.base.data.source == "digits" else set())
    for key in pairs[0].here:
        for paper, here, of in _differences(pairs, key) if key not in left_out else ():
            rows.append(((f"`{key}`", of), paper, here, words.get(key, "")))
    said = (
        "The levels of AP here and in the paper cannot be compared: only how AP changes with a setting can."
        if len(rows) > 1
        else "All settings are the paper's: where the data are too, the levels of AP can be compared."
    )
    columns = ("setting", "paper", "here", "meaning")
    caption = (
        f"What differs from the paper's setting on {name}. Each setting of the study is compared with the "
        "same one of the paper; in brackets, for which of them it differs, if not for all."
    )
    blocks: list[Block] = [Text(said), Table(caption, columns, tuple(rows), words=columns)]
    notes = tuple(_notes([pair.paper for pair in pairs], is_coco=is_coco))
    if notes:
        blocks += [Text('In the column "paper" is what the official code does where the two differ:')]
        blocks.append(Bullets(notes))
    return blocks


def _settings(study: Study) -> list[Changes]:
    """All settings of a study as its file names them; of a search, points that hold each of its choices."""
    if not isinstance(study, SearchStudy):
        return study.settings()
    first = study.first[0] if study.first else {key: space.ends()[0] for key, space in study.space.items()}
    points = [*([study.confirm.against] if study.confirm else ()), *study.first] or [first]
    choices = ((key, value) for key, space in study.space.items() for value in space.choices)
    return [*points, *({**first, key: value} for key, value in choices)]


def _pair(plan: Plan, named: Changes, kind: str) -> _Pair:
    # Not checked as a whole: somebody's own study may ask for what the paper's backbone refuses.
    paper = dict(Config().flat()) | expand(recipe("paper", f"{kind}:")) | expand(plan.study.base)
    return _Pair(named, paper | expand(named), dict(plan.overrides.config(named, plan.base.seed).flat()))


def _differences(pairs: Sequence[_Pair], key: str) -> Iterator[tuple[str, str, str]]:
    """Yield the paper's value of a key, ours, and for which settings; "" for all, or if the value says it."""
    found: dict[tuple[str, str], list[_Pair]] = {}
    for pair in pairs:
        found.setdefault((value_text(pair.paper[key]), value_text(pair.here[key])), []).append(pair)
    for (paper, here), members in found.items():
        if paper == here:
            continue
        is_plain = len(found) == 1 or all(key in pair.named for pair in pairs)
        yield paper, here, "" if is_plain else _which(members, pairs)


def _which(members: Sequence[_Pair], pairs: Sequence[_Pair]) -> str:
    """Tell some of a study's settings from its others: by one key that it names, else by their number."""
    others = [pair for pair in pairs if pair not in members]
    for key in members[0].named:
        values = list(dict.fromkeys(_value(pair, key) for pair in members))
        if not set(values) & {_value(pair, key) for pair in others}:
            return ", ".join(values)
    return f"{len(members)} of {len(pairs)} settings"


def _value(pair: _Pair, key: str) -> str:
    """A word says what it is of; a number does not."""
    value = pair.named.get(key, pair.paper[key])
    return value if isinstance(value, str) else f"{parameter_name(key)}={value_text(value)}"


def _meanings(model: type[BaseModel], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found |= _meanings(field.annotation, f"{name}.")
        elif field.description:
            found[prefix + name] = field.description
    return found


def _notes(settings: Sequence[dict[str, Any]], *, is_coco: bool) -> Iterator[str]:
    """Where the paper's text says otherwise than its code, or than its own figures do."""
    cascades = [each for each in settings if each["detector.stages"] > 1]
    if cascades:
        weights = value_text(cascades[0]["detector.stage_weights"][:3])
        yield f"Eq. 8 weighs the stages of the regressor alike; the code weighs them {weights}."
    if is_coco and any(each["detector.lambda_reg"] == 0.5 for each in settings if each not in cascades):
        yield "For one stage the text has λ = 1; the code has 0.5 on COCO."
    if not is_coco:
        yield (
            "The text has a shorter side of 800 pixels for all images; the code's usual VOC configuration "
            "has 600, and the times in the paper's tables fit that."
        )
