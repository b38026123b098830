"""Faults and warnings of data.

A fault makes an image unusable: a reader stops at the first one, or leaves the image out and records why. A
warning is what a person should look at: the image is used all the same.
"""

from __future__ import annotations

import math

from drcnn.data.annotations import DataError
from drcnn.data.images import ImageFile
from drcnn.data.warnings import DataWarning

__all__ = ["Box", "DataFaults", "checked_box", "looks_normalised", "size_fault"]

Box = tuple[float, float, float, float]

# VOC counts pixels from 1, some tools from 0, and both round: a box that is a pixel too large is not wrong.
# Nor is a stated size.
TOLERANCE = 1.0


class DataFaults:
    """Collects the faults and warnings of a data folder.

    Attributes:
        skip: record faults and leave their images out, instead of raising the first one.
        messages: of the faults so far, one line each.
        warnings: so far.
    """

    def __init__(self, *, skip: bool) -> None:
        self.skip = skip
        self.messages: list[str] = []
        self.warnings: list[DataWarning] = []

    def add(self, messages: list[str]) -> bool:
        """Record the faults of an image; return whether it has any and must be left out.

        Raises:
            DataError: it has one, and faults are not skipped.
        """
        if messages and not self.skip:
            raise DataError(messages[0])
        self.messages += messages
        return bool(messages)

    def warn(self, kind: str, message: str) -> None:
        """Record a warning.

        Args:
            kind, message: as ``DataWarning`` has them.
        """
        self.warnings.append(DataWarning(kind, message))

    def warn_of_image(self, path: str, image: ImageFile, stated: tuple[int, int] | None) -> None:
        """Record how an image is read, where a person could have meant otherwise.

        Args:
            path: of the file.
            image: what it holds.
            stated: the width and height that its annotation states; they tell what the boxes refer to.
        """
        if image.orientation != 1 and (
            stated is None or image.width == image.height or image.orientation < 5
        ):
            self.warn(
                "images turned by their EXIF orientation",
                f"{path}: is turned by its EXIF orientation ({image.orientation}); "
                "its boxes should refer to the upright picture",
            )
        if image.is_narrow:
            self.warn(
                "16-bit images of a smaller range",
                f"{path}: has 16 bits, but its values use fewer; is scaled by those in use",
            )


def size_fault(path: str, image: ImageFile, stated: tuple[int, int] | None, where: str) -> list[str]:
    """Return a message if an annotation states another size than the upright picture has, else none.

    Args:
        path: of the image file.
        image: what it holds.
        stated: width and height as the annotation says; ``None`` or zeros say nothing.
        where: the annotation, for the message.
    """
    if stated is None or min(stated) <= 0:
        return []
    if all(abs(said - found) <= TOLERANCE for said, found in zip(stated, image.size, strict=True)):
        return []
    turned = " once its EXIF orientation is applied" if image.orientation != 1 else ""
    return [
        f"{where}: states a size of {stated[0]}x{stated[1]}, but {path} has "
        f"{image.width}x{image.height}{turned}; its boxes may be of another "
        "version of the image: correct both or use --on-bad-data skip"
    ]


def looks_normalised(box: Box, width: int, height: int) -> bool:
    """Whether the corners seem to be fractions of the image's sides: none above 1, and not all whole.

    Args:
        box: xyxy as the file has it.
        width: of the image, in pixels; ``height`` likewise.
    """
    is_fraction = all(0 <= value <= 1 for value in box) and not all(value == int(value) for value in box)
    return is_fraction and min(width, height) > 2


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
