"""Checks of whole splits and of splits beside each other: what no single annotation file shows.

Here "unusable" is what training refuses, and a warning is what it uses all the same.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from drcnn.data.annotations import Annotations
from drcnn.data.loader import SMALLEST_SIDE, trainable_rows
from drcnn.data.warnings import DataWarning

__all__ = ["few_to_judge", "unusable", "warnings_across_splits", "warnings_of_split"]

# COCO's metric counts so many detections of an image and class (drcnn.engine.ap_matching).
COCO_DETECTIONS = 100
# With fewer objects to train on, a class is rather a slip of the pen.
FEW_OBJECTS = 10
# On photographs with 13 objects each (BCCD), the 95 % interval of a detector's AP over 30 images is ±5, more
# than settings differ by; over 72 it is ±3.
FEW_IMAGES = 30


def unusable(tables: Mapping[str, Annotations], names: Mapping[str, str]) -> list[str]:
    """Return one line for each split that cannot serve its purpose.

    Args:
        tables: by ``train``, ``val`` and ``test``.
        names: what the data calls these splits.
    """
    messages = []
    for split, table in tables.items():
        name = f"split {names[split]!r}"
        if split == "train" and not table.trainable_counts[trainable_rows(table)].any():
            messages.append(
                f"{name}: none of its images ({len(table)}) can be trained on (a box that is not ignored, "
                f"sides of at least {SMALLEST_SIDE} px); correct the data or set data.train_split"
            )
        elif split != "train" and not table.trainable_counts.any():
            ignored = " that is not ignored (difficult or crowd)" if len(table.all_boxes) else ""
            messages.append(
                f"{name}: none of its images ({len(table)}) has an object{ignored}, so it can judge nothing; "
                f"annotate it or set data.{split}_split"
            )
    return messages


def warnings_of_split(split: str, table: Annotations) -> list[DataWarning]:
    """Return the warnings that a table itself shows.

    Args:
        split: ``train``, ``val`` or ``test``.
        table: of the split.
    """
    return [
        *(_images_left_out(table) if split == "train" else _images_hard_to_judge(table)),
        *_images_given_twice(table),
        *_boxes_given_twice(table),
        *_percentages(split, table),
    ]


def few_to_judge(split: str, table: Annotations, count: int | None = None) -> list[DataWarning]:
    """Return a warning if a split that judges or chooses is too small for that.

    Args:
        split: ``train``, ``val`` or ``test``.
        table: of the whole split.
        count: how many of its images were asked for; then it is as small as was asked, and nothing is said.
    """
    if split == "train" or count is not None or len(table) >= FEW_IMAGES:
        return []
    images = "1 image" if len(table) == 1 else f"{len(table)} images"
    return [
        DataWarning(
            f"splits of fewer than {FEW_IMAGES} images, too few to tell settings apart",
            f"{split}: has {images}; with fewer than {FEW_IMAGES}, AP would differ by 5 points or more "
            "on other images, and settings differ by less",
        )
    ]


def warnings_across_splits(tables: Mapping[str, Annotations]) -> list[DataWarning]:
    """Return what shows only in several splits side by side: images in two of them, and their classes."""
    return [*_images_in_two_splits(tables), *_suspicious_classes(tables)]


def _images_left_out(table: Annotations) -> Iterator[DataWarning]:
    for row in np.flatnonzero(np.diff(table.offsets) == 0).tolist():
        yield DataWarning(
            "images without objects, not trained on",
            f"{table.name(row)}: has no object, so is not trained on",
        )
    for row in np.flatnonzero(np.minimum(table.widths, table.heights) < SMALLEST_SIDE).tolist():
        yield DataWarning(
            f"images with a side below {SMALLEST_SIDE} px, not trained on",
            f"{table.name(row)}: is {table.widths[row]}x{table.heights[row]} pixels, so is not trained on",
        )


def _images_hard_to_judge(table: Annotations) -> Iterator[DataWarning]:
    for row in range(len(table)):
        labels = table.labels(row)
        if not len(labels):
            yield DataWarning("images without objects", f"{table.name(row)}: has no object to find")
        most = int(np.bincount(labels).max()) if len(labels) > COCO_DETECTIONS else 0
        if most > COCO_DETECTIONS:
            yield DataWarning(
                f"images with over {COCO_DETECTIONS} objects of a class",
                f"{table.name(row)}: has {most} objects of a class; COCO's metric counts {COCO_DETECTIONS} "
                "detections of an image and class, whatever detector.max_detections is",
            )


def _images_given_twice(table: Annotations) -> Iterator[DataWarning]:
    for rows in _by_digest(table).values():
        for row in rows[1:]:
            yield DataWarning(
                "images given twice",
                f"{table.name(row)}: has the same content as {table.name(rows[0])}",
            )


def _boxes_given_twice(table: Annotations) -> Iterator[DataWarning]:
    row = np.repeat(np.arange(len(table)), np.diff(table.offsets))
    order = np.lexsort([*table.all_boxes.T, row])
    boxes, rows, labels = table.all_boxes[order], row[order], table.all_labels[order]
    same = np.flatnonzero((rows[1:] == rows[:-1]) & (boxes[1:] == boxes[:-1]).all(axis=1))
    for at in same.tolist():
        first, second = (table.classes[label] for label in labels[at : at + 2].tolist())
        corners = ", ".join(f"{value:g}" for value in boxes[at].tolist())
        where = f"{table.name(int(rows[at]))}: box [{corners}]"
        if first == second:
            yield DataWarning(
                "boxes given twice", f"{where} of {first!r} is given twice; one is always missed"
            )
        else:
            yield DataWarning("boxes of two classes", f"{where} is given as {first!r} and as {second!r}")


def _percentages(split: str, table: Annotations) -> Iterator[DataWarning]:
    boxes = table.all_boxes
    if len(boxes) >= 20 and boxes.max() <= 100 and np.minimum(table.widths, table.heights).min() > 200:
        yield DataWarning(
            "splits whose boxes look like percentages",
            f"{split}: no box goes beyond pixel 100, though every image is larger than 200x200; boxes are "
            "expected in pixels, not in percent of the image",
        )


def _images_in_two_splits(tables: Mapping[str, Annotations]) -> Iterator[DataWarning]:
    digests = {split: _by_digest(table) for split, table in tables.items()}
    for first, second in combinations(tables, 2):
        for digest, rows in digests[second].items():
            if digest not in digests[first]:
                continue
            one = tables[first].name(digests[first][digest][0])
            for row in rows:
                yield DataWarning(
                    f"images of {first} in {second} too",
                    f"{tables[second].name(row)} ({second}): has the same content as {one} ({first})",
                )


def _suspicious_classes(tables: Mapping[str, Annotations]) -> Iterator[DataWarning]:
    classes = next(iter(tables.values())).classes
    counts = {split: _objects_by_class(table) for split, table in tables.items()}
    alike = defaultdict(list)
    for name in classes:
        alike[" ".join(name.casefold().split())].append(name)
    for names in alike.values():
        if len(names) > 1:
            listed = " and ".join(map(repr, names))
            yield DataWarning(
                "classes that differ in case only", f"classes {listed} differ in case or blanks only"
            )
    for name in classes:
        present = [split for split in tables if counts[split][name]]
        if not present:
            yield DataWarning("classes without objects", f"class {name!r} has no object in any split")
        elif len(present) < len(tables):
            absent = ", ".join(split for split in tables if split not in present)
            yield DataWarning(
                "classes missing in a split",
                f"class {name!r} has objects in {', '.join(present)}, but none in {absent}",
            )
        trained = counts.get("train", Counter())[name]
        if 0 < trained < FEW_OBJECTS:
            yield DataWarning(
                "classes with few objects", f"class {name!r} has few objects to train on: {trained}"
            )


def _objects_by_class(table: Annotations) -> Counter[str]:
    """How many objects of each class are not ignored."""
    counts: NDArray[np.intp] = np.bincount(table.all_labels[~table.all_ignore], minlength=len(table.classes))
    return Counter(dict(zip(table.classes, counts.tolist(), strict=True)))


def _by_digest(table: Annotations) -> dict[bytes, list[int]]:
    """The rows of each picture."""
    rows: dict[bytes, list[int]] = {}
    for row, digest in enumerate(table.digests.tolist()):
        rows.setdefault(digest, []).append(row)
    return rows
