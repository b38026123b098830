"""Lets a terminal of any encoding show what is printed, and keeps other people's text from steering it.

Letters that the terminal lacks are spelled out; so are control characters, with which a file or class name
could move the cursor, hide lines or answer for the person at the keyboard.

>>> printable("a\\x1b[2Jb"), shown("x" * 9, 4)
('a\\\\x1b[2Jb', "'xx…")
>>> import codecs
>>> codecs.encode("NMS – λ = ±0.5 …", "ascii", _NAME)
b'NMS - lambda = +-0.5 ...'
"""

from __future__ import annotations

import codecs
import io
import re
import sys

__all__ = ["UNPRINTABLE", "allow_any_terminal", "printable", "shown"]

# Control characters but for tab and line feed, marks that break lines or reorder text, lone surrogates.
UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

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


def printable(text: str) -> str:
    """Return other people's text as it may be printed: control characters as their escapes."""
    return UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def shown(value: object, length: int = 100) -> str:
    """Return the beginning of a value's ``repr``, to be quoted in a message."""
    try:
        text = repr(value)
    except ValueError:  # a whole number of thousands of digits
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _spell(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    return "".join(_SPELLED.get(letter, "?") for letter in letters), error.end


codecs.register_error(_NAME, _spell)
