"""Errors in a configuration, each explained in one line that names the dotted key."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from drcnn.plain_text import shown
from drcnn.presets import PRESETS

__all__ = ["ConfigError", "explain", "unknown_key"]


# Of a message, in letters: some quote a list.
LONGEST = 500


class ConfigError(ValueError):
    """A configuration key or value that cannot be used; the message is one line and names it."""


def unknown_key(key: str, keys: Iterable[str]) -> str:
    """Return the message for a key that does not exist; it suggests the nearest of ``keys``.

    >>> unknown_key("nms_reg", ["detector.nms_cls", "detector.nms_reg"])
    "unknown setting 'nms_reg'; did you mean 'detector.nms_reg'?"
    """
    keys = list(keys)
    # It takes the square of the length.
    nearest = difflib.get_close_matches(key[:100], keys, n=1, cutoff=0.0)
    by_leaf = [name for name in keys if name.rpartition(".")[2] == key.rpartition(".")[2]]
    return f"unknown setting {shown(key)}; did you mean {(by_leaf or nearest)[0]!r}?"


def explain(error: ErrorDetails) -> str:
    """Return the message for a value that pydantic refuses: dotted key, value, and what is expected."""
    key = ".".join(str(part) for part in error["loc"])
    message = error["msg"].removeprefix("Value error, ")
    value = error["input"]
    if key in PRESETS:
        message += f"; or one of the named settings {', '.join(PRESETS[key])}"
    assignment = "" if isinstance(value, dict | BaseModel) else f" = {shown(value)}"
    message = message if len(message) <= LONGEST else f"{message[:LONGEST]}…"
    return f"{key}{assignment}: {message}"
