"""Settings as a study file writes them, and what of them is checked before there is a configuration.

A number may be written as a multiple: ``2x`` is twice what the recipe of the profile and the data says. So
one line stands for the paper's setting on digits and on photographs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator

from drcnn.config import Config, ConfigError, check_setting, parse_assignments

__all__ = ["Key", "Misplaced", "Place", "Settings", "check_values", "lines_of", "multiplied"]

Place = tuple[str | int, ...]
MULTIPLE = re.compile(r"(\d+(?:\.\d+)?)x")


class Misplaced(ValueError):
    """What is wrong in a study file, and at which of its keys."""

    def __init__(self, place: Place, message: str) -> None:
        super().__init__(message)
        self.place = place


def _known(key: str) -> str:
    try:
        parse_assignments([f"{key}=null"])
    except ConfigError as error:
        raise ValueError(str(error)) from None
    return key


Key = Annotated[str, AfterValidator(_known)]
Settings = dict[Key, Any]


def check_values(values: Iterator[tuple[Place, str, Any]]) -> None:
    """Refuse what is no value of its setting, whatever the others are; how they agree is found out later.

    Args:
        values: where each is written, its key, and the value.

    Raises:
        Misplaced: the first bad one.
    """
    base = Config()
    for place, key, value in values:
        try:
            check_setting(key, multiplied({key: value}, base)[key])
        except ConfigError as error:
            raise Misplaced(place, str(error)) from None


def multiplied(changes: Mapping[str, Any], base: Config) -> dict[str, Any]:
    """The changes with each multiple replaced by a number: so many times what ``base`` says.

    >>> multiplied({"detector.fc_width": "0.5x"}, Config())
    {'detector.fc_width': 512}
    """
    known = dict(base.flat())
    found = dict(changes)
    for key, value in changes.items():
        times = MULTIPLE.fullmatch(value) if isinstance(value, str) else None
        if times and isinstance(known.get(key), int | float):
            product = known[key] * float(times[1])
            found[key] = round(product) if isinstance(known[key], int) else product
    return found


def lines_of(node: yaml.Node | None, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], int]]:
    """Yield the place of every key and list item of a YAML document, and its line."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield (*place, str(key.value)), key.start_mark.line + 1
            yield from lines_of(value, (*place, str(key.value)))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*place, str(index)), value.start_mark.line + 1
            yield from lines_of(value, (*place, str(index)))
