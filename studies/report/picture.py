"""A picture of the report."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Picture"]


@dataclass(frozen=True)
class Picture:
    """A PNG file beside the report, and its twin for dark screens if it is a chart.

    Attributes:
        file: name.
        light: the file's bytes.
        dark: bytes of the twin; none for a photograph, which serves both.
        alt: what it shows, for those who do not see it; plain text.
        caption: below it; plain text.
    """

    file: str
    light: bytes
    dark: bytes | None
    alt: str
    caption: str
