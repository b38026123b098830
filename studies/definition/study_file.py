"""Reads study files: those of the catalogue by name, anybody's by path. A fault names its line and key."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from drcnn.plain_yaml import YamlError, compose_yaml, construct_yaml
from studies.definition.errors import StudyError
from studies.definition.settings import Misplaced
from studies.definition.study import Study

__all__ = ["catalogue", "load", "parse"]

CATALOGUE = Path(__file__).parents[1] / "catalog"
_ADAPTER: TypeAdapter[Study] = TypeAdapter(Annotated[Study, Field(discriminator="kind")])


def catalogue() -> dict[str, Path]:
    """The studies that come with the project, by name."""
    return {path.stem: path for path in sorted(CATALOGUE.glob("*.yaml"))}


def load(name: str) -> tuple[str, Study]:
    """Read a study of the catalogue by name, or anybody's by the path of its YAML file.

    Returns:
        The study's name (the file's stem) and the study.

    Raises:
        StudyError: there is no such study, or its file cannot be used.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else catalogue().get(name)
    if path is None:
        nearest = difflib.get_close_matches(name, catalogue(), n=1, cutoff=0.0)
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
        node = compose_yaml(text)
        lines = _distinct_lines(node, origin)
        tree = construct_yaml(node)
    except YamlError as error:
        where = f":{error.line}" if error.line else ""
        raise StudyError(f"{origin}{where}: {error}") from None
    if not isinstance(tree, dict):
        raise StudyError(f"{origin}: a study file is a mapping with title, kind, ...; see studies/catalog")
    try:
        return _ADAPTER.validate_python(tree)
    except ValidationError as error:
        place, message = _first_fault(error)
        ancestors = [place[:end] for end in range(1, len(place) + 1) if place[:end] in lines]
        line = lines[ancestors[-1]] if ancestors else 1
        raise StudyError(f"{origin}:{line}: {'.'.join(place)}: {message}") from None


def _first_fault(error: ValidationError) -> tuple[tuple[str, ...], str]:
    """The place of the first fault in the file, and what is wrong there."""
    fault = error.errors()[0]
    # A union's location starts with the chosen kind, and a key's ends with "[key]": no keys of the file.
    place = tuple(str(part) for part in fault["loc"][1:] if part != "[key]")
    cause = fault.get("ctx", {}).get("error")
    if isinstance(cause, Misplaced):
        place = tuple(map(str, cause.place))
    return place or ("kind",), fault["msg"].removeprefix("Value error, ")


def _distinct_lines(node: yaml.Node | None, origin: str) -> dict[tuple[str, ...], int]:
    """The line of every place in the file; no two are the same."""
    lines: dict[tuple[str, ...], int] = {}
    for place, line in _lines(node):
        if place in lines:
            raise StudyError(f"{origin}:{line}: {'.'.join(place)}: is in line {lines[place]} already")
        lines[place] = line
    return lines


def _lines(node: yaml.Node | None, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], int]]:
    """Yield the place of every key and list item of a YAML document, and its line."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield (*place, str(key.value)), key.start_mark.line + 1
            yield from _lines(value, (*place, str(key.value)))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*place, str(index)), value.start_mark.line + 1
            yield from _lines(value, (*place, str(index)))
