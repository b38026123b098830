"""The study file: what a study varies, over which base, and how it is judged.

A study is one YAML file, in ``studies/catalog`` or anywhere else. A **grid** lists its settings (``rows``),
or a product of values (``grid``), or both; a **search** names a space and lets Optuna choose::

    title: Stages of the box regressor
    kind: grid
    base: {detector.nms_reg: 0.85}
    grid: {detector.stages: [1, 2, 3, 4]}
    paper: [{table: table_04.csv}]
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from drcnn.config import ConfigError, parse_assignments

__all__ = [
    "GridStudy",
    "PaperTable",
    "Pruning",
    "SearchStudy",
    "Space",
    "Study",
    "StudyError",
    "load",
    "shipped",
]

CATALOG = Path(__file__).parent / "catalog"
Changes = dict[str, Any]


class StudyError(ValueError):
    """A study that does not exist or cannot be used; the message is one line."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PaperTable(_Frozen):
    """A table of the paper to print beside the results."""

    table: str = Field(description="file in studies/paper; its columns beside AP... name settings")
    note: str = Field("", description="what keeps its rows from being the same experiment")


class _Base(_Frozen):
    title: str
    metric: str = Field("val/AP", pattern="^val/")
    base: Changes = {}
    paper: tuple[PaperTable, ...] = ()


class GridStudy(_Base):
    """Settings listed one by one, or as a product of values; each is trained to its end."""

    kind: Literal["grid"]
    rows: tuple[Changes, ...] = ()
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = {}

    @model_validator(mode="after")
    def _has_settings(self) -> Self:
        if not self.rows and not self.grid:
            raise ValueError("a grid study needs 'rows' (a list of settings) or 'grid' (a product of values)")
        _refuse_unknown([*self.base, *self.grid, *itertools.chain.from_iterable(self.rows)])
        return self

    def settings(self) -> list[Changes]:
        """The changes of each setting, without repeats: the rows, then the product."""
        product = itertools.product(*self.grid.values()) if self.grid else ()
        settings = [*self.rows, *(dict(zip(self.grid, values, strict=True)) for values in product)]
        return [setting for place, setting in enumerate(settings) if setting not in settings[:place]]

    def varied(self) -> list[str]:
        """The dotted keys that its settings name, in order of appearance."""
        return list(dict.fromkeys(key for setting in self.settings() for key in setting))


class Space(_Frozen):
    """Values that a search may choose from: a range (whole numbers if both ends are) or a list."""

    low: int | float | None = None
    high: int | float | None = None
    step: int | float | None = Field(None, gt=0)
    log: bool = False
    choices: tuple[bool | int | float | str, ...] = ()

    @model_validator(mode="after")
    def _is_range_or_list(self) -> Self:
        is_range = self.low is not None and self.high is not None
        if is_range == bool(self.choices):
            raise ValueError("give either 'low' and 'high', or 'choices'")
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError(f"low {self.low} is not below high {self.high}")
        if self.log and (self.step is not None or (self.low is not None and self.low <= 0)):
            raise ValueError("a log range starts above 0 and has no step")
        return self

    def ends(self) -> tuple[Any, ...]:
        """The values at which to check that a configuration is allowed."""
        return self.choices or (self.low, self.high)


class Pruning(_Frozen):
    """Asynchronous successive halving (ASHA): weak trials are cut early."""

    grace_epochs: int = Field(1, gt=0, description="no trial is cut before this epoch")
    keep: float = Field(3, gt=1, description="about 1 in this many goes on at each rung")


class SearchStudy(_Base):
    """A space that Optuna's TPE searches, after the settings of ``first``."""

    kind: Literal["search"]
    trials: int = Field(gt=0)
    space: dict[str, Space] = Field(min_length=1)
    first: tuple[Changes, ...] = ()
    prune: Pruning | None = None
    seed: int = Field(1, description="of the sampler; the trials' own is the setting 'seed'")

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        _refuse_unknown([*self.base, *self.space])
        for point in self.first:
            if set(point) != set(self.space):
                raise ValueError(f"each point of 'first' gives exactly {', '.join(self.space)}; got {point}")
        return self

    def varied(self) -> list[str]:
        """The dotted keys of the space."""
        return list(self.space)


Study = GridStudy | SearchStudy
_ADAPTER: TypeAdapter[Study] = TypeAdapter(Annotated[GridStudy | SearchStudy, Field(discriminator="kind")])


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
        tree = yaml.safe_load(text)
        lines = dict(_lines(yaml.compose(text, Loader=yaml.SafeLoader)))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}" if mark else ""
        raise StudyError(f"{origin}{where}: not YAML: {getattr(error, 'problem', error)}") from None
    if not isinstance(tree, dict):
        raise StudyError(f"{origin}: a study file is a mapping with title, kind, ...; see studies/catalog")
    try:
        return _ADAPTER.validate_python(tree)
    except ValidationError as error:
        first = error.errors()[0]
        # A union's location starts with the chosen kind, which is no key of the file.
        place = tuple(first["loc"][1:])
        while place and place not in lines:
            place = place[:-1]
        key = ".".join(str(part) for part in first["loc"][1:]) or "kind"
        message = first["msg"].removeprefix("Value error, ")
        raise StudyError(f"{origin}:{lines.get(place, 1)}: {key}: {message}") from None


def _lines(
    node: yaml.Node | None, place: tuple[str | int, ...] = ()
) -> Iterator[tuple[tuple[Any, ...], int]]:
    """Yield the place of every key and list item of a YAML document, and its line."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield (*place, key.value), key.start_mark.line + 1
            yield from _lines(value, (*place, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*place, index), value.start_mark.line + 1
            yield from _lines(value, (*place, index))


def _refuse_unknown(keys: list[str] | Mapping[str, Any]) -> None:
    try:
        # Values are checked later, in the whole configuration that they become part of.
        parse_assignments([f"{key}=null" for key in keys])
    except ConfigError as error:
        raise ValueError(str(error)) from None
