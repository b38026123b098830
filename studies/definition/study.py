"""What a study file may say: what it varies, over which base, and how it is judged.

A **grid** study lists settings one by one (``rows``), or as a product of values (``grid``), or both. Settings
of inference and evaluation are tried on a detector that is trained once for all of them; all others are
trained. A **search** study names a space and lets Optuna choose::

    title: Stages of the box regressor
    answers: Table IV
    kind: grid
    base: {detector.nms_reg: 0.85}
    grid: {detector.stages: [1, 2, 3, 4]}
    replicates: {laptop: 3, paper: 1}
    paper: [{table: table_04.csv}]
    laptop: {}

``replicates`` are the seeds of each setting; a plain number is for both profiles.

The settings are the paper's. Where one is too large for a laptop, ``laptop`` names its substitute there::

    laptop: {detector.backbone: {resnet50: {detector.backbone: mobilenet_v2, detector.backbone_width: 0.25}}}

or how it scales there (see ``settings``)::

    laptop: {detector.fc_width: {512: {detector.fc_width: 0.5x}}}
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from drcnn.plain_text import shown
from studies.definition.metrics import METRICS, key_of
from studies.definition.settings import (
    Changes,
    Confirm,
    Frozen,
    Key,
    Misplaced,
    Place,
    Pruning,
    Replicates,
    Settings,
    Space,
    check_values,
)

__all__ = ["GridStudy", "PaperTable", "SearchStudy", "Study"]

# More than any study trains; a slip of the pen in a product must not fill the memory.
MOST_SETTINGS = 5_000


class PaperTable(Frozen):
    """A table of the paper to print beside the results."""

    table: str = Field(description="file in studies/paper; its columns beside the figures are settings")
    note: str = Field("", description="what keeps its rows from being the same experiment")


class _Base(Frozen):
    title: str
    answers: str = Field("", description="the paper's table, or the question")
    metric: str = Field("AP", description="its settings are judged by; AP, AP50 ... AP90")
    base: Settings = Field({}, description="settings of all its trials")
    paper: tuple[PaperTable, ...] = ()
    laptop: dict[Key, dict[bool | int | float | str, Settings]] = Field(
        {}, description="by setting and value: the settings that replace it on the laptop profile"
    )

    @field_validator("metric")
    @classmethod
    def _is_always_there(cls, metric: str) -> str:
        if metric not in METRICS:
            raise ValueError(f"{metric!r} is none of {', '.join(METRICS)}")
        return metric

    @property
    def chosen_by(self) -> str:
        """The key of the metric that a search, pruning and the best trial go by: ``val/AP``."""
        return key_of(self.metric, "val")

    @model_validator(mode="after")
    def _has_allowed_values(self) -> Self:
        check_values(self._values())
        return self

    def _values(self) -> Iterator[tuple[Place, str, Any]]:
        """Every value in the file: where it is, its setting, and the value."""
        yield from _placed(("base",), self.base)
        for key, substitutes in self.laptop.items():
            for value, changes in substitutes.items():
                yield from _placed(("laptop", key, str(value)), changes)

    def substituted(self, changes: Mapping[str, Any], profile: str) -> Changes:
        """The changes with the profile's substitutes; a substitute is not substituted again."""
        if profile != "laptop":
            return dict(changes)
        result: Changes = {}
        for key, value in changes.items():
            substitutes = self.laptop.get(key, {})
            has_substitute = isinstance(value, Hashable) and value in substitutes
            result |= substitutes[value] if has_substitute else {key: value}
        return result


class _Listed(_Base):
    rows: tuple[Settings, ...] = ()
    grid: dict[Key, Annotated[list[Any], Field(min_length=1)]] = Field({}, description="a product of values")
    replicates: Replicates = Field(
        Replicates(), description="seeds of each setting, by profile, unless --seeds says otherwise"
    )

    @model_validator(mode="after")
    def _has_settings(self) -> Self:
        if not self.rows and not self.grid:
            raise Misplaced(
                ("kind",),
                "this kind of study needs 'rows' (a list of settings) or 'grid' (a product of values)",
            )
        product = math.prod(map(len, self.grid.values()))
        if product > MOST_SETTINGS:
            raise Misplaced(
                ("grid",), f"is a product of {product:,} settings, expected at most {MOST_SETTINGS:,}"
            )
        return self

    def _values(self) -> Iterator[tuple[Place, str, Any]]:
        yield from super()._values()
        for number, row in enumerate(self.rows):
            yield from _placed(("rows", number), row)
        for key, values in self.grid.items():
            yield from ((("grid", key, number), key, value) for number, value in enumerate(values))

    def settings(self) -> list[Changes]:
        """The changes of each setting as the file names them, without repeats: rows, then the product."""
        product = itertools.product(*self.grid.values()) if self.grid else ()
        written = [*self.rows, *(dict(zip(self.grid, values, strict=True)) for values in product)]
        return [setting for place, setting in enumerate(written) if setting not in written[:place]]

    def varied(self, profile: str = "paper") -> list[str]:
        """The dotted keys that its settings change, in order of appearance."""
        return list(dict.fromkeys(key for setting in self._on(profile) for key in setting))

    def counts(self, profile: str) -> list[tuple[int, int]]:
        """How many settings it has on a profile, where two may have the same substitute, and their seeds."""
        settings = self._on(profile)
        distinct = [setting for place, setting in enumerate(settings) if setting not in settings[:place]]
        return [(len(distinct), self.replicates.on(profile))]

    def _on(self, profile: str) -> list[Changes]:
        return [self.substituted(setting, profile) for setting in self.settings()]


class GridStudy(_Listed):
    """Settings listed one by one, or as a product of values; none is pruned."""

    kind: Literal["grid"]


class SearchStudy(_Base):
    """A space that Optuna's TPE searches, after the settings of ``first``."""

    kind: Literal["search"]
    trials: int = Field(gt=0, le=MOST_SETTINGS)
    space: dict[Key, Space] = Field(min_length=1)
    first: tuple[Settings, ...] = ()
    prune: Pruning | None = None
    minimise: Literal["perf/ms_per_image"] | None = Field(
        None, description="a second objective, traded against the metric: time of inference"
    )
    confirm: Confirm | None = None
    seed: int = Field(1, ge=0, lt=2**32, description="of the sampler; the trials' own is the setting 'seed'")

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        for number, point in enumerate(self.first):
            if set(point) != set(self.space):
                raise Misplaced(
                    ("first", number),
                    f"each point of 'first' gives exactly {', '.join(self.space)}; got {shown(point)}",
                )
        if self.minimise and self.prune:
            raise Misplaced(
                ("prune",), "'prune' compares one metric; with 'minimise' there are two: leave one out"
            )
        return self

    def _values(self) -> Iterator[tuple[Place, str, Any]]:
        yield from super()._values()
        for key, space in self.space.items():
            yield from ((("space", key), key, value) for value in space.ends())
        for number, point in enumerate(self.first):
            yield from _placed(("first", number), point)
        if self.confirm is not None:
            yield from _placed(("confirm", "against"), self.confirm.against)

    @property
    def objectives(self) -> list[str]:
        """The metrics that Optuna is told: one to maximise, or two to trade (the second is minimised)."""
        return [self.chosen_by, *([self.minimise] if self.minimise else [])]

    @property
    def middle(self) -> Changes:
        """A point inside the space: the first of ``first``, else the low ends."""
        if self.first:
            return dict(self.first[0])
        return {key: space.ends()[0] for key, space in self.space.items()}

    def points(self) -> list[Changes]:
        """Points that stand for the space: one inside, those of ``first``, and one at each end."""
        ends = [{**self.middle, key: value} for key, space in self.space.items() for value in space.ends()]
        return [self.middle, *(dict(point) for point in self.first), *ends]

    def varied(self, profile: str = "paper") -> list[str]:
        """The dotted keys of the space, and those of their substitutes."""
        keys: list[str] = []
        for key, space in self.space.items():
            for value in space.choices or (None,):
                keys.extend(self.substituted({key: value}, profile))
        return list(dict.fromkeys(keys))

    def counts(self, profile: str) -> list[tuple[int, int]]:
        """How many settings it tries, with one seed, and how many it confirms, and their seeds."""
        confirmed = [(self.confirm.top + 1, self.confirm.seeds)] if self.confirm else []
        return [(self.trials, 1), *confirmed]


Study = GridStudy | SearchStudy


def _placed(place: Place, changes: Changes) -> Iterator[tuple[Place, str, Any]]:
    yield from (((*place, key), key, value) for key, value in changes.items())
