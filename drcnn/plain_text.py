"""Lets a terminal of any encoding show what is printed: letters that it lacks are spelled out.

>>> import codecs
>>> codecs.encode("NMS – λ = ±0.5 …", "ascii", _NAME)
b'NMS - lambda = +-0.5 ...'
"""

from __future__ import annotations

import codecs
import io
import sys

__all__ = ["allow_any_terminal"]

_NAME = "drcnn.spelled"
_SPELLED = {
    "–": "-",
    "−": "-",
    "…": "...",
    "×": "x",
    "±": "+-",
    "·": ".",
    "→": "->",
    "δ": "delta",
    "λ": "lambda",
    "τ": "tau",
}


def allow_any_terminal() -> None:
    """Never fail to print for want of a letter."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_NAME)


def _spell(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    return "".join(_SPELLED.get(letter, "?") for letter in letters), error.end


codecs.register_error(_NAME, _spell)
