"""Faults in data: a reader stops at the first one, or leaves the image out and records why."""

from __future__ import annotations

import math

from drcnn.data.annotations import DataError

__all__ = ["Box", "DataFaults", "checked_box"]

Box = tuple[float, float, float, float]

# VOC counts pixels from 1, some tools from 0, and both round: a box that is a pixel too large is not wrong.
TOLERANCE = 1.0


class DataFaults:
    """Collects the faults of a data folder.

    Attributes:
        skip: record faults and leave their images out, instead of raising the first one.
        messages: of the faults so far, one line each.
    """

    def __init__(self, *, skip: bool) -> None:
        self.skip = skip
        self.messages: list[str] = []

    def add(self, messages: list[str]) -> bool:
        """Record the faults of an image; return whether it has any and must be left out.

        Raises:
            DataError: it has one, and faults are not skipped.
        """
        if messages and not self.skip:
            raise DataError(messages[0])
        self.messages += messages
        return bool(messages)

    def note(self, message: str) -> None:
        """Record something that is left out while its image is kept."""
        self.messages.append(message)


def checked_box(box: Box, width: int, height: int, where: str) -> Box | None:
    """Return the box clipped to its image, or ``None`` if it has no area.

    Args:
        box: xyxy in pixels of the image.
        where: the file and the box's place in it, for the message.

    Raises:
        DataError: the box is not finite, is inverted, or leaves the image by more than a pixel.
    """
    x1, y1, x2, y2 = box
    text = "[" + ", ".join(f"{value:g}" for value in box) + "]"
    if not all(math.isfinite(value) for value in box):
        raise DataError(f"{where}: box {text} is not finite; correct it or use --on-bad-data skip")
    if x2 < x1 or y2 < y1:
        raise DataError(
            f"{where}: box {text} is inverted (expected xmin <= xmax and ymin <= ymax); "
            "correct it or use --on-bad-data skip"
        )
    if min(x1, y1) < -TOLERANCE or x2 > width + TOLERANCE or y2 > height + TOLERANCE:
        raise DataError(
            f"{where}: box {text} is outside the image of {width}x{height}; "
            "correct it or use --on-bad-data skip"
        )
    x1, x2 = min(max(x1, 0.0), width), min(max(x2, 0.0), width)
    y1, y2 = min(max(y1, 0.0), height), min(max(y2, 0.0), height)
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None
