"""Test images with objects and detections drawn in: where a detector is at its best and at its worst."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask

from drcnn.data.annotations import Annotations
from drcnn.engine.average_precision import score_split
from studies.analysis.replicates import Replicate
from studies.report.document import Gallery, Picture

__all__ = ["LEAST_SCORE", "MOST_IMAGES", "samples"]

# Weaker detections are not drawn: at a score threshold of 0.05 an image would be covered with them.
LEAST_SCORE = 0.5
FOUND, WRONG, OBJECT = "#56b4e9", "#ff8a3d", "#ffffff"
SIDE = 480  # pixels of the drawn image's longer side
# To rank all 5,000 of COCO would take minutes each time.
MOST_IMAGES = 500


@dataclass(frozen=True)
class _Sample:
    """One image: its row, its own AP, and what was found in it."""

    row: int
    ap: float
    ap50: float


def samples(run: Replicate, annotations: Annotations, count: int = 4) -> tuple[Gallery, Gallery]:
    """The images of the highest and of the lowest AP, drawn.

    Args:
        run: of the detector.
        annotations: the test images.
        count: how many of each.
    """
    detections = pq.read_table(run.trial.folder / "detections.parquet")
    ranked = _ranked(annotations, detections, run.trial.config.evaluation.metric)
    count = min(count, len(ranked) // 2)
    best, worst = ranked[:count], ranked[len(ranked) - count :][::-1]
    columns = _Detections(detections)
    return (
        Gallery(
            tuple(_draw(annotations, columns, each, f"sample_best_{n}.png") for n, each in enumerate(best, 1))
        ),
        Gallery(
            tuple(
                _draw(annotations, columns, each, f"sample_worst_{n}.png") for n, each in enumerate(worst, 1)
            )
        ),
    )


def _ranked(annotations: Annotations, detections: pa.Table, protocol: str) -> list[_Sample]:
    """The images that have objects, best first; of equals, those with more objects are shown first."""
    split = score_split(annotations, detections, "voc07" if protocol == "voc07" else "coco")
    rows = np.arange(len(annotations))
    if len(rows) > MOST_IMAGES:
        rows = np.sort(np.random.default_rng(0).choice(rows, MOST_IMAGES, replace=False))
    found = []
    for block in np.array_split(rows, max(1, len(rows) // 100)):
        # The AP of a test set that holds this one image.
        weights = (block[:, None] == np.arange(len(annotations))).astype(float)
        for row, ap in zip(block.tolist(), split.ap(weights), strict=True):
            if not np.isnan(ap).any():
                found.append(_Sample(row, float(ap.mean()), float(ap[0])))
    objects = annotations.trainable_counts
    middle = float(np.median(objects[[each.row for each in found]])) if found else 0.0
    # Rounded, or 1e-16 would decide; few objects are easily all found, and all missed.
    return sorted(
        found, key=lambda each: (-round(each.ap, 3), abs(float(objects[each.row]) - middle), each.row)
    )


class _Detections:
    """Detections to draw, by image id."""

    def __init__(self, table: pa.Table) -> None:
        self._ids = np.array(table["image_id"].to_pylist(), dtype=object)
        self._boxes = np.stack([table[side].to_numpy() for side in ("x1", "y1", "x2", "y2")], axis=1)
        self._labels, self._scores = table["label"].to_numpy(), table["score"].to_numpy()

    def of(self, image_id: str) -> tuple[NDArray[np.float64], NDArray[np.int32], NDArray[np.float32]]:
        """Boxes, labels and scores, by falling score."""
        mine = np.flatnonzero((self._ids == image_id) & (self._scores >= LEAST_SCORE))
        mine = mine[np.argsort(-self._scores[mine], kind="stable")]
        return self._boxes[mine].astype(float), self._labels[mine], self._scores[mine]


def _draw(annotations: Annotations, detections: _Detections, sample: _Sample, file: str) -> Picture:
    row = sample.row
    image_id = annotations.ids[row]
    boxes, labels, scores = detections.of(image_id)
    keep = ~annotations.ignore(row)
    objects, classes = annotations.boxes(row)[keep].astype(float), annotations.labels(row)[keep]
    correct = _correct(boxes, labels, objects, classes)

    source = annotations.source(row)
    with Image.open(source if isinstance(source, str) else io.BytesIO(source)) as stored:
        scale = SIDE / max(stored.size)
        size = (max(1, round(stored.width * scale)), max(1, round(stored.height * scale)))
        image = stored.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(image)
    for box, label in zip(objects * scale, classes, strict=True):
        pen.rectangle(_within(box, size), outline="#000000", width=4)
        pen.rectangle(_within(box, size, 1), outline=OBJECT, width=2)
        _name(pen, annotations.classes[label], box, size, OBJECT, is_below=True)
    for box, label, score, is_right in zip(boxes * scale, labels, scores, correct, strict=True):
        color = FOUND if is_right else WRONG
        pen.rectangle(_within(box, size), outline=color, width=3)
        _name(pen, f"{annotations.classes[label]} {score:.2f}", box, size, color)
    target = io.BytesIO()
    image.quantize(128).save(target, format="PNG", optimize=True)
    found, wrong = int(correct.sum()), int((~correct).sum())
    said = f"{found} of {len(objects)} objects found, {wrong} wrong"
    ap = f"AP {100 * sample.ap:.0f}, AP50 {100 * sample.ap50:.0f}"
    caption = f"{image_id}: {said}; with weaker detections too, {ap}"
    alt = f"Test image {image_id}: {said} detections."
    return Picture(file, target.getvalue(), None, alt, caption)


def _name(
    pen: ImageDraw.ImageDraw,
    text: str,
    box: NDArray[np.float64],
    size: tuple[int, int],
    color: str,
    *,
    is_below: bool = False,
) -> None:
    """Write above a detection, below an object: so neither hides the other's name."""
    font = ImageFont.load_default(size=17)
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    x = min(max(0.0, box[0]), max(0.0, size[0] - right - 6))
    y = min(box[3], size[1] - bottom - 6.0) if is_below else max(0.0, box[1] - bottom - 6)
    pen.rectangle((x, y, x + right - left + 6, y + bottom - top + 8), fill=color)
    pen.text((x + 3, y + 1), text, fill="#000000", font=font)


def _correct(
    boxes: NDArray[np.float64],
    labels: NDArray[np.int32],
    objects: NDArray[np.float64],
    classes: NDArray[np.int32],
) -> NDArray[np.bool_]:
    """Which detections, by falling score, find an object of their class, not found before, at IoU 0.5."""
    correct = np.zeros(len(boxes), dtype=np.bool_)
    if not len(boxes) or not len(objects):
        return correct
    overlaps = mask.iou(_with_sides(boxes), _with_sides(objects), np.zeros(len(objects), dtype=np.uint8))
    overlaps = np.where(labels[:, None] == classes, overlaps, 0)
    for place, row in enumerate(overlaps):
        if row.max() >= 0.5:
            correct[place] = True
            overlaps[:, row.argmax()] = 0
    return correct


def _with_sides(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)


def _within(
    box: Sequence[float] | NDArray[np.float64], size: tuple[int, int], inset: int = 0
) -> tuple[float, ...]:
    x1, y1, x2, y2 = (float(side) for side in box)
    left, top = max(0.0, x1) + inset, max(0.0, y1) + inset
    return left, top, max(left, min(size[0] - 1.0, x2) - inset), max(top, min(size[1] - 1.0, y2) - inset)
