"""The study file: what a study varies, over which base, and how it is judged.

A study is one YAML file, in ``studies/catalog`` or anywhere else. A **grid** trains every setting that it
lists (``rows``), or a product of values (``grid``), or both. **evaluate** lists settings in the same way, but
those of inference (``INFERENCE``) are tried on a detector that is trained once for all of them. A **search**
names a space and lets Optuna choose::

    title: Stages of the box regressor
    answers: Table IV
    kind: grid
    base: {detector.nms_reg: 0.85}
    grid: {detector.stages: [1, 2, 3, 4]}
    replicates: 3
    paper: [{table: table_04.csv}]
    laptop: {}

The settings are the paper's. Where one is too large for a laptop, ``laptop`` names what stands for it there::

    laptop: {detector.backbone: {resnet50: {detector.backbone: mobilenet_v2, detector.backbone_width: 0.35}}}

or how it scales there (see ``settings``)::

    laptop: {detector.fc_width: {512: {detector.fc_width: 0.5x}}}
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, TypeAdapter, ValidationError, field_validator, model_validator

from drcnn.engine.metrics import AT_IOU
from studies.definition.errors import StudyError
from studies.definition.settings import Key, Misplaced, Place, Settings, check_values, lines_of
from studies.definition.space import Confirm, Frozen, Pruning, Space

__all__ = [
    "INFERENCE",
    "METRICS",
    "Changes",
    "Confirm",
    "EvaluateStudy",
    "GridStudy",
    "PaperTable",
    "Pruning",
    "SearchStudy",
    "Space",
    "Study",
    "load",
    "parse",
    "shipped",
]

CATALOG = Path(__file__).parents[1] / "catalog"
Changes = dict[str, Any]
# What a study may be judged by: figures that every split has, and of which the statistics know the spread.
METRICS = tuple(f"val/{name}" for name in ("AP", *AT_IOU))

# Settings that a trained detector does not depend on.
INFERENCE = (
    "detector.rpn_pre_nms_test",
    "detector.rpn_post_nms_test",
    "detector.nms_test",
    "detector.test_stage",
    "detector.test_classifier",
    "detector.score_thr",
    "detector.nms_final",
    "detector.soft_nms",
    "detector.max_detections",
)


class PaperTable(Frozen):
    """A table of the paper to print beside the results."""

    table: str = Field(description="file in studies/paper; its columns beside the figures are settings")
    note: str = Field("", description="what keeps its rows from being the same experiment")


class _Base(Frozen):
    title: str
    answers: str = Field("", description="the paper's table, or the question")
    metric: str = "val/AP"
    base: Settings = Field({}, description="settings of all its trials")
    paper: tuple[PaperTable, ...] = ()
    laptop: dict[Key, dict[bool | int | float | str, Settings]] = Field(
        {}, description="by setting and value: the settings that stand for it on the laptop profile"
    )

    @field_validator("metric")
    @classmethod
    def _is_always_there(cls, metric: str) -> str:
        if metric not in METRICS:
            raise ValueError(f"{metric!r} is none of {', '.join(METRICS)}")
        return metric

    @model_validator(mode="after")
    def _has_values(self) -> Self:
        check_values(self._written())
        return self

    def _written(self) -> Iterator[tuple[Place, str, Any]]:
        """Every value of the file: where it is, its setting, and the value."""
        yield from _in(("base",), self.base)
        for key, values in self.laptop.items():
            for value, changes in values.items():
                yield from _in(("laptop", key, str(value)), changes)

    def on(self, profile: str, changes: Mapping[str, Any]) -> Changes:
        """The changes with what stands for them on this profile."""
        if profile != "laptop":
            return dict(changes)
        found: Changes = {}
        for key, value in changes.items():
            known = self.laptop.get(key, {})
            found |= known[value] if isinstance(value, Hashable) and value in known else {key: value}
        return found


class _Listed(_Base):
    rows: tuple[Settings, ...] = ()
    grid: dict[Key, Annotated[list[Any], Field(min_length=1)]] = Field({}, description="a product of values")
    replicates: int = Field(1, gt=0, description="seeds of each setting, unless --seeds says otherwise")

    @model_validator(mode="after")
    def _has_settings(self) -> Self:
        if not self.rows and not self.grid:
            raise Misplaced(
                ("kind",),
                "this kind of study needs 'rows' (a list of settings) or 'grid' (a product of values)",
            )
        return self

    def _written(self) -> Iterator[tuple[Place, str, Any]]:
        yield from super()._written()
        for number, row in enumerate(self.rows):
            yield from _in(("rows", number), row)
        for key, values in self.grid.items():
            yield from ((("grid", key, number), key, value) for number, value in enumerate(values))

    def settings(self, profile: str = "paper") -> list[Changes]:
        """The changes of each setting, without repeats: the rows, then the product."""
        product = itertools.product(*self.grid.values()) if self.grid else ()
        written = [*self.rows, *(dict(zip(self.grid, values, strict=True)) for values in product)]
        settings = [self.on(profile, setting) for setting in written]
        return [setting for place, setting in enumerate(settings) if setting not in settings[:place]]

    def varied(self, profile: str = "paper") -> list[str]:
        """The dotted keys that its settings name, in order of appearance."""
        return list(dict.fromkeys(key for setting in self.settings(profile) for key in setting))

    def count(self, profile: str) -> int:
        """How many rows its table has."""
        return len(self.settings(profile)) * self.replicates


class GridStudy(_Listed):
    """Settings listed one by one, or as a product of values; each is trained to its end."""

    kind: Literal["grid"]


class EvaluateStudy(_Listed):
    """Settings of inference, tried on detectors that are trained once: no training for each setting."""

    kind: Literal["evaluate"]

    @model_validator(mode="after")
    def _tries_inference(self) -> Self:
        if not set(self.varied()) & set(INFERENCE):
            raise Misplaced(
                ("kind",), f"a study of kind evaluate varies at least one of {', '.join(INFERENCE)}"
            )
        return self


class SearchStudy(_Base):
    """A space that Optuna's TPE searches, after the settings of ``first``."""

    kind: Literal["search"]
    trials: int = Field(gt=0)
    space: dict[Key, Space] = Field(min_length=1)
    first: tuple[Settings, ...] = ()
    prune: Pruning | None = None
    minimise: Literal["perf/ms_per_image"] | None = Field(
        None, description="a second objective, traded against the metric: time of inference"
    )
    confirm: Confirm | None = None
    seed: int = Field(1, description="of the sampler; the trials' own is the setting 'seed'")

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        for number, point in enumerate(self.first):
            if set(point) != set(self.space):
                raise Misplaced(
                    ("first", number),
                    f"each point of 'first' gives exactly {', '.join(self.space)}; got {point}",
                )
        if self.minimise and self.prune:
            raise Misplaced(
                ("prune",), "'prune' compares one metric; with 'minimise' there are two: leave one out"
            )
        return self

    def _written(self) -> Iterator[tuple[Place, str, Any]]:
        yield from super()._written()
        for key, space in self.space.items():
            yield from ((("space", key), key, value) for value in space.ends())
        for number, point in enumerate(self.first):
            yield from _in(("first", number), point)
        if self.confirm is not None:
            yield from _in(("confirm", "against"), self.confirm.against)

    def count(self, profile: str) -> int:
        """How many trials it chooses, and how many confirm the best."""
        return self.trials + ((self.confirm.top + 1) * self.confirm.seeds if self.confirm else 0)

    def varied(self, profile: str = "paper") -> list[str]:
        """The dotted keys of the space, and those that stand for them."""
        named: list[str] = []
        for key, space in self.space.items():
            for value in space.choices or (None,):
                named.extend(self.on(profile, {key: value}))
        return list(dict.fromkeys(named))


Study = GridStudy | EvaluateStudy | SearchStudy
_ADAPTER: TypeAdapter[Study] = TypeAdapter(Annotated[Study, Field(discriminator="kind")])


def shipped() -> dict[str, Path]:
    """The studies of the catalogue, by name."""
    return {path.stem: path for path in sorted(CATALOG.glob("*.yaml"))}


def load(name: str) -> tuple[str, Study]:
    """Read a study of the catalogue by name, or anybody's by the path of its YAML file.

    Returns:
        The study's name (the file's stem) and the study.

    Raises:
        StudyError: there is no such study, or its file cannot be used.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else shipped().get(name)
    if path is None:
        nearest = difflib.get_close_matches(name, shipped(), n=1, cutoff=0.0)
        raise StudyError(
            f"unknown study {name!r}; did you mean {nearest[0]!r}? "
            "(--list shows all; a path ending in .yaml names your own)"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise StudyError(f"{path}: cannot read this study file: {reason}") from None
    return path.stem, parse(text, str(path))


def parse(text: str, origin: str) -> Study:
    """Check a study file's text.

    Raises:
        StudyError: naming ``origin``, the line and the key.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}" if mark else ""
        raise StudyError(f"{origin}{where}: not YAML: {getattr(error, 'problem', error)}") from None
    if not isinstance(tree, dict):
        raise StudyError(f"{origin}: a study file is a mapping with title, kind, ...; see studies/catalog")
    lines: dict[tuple[str, ...], int] = {}
    for place, line in lines_of(node):
        if place in lines:
            raise StudyError(f"{origin}:{line}: {'.'.join(place)}: is in line {lines[place]} already")
        lines[place] = line
    try:
        return _ADAPTER.validate_python(tree)
    except ValidationError as error:
        first = error.errors()[0]
        # A union's location starts with the chosen kind, and a key's ends with "[key]": no keys of the file.
        found = tuple(str(part) for part in first["loc"][1:] if part != "[key]")
        cause = first.get("ctx", {}).get("error")
        if isinstance(cause, Misplaced):
            found = tuple(map(str, cause.place))
        found = found or ("kind",)
        known = [lines[found[:end]] for end in range(1, len(found) + 1) if found[:end] in lines]
        message = first["msg"].removeprefix("Value error, ")
        raise StudyError(f"{origin}:{known[-1] if known else 1}: {'.'.join(found)}: {message}") from None


def _in(place: Place, changes: Changes) -> Iterator[tuple[Place, str, Any]]:
    yield from (((*place, key), key, value) for key, value in changes.items())
