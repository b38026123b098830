"""Settings as a study file writes them, and what of them can be checked before there is a configuration.

A number may be written as a multiple: ``2x`` is twice what the recipe of the profile and the data says. So
one line replaces the paper's setting on digits and on photographs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator

from drcnn.config import Config, ConfigError, check_setting, parse_assignments

__all__ = ["Changes", "Key", "Misplaced", "Place", "Settings", "check_values", "resolve_multiples"]

Changes = dict[str, Any]
Place = tuple[str | int, ...]
MULTIPLE = re.compile(r"(\d+(?:\.\d+)?)x")


class Misplaced(ValueError):
    """What is wrong in a study file, and at which of its keys."""

    def __init__(self, place: Place, message: str) -> None:
        super().__init__(message)
        self.place = place


def _existing(key: str) -> str:
    try:
        parse_assignments([f"{key}=null"])
    except ConfigError as error:
        raise ValueError(str(error)) from None
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
