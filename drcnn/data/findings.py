"""What a reader does about bad data: stop at the first fault, or leave the image out and record why."""

from __future__ import annotations

import math

from drcnn.data.annotations import DataError

__all__ = ["Box", "Findings", "checked_box"]

Box = tuple[float, float, float, float]

# VOC counts pixels from 1, some tools from 0, and both round: a pixel too far is no sign of a wrong box.
TOLERANCE = 1.0


class Findings:
    """Collects what is wrong with a data folder.

    Attributes:
        skip: whether faults are recorded and passed over instead of raised.
        messages: one line each, in the order found.
    """

    def __init__(self, *, skip: bool) -> None:
        self.skip = skip
        self.messages: list[str] = []

    def faults(self, messages: list[str]) -> bool:
        """Say whether the image they belong to must be left out.

        Raises:
            DataError: there is one, and faults are not to be skipped.
        """
        if messages and not self.skip:
            raise DataError(messages[0])
        self.messages += messages
        return bool(messages)

    def note(self, message: str) -> None:
        """Record something that is left out but does not spoil its image."""
        self.messages.append(message)


def checked_box(box: Box, width: int, height: int, where: str) -> Box | None:
    """Return the box within its image, or none if it has no area.

    Args:
        box: xyxy in pixels of the image.
        where: the file and the box's place in it, for the message.

    Raises:
        DataError: the box is not finite, is inverted, or leaves the image by more than a pixel.
    """
    x1, y1, x2, y2 = box
    shown = "[" + ", ".join(f"{value:g}" for value in box) + "]"
    if not all(math.isfinite(value) for value in box):
        raise DataError(f"{where}: box {shown} is not finite; correct it or use --on-bad-data skip")
    if x2 < x1 or y2 < y1:
        raise DataError(
            f"{where}: box {shown} is inverted (expected xmin <= xmax and ymin <= ymax); "
            "correct it or use --on-bad-data skip"
        )
    if min(x1, y1) < -TOLERANCE or x2 > width + TOLERANCE or y2 > height + TOLERANCE:
        raise DataError(
            f"{where}: box {shown} is outside the image of {width}x{height}; "
            "correct it or use --on-bad-data skip"
        )
    x1, x2 = min(max(x1, 0.0), width), min(max(x2, 0.0), width)
    y1, y2 = min(max(y1, 0.0), height), min(max(y2, 0.0), height)
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None
