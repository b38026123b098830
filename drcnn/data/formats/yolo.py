"""Read YOLO's label files: a line an object, ``class x_center y_center width height``.

The numbers are fractions of the image's sides. Lines of polygons, ``class x1 y1 x2 y2 x3 y3 ...``, are read
as the boxes around them.
"""

from __future__ import annotations

from collections.abc import Sequence

from drcnn.data.annotations import Annotations, DataError
from drcnn.data.faults import Box, DataFaults, checked_box
from drcnn.data.formats.label_pairs import Pair
from drcnn.data.formats.labelled_images import Objects, read_pairs
from drcnn.plain_text import shown

__all__ = ["read_yolo"]

# Rounding to a few digits may lead a little out of the image.
MOST = 1.01


def read_yolo(pairs: Sequence[Pair], classes: Sequence[str], faults: DataFaults) -> Annotations:
    """Read images with their labels; one without a label file, or with an empty one, has no objects.

    Args:
        pairs: the images.
        classes: names, by the number in the files.
        faults: collects every fault; see ``read_pairs``.

    Raises:
        DataError: as ``read_pairs`` does; a line is no box or polygon, or its class has no name.
    """
    return read_pairs(pairs, classes, lambda pair, size: _read(pair, size, len(classes), faults), faults)


def _read(pair: Pair, size: tuple[int, int], classes: int, warnings: DataFaults) -> Objects:
    objects, polygons = Objects(), 0
    try:
        lines = pair.label.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        return Objects(faults=[f"{pair.label}: not readable as UTF-8 text ({error}); correct it"])
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{pair.label}: line {number}"
        try:
            label, corners, is_polygon = _object(line.split(), size, classes, where)
            box = checked_box(corners, *size, where)
        except DataError as error:
            objects.faults.append(str(error))
            continue
        polygons += is_polygon
        if box is None:
            warnings.warn("boxes of zero area, left out", f"{where}: box of zero area left out")
            continue
        objects.boxes.append(box)
        objects.labels.append(label)
        objects.ignore.append(False)
    if polygons:
        warnings.warn(
            "files of polygons, read as the boxes around them",
            f"{pair.label}: {polygons} polygons are read as the boxes around them",
        )
    return objects


def _object(words: list[str], size: tuple[int, int], classes: int, where: str) -> tuple[int, Box, bool]:
    """Return the class, the box (xyxy in pixels), and whether it was a polygon."""
    try:
        label, *values = (float(word) for word in words)
    except ValueError:
        raise DataError(f"{where}: {shown(' '.join(words))} is not numbers only; correct it") from None
    if not label.is_integer() or not 0 <= label < classes:
        raise DataError(f"{where}: class {words[0][:20]} has no name; there are {classes}, counted from 0")
    if not (len(values) == 4 or (len(values) >= 6 and len(values) % 2 == 0)):
        raise DataError(
            f"{where}: has {len(words)} numbers, expected 5 (class, x_center, y_center, width, height) or "
            "a class and the corners of a polygon; correct it"
        )
    if not all(-(MOST - 1) <= value <= MOST for value in values):
        raise DataError(
            f"{where}: {' '.join(words[1:])[:100]} are no fractions of the image's sides, from 0 to 1; "
            "divide pixels by the image's width and height"
        )
    width, height = size
    if len(values) > 4:
        xs, ys = [x * width for x in values[::2]], [y * height for y in values[1::2]]
        return int(label), (min(xs), min(ys), max(xs), max(ys)), True
    x, y, w, h = values
    box = ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)
    return int(label), box, False
