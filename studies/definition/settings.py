"""Settings and search spaces as a study file writes them, checked as far as one value alone can be.

A number may be written as a multiple: ``2x`` is twice what the recipe of the profile and the data says. So
one line replaces the paper's setting on digits and on photographs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from drcnn.assignments import check_setting
from drcnn.config import Config, ConfigError
from drcnn.config_errors import unknown_key
from drcnn.plain_text import shown

__all__ = [
    "Changes",
    "Confirm",
    "Frozen",
    "Key",
    "Misplaced",
    "Place",
    "Pruning",
    "Replicates",
    "Settings",
    "Space",
    "check_values",
    "resolve_multiples",
]

Changes = dict[str, Any]
Place = tuple[str | int, ...]
MULTIPLE = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)x")
# Seeds of a setting: beyond this only a slip of the pen, which would fill the memory with trials.
MOST_REPLICATES = 1000


class Misplaced(ValueError):
    """What is wrong in a study file, and at which of its keys."""

    def __init__(self, place: Place, message: str) -> None:
        super().__init__(message)
        self.place = place


def _existing(key: str) -> str:
    keys = dict(Config().flat())
    if key not in keys:
        raise ValueError(unknown_key(key, keys))
    return key


Key = Annotated[str, AfterValidator(_existing)]
Settings = dict[Key, Any]


def check_values(values: Iterator[tuple[Place, str, Any]]) -> None:
    """Refuse a value that its setting cannot have; whether settings agree is checked later, as a whole.

    Args:
        values: where each is written, its key, and the value.

    Raises:
        Misplaced: the first bad one.
    """
    base = Config()
    for place, key, value in values:
        try:
            check_setting(key, resolve_multiples({key: value}, base)[key])
        except ConfigError as error:
            raise Misplaced(place, str(error)) from None


def resolve_multiples(changes: Mapping[str, Any], base: Config) -> Changes:
    """Replace each multiple by a number: so many times what ``base`` says.

    >>> resolve_multiples({"detector.fc_width": "0.5x"}, Config())
    {'detector.fc_width': 512}
    """
    base_values = dict(base.flat())
    resolved = dict(changes)
    for key, value in changes.items():
        times = MULTIPLE.fullmatch(value) if isinstance(value, str) else None
        if times and isinstance(base_values.get(key), int | float):
            product = base_values[key] * float(times[1])
            resolved[key] = round(product) if isinstance(base_values[key], int) else product
    return resolved


class Frozen(BaseModel):
    """A part of a study file: unknown keys are refused, nothing changes later."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Space(Frozen):
    """Values that a search may choose from: a range (of whole numbers if written in those) or a list."""

    low: int | float | None = None
    high: int | float | None = None
    step: int | float | None = Field(None, gt=0)
    log: bool = False
    choices: tuple[bool | int | float | str | None, ...] = ()

    @model_validator(mode="after")
    def _is_range_or_list(self) -> Self:
        low, high, step = self.low, self.high, self.step
        if self.choices:
            if low is not None or high is not None or step is not None or self.log:
                raise ValueError("'choices' go without 'low', 'high', 'step' and 'log'")
            return self
        if low is None or high is None:
            raise ValueError("give either 'low' and 'high', or 'choices'")
        if low >= high:
            raise ValueError(f"low {low} is not below high {high}")
        if step is not None and step > high - low:
            raise ValueError(f"step {step} is longer than the range from {low} to {high}")
        if self.log and (step is not None or low <= 0):
            raise ValueError("a log range starts above 0 and has no step")
        return self

    @property
    def is_whole(self) -> bool:
        """Whether it is a range of whole numbers."""
        written = (self.low, self.high, 1 if self.step is None else self.step)
        return not self.choices and all(isinstance(value, int) for value in written)

    def __str__(self) -> str:
        """As a person reads it.

        >>> str(Space(low=0.6, high=0.95, step=0.05)), str(Space(choices=("mean", 2)))
        ('0.6 to 0.95 in steps of 0.05', 'mean or 2')
        """
        if self.choices:
            return " or ".join(map(str, self.choices))
        step = 1 if self.is_whole and self.step is None else self.step
        scale = " by its logarithm" if self.log else "" if step is None else f" in steps of {step}"
        return f"{self.low} to {self.high}{scale}"

    def ends(self) -> tuple[Any, ...]:
        """The values at which to check that a configuration is allowed."""
        if self.choices or self.is_whole:
            return self.choices or (self.low, self.high)
        assert self.low is not None
        assert self.high is not None
        # Both ends of a setting's whole numbers are allowed even where those between are not.
        inside = self.low + (self.step or (self.high - self.low) / 2)
        return (self.low, round(inside, 10), self.high)


class Pruning(Frozen):
    """Asynchronous successive halving (ASHA): weak trials are pruned."""

    grace_epochs: int = Field(1, gt=0, description="no trial is pruned before this epoch")
    keep: float = Field(3, gt=1, description="about 1 in this many goes on after each rung")


class Replicates(Frozen):
    """How many seeds a setting has on each profile; a plain number in a study file is for both."""

    laptop: int = Field(1, gt=0, le=MOST_REPLICATES)
    paper: int = Field(1, gt=0, le=MOST_REPLICATES)

    @model_validator(mode="before")
    @classmethod
    def _from_number(cls, written: Any) -> Any:
        if isinstance(written, int):
            return dict.fromkeys(cls.model_fields, written)
        if not isinstance(written, Mapping | cls):
            raise ValueError(f"expected a number or {{laptop: 3, paper: 1}}, got {shown(written)}")
        return written

    def on(self, profile: str) -> int:
        """Those of one profile."""
        return self.laptop if profile == "laptop" else self.paper


class Confirm(Frozen):
    """The best settings of a search are trained again, beside a baseline that was chosen before the search.

    They get seeds that the search did not use: the best of many single runs was also lucky in its seed.
    """

    top: int = Field(3, gt=0, le=MOST_REPLICATES, description="how many of the best finished settings")
    seeds: int = Field(3, gt=1, le=MOST_REPLICATES, description="replicates of each")
    against: Settings = Field(min_length=1, description="the baseline: the paper's setting")
