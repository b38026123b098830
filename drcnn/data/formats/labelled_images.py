"""Read images that have a label file each, VOC's XML or YOLO's text: what both have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from drcnn.data.annotations import Annotations, DataError, Record
from drcnn.data.faults import Box, DataFaults, size_fault
from drcnn.data.formats.label_pairs import Pair
from drcnn.data.images import inspect

__all__ = ["Objects", "read_pairs"]


@dataclass
class Objects:
    """The content of a label file.

    Attributes:
        boxes: xyxy in pixels of the image.
        labels: 0-based class of each.
        ignore: whether each is neither trained on nor counted.
        faults: one line each; with any of them the image cannot be used.
        stated: the width and height that it states, if it states both.
    """

    boxes: list[Box] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    ignore: list[bool] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    stated: tuple[int, int] | None = None


def read_pairs(
    pairs: Sequence[Pair],
    classes: Sequence[str],
    read: Callable[[Pair, tuple[int, int]], Objects],
    faults: DataFaults,
) -> Annotations:
    """Read images with their labels; one without a label file has no objects.

    Args:
        pairs: the images.
        classes: their names, by label.
        read: reads a label file that exists, given the image's (width, height).
        faults: collects every fault and warning. If it skips, an image with any fault is left out, and every
            image is decoded once to find damage, so that training finds none.

    Raises:
        DataError: an image is missing or damaged, or ``read`` finds a fault, unless ``faults`` skips; or no
            image is left.
    """
    records = []
    for pair in pairs:
        path = str(pair.image)
        try:
            image = inspect(path, decode_all=faults.skip)
        except DataError as error:
            faults.add([str(error)])
            continue
        if pair.label.is_file():
            objects = read(pair, image.size)
        else:
            objects = Objects()
            faults.warn(
                "images without a label file, read as without objects",
                f"{path}: has no label file ({pair.label.name}), so is read as an image without objects; "
                "move it out if only nobody has labelled it yet",
            )
        if faults.add([*size_fault(path, image, objects.stated, str(pair.label)), *objects.faults]):
            continue
        faults.warn_of_image(path, image, objects.stated)
        records.append(
            Record(
                pair.id,
                *image.size,
                objects.boxes,
                objects.labels,
                objects.ignore,
                path=path,
                digest=image.digest,
            )
        )
    if not records:
        raise DataError(f"{pairs[0].image.parent}: has no usable image")
    return Annotations.from_records(records, classes, skipped=faults.messages)
