"""What a search may choose from, when it cuts a trial, and how its best settings are confirmed."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["Confirm", "Frozen", "Pruning", "Space"]


class Frozen(BaseModel):
    """A part of a study file: unknown keys are refused, nothing changes later."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Space(Frozen):
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


class Pruning(Frozen):
    """Asynchronous successive halving (ASHA): weak trials are cut early."""

    grace_epochs: int = Field(1, gt=0, description="no trial is cut before this epoch")
    keep: float = Field(3, gt=1, description="about 1 in this many goes on at each rung")


class Confirm(Frozen):
    """The best settings of a search are trained anew, beside a setting chosen before the search.

    With seeds that the search did not use: the best of many single runs was also lucky in its seed.
    """

    top: int = Field(3, gt=0, description="how many of the best finished settings")
    seeds: int = Field(3, gt=1, description="replicates of each")
    against: dict[str, Any] = Field(min_length=1, description="the setting to compare with: the paper's")
