"""Images with their objects and detections drawn in: those where a detector is best and worst."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from drcnn.data.annotations import Annotations
from drcnn.data.drawing import draw_box, write_name
from drcnn.engine.average_precision import score_split
from drcnn.report.blocks import Picture
from studies.analysis.replicates import Replicate

__all__ = ["LEAST_SCORE", "MOST_IMAGES", "samples"]

Floats = NDArray[np.float64]

# Weaker detections are not drawn: with all from a score of 0.05, they would cover the image.
LEAST_SCORE = 0.5
FOUND, WRONG, OBJECT = "#56b4e9", "#ff8a3d", "#ffffff"
SIDE = 480  # pixels, the longer side of a drawn image
# Ranking all 5,000 images of COCO would take minutes.
MOST_IMAGES = 500


def samples(
    replicate: Replicate, annotations: Annotations, count: int = 4
) -> tuple[list[Picture], list[Picture]]:
    """Draw the images of the highest and of the lowest AP.

    Args:
        replicate: of the detector; its trial's folder has the detections.
        annotations: the images that it is judged by.
        count: how many images of each.
    """
    detections = pq.read_table(replicate.trial.folder / "detections.parquet")
    rows, curves = _rank(annotations, detections, replicate.trial.config.evaluation.metric)
    order = range(len(rows))[: len(rows) // 2][:count]
    best, worst = (
        [
            _draw(annotations, detections, int(rows[place]), curves[place], f"sample_{name}_{number}.png")
            for number, place in enumerate(places, 1)
        ]
        for name, places in (("best", order), ("worst", [-1 - place for place in order]))
    )
    return best, worst


def _rank(annotations: Annotations, detections: pa.Table, protocol: str) -> tuple[NDArray[np.intp], Floats]:
    """Rank the images that have objects by falling AP; of equal AP, a usual number of objects comes first.

    Returns:
        int[N], rows of the images; float[N, 10], AP on each image alone at each IoU threshold.
    """
    split = score_split(annotations, detections, "voc07" if protocol == "voc07" else "coco")
    everything = np.arange(len(annotations))
    rows = everything
    if len(rows) > MOST_IMAGES:
        rows = np.sort(np.random.default_rng(0).choice(rows, MOST_IMAGES, replace=False))
    blocks = np.array_split(rows, max(1, len(rows) // 100))
    curves = np.concatenate([split.ap((block[:, None] == everything).astype(float)) for block in blocks])
    has_objects = ~np.isnan(curves).any(axis=1)
    rows, curves = rows[has_objects], curves[has_objects]
    # Few objects are often all found, or all missed. AP is rounded because sums may differ by 1e-16.
    objects = annotations.trainable_counts[rows]
    distance = np.abs(objects - np.median(objects))
    order = np.lexsort((rows, distance, -curves.mean(axis=1).round(3)))
    return rows[order], curves[order]


def _draw(annotations: Annotations, detections: pa.Table, row: int, curve: Floats, file: str) -> Picture:
    """Draw one image with its objects and the detections of a high score; ``curve`` as from ``_rank``."""
    image_id = annotations.ids[row]
    is_drawn = (pc.field("image_id") == image_id) & (pc.field("score") >= LEAST_SCORE)
    drawn = detections.filter(is_drawn).sort_by([("score", "descending")])
    boxes = np.stack([drawn[side].to_numpy() for side in ("x1", "y1", "x2", "y2")], axis=1).astype(float)
    labels, scores = drawn["label"].to_numpy(), drawn["score"].to_numpy()
    keep = ~annotations.ignore(row)
    objects, classes = annotations.boxes(row)[keep].astype(float), annotations.labels(row)[keep]
    is_correct = _match(boxes, labels, objects, classes)

    source = annotations.source(row)
    with Image.open(source if isinstance(source, str) else io.BytesIO(source)) as stored:
        scale = SIDE / max(stored.size)
        size = (max(1, round(stored.width * scale)), max(1, round(stored.height * scale)))
        image = stored.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(image)
    for box, label in zip(objects * scale, classes, strict=True):
        draw_box(pen, box, size, "#000000", width=4)
        draw_box(pen, box, size, OBJECT, width=2, inset=1)
        write_name(pen, annotations.classes[label], box, size, OBJECT, is_below=True)
    for box, label, score, is_right in zip(boxes * scale, labels, scores, is_correct, strict=True):
        color = FOUND if is_right else WRONG
        draw_box(pen, box, size, color)
        write_name(pen, f"{annotations.classes[label]} {score:.2f}", box, size, color)
    target = io.BytesIO()
    image.quantize(128).save(target, format="PNG", optimize=True)

    result = f"{is_correct.sum()} of {len(objects)} objects found, {(~is_correct).sum()} wrong"
    ap = f"AP {100 * curve.mean():.0f}, AP50 {100 * curve[0]:.0f}"
    caption = f"{image_id}: {result}; with weaker detections too, {ap}"
    alt = f"Image {image_id}: {result} detections."
    return Picture(file, target.getvalue(), None, alt, caption)


def _match(
    boxes: Floats,
    labels: NDArray[np.int32],
    objects: Floats,
    classes: NDArray[np.int32],
) -> NDArray[np.bool_]:
    """Return which detections find an object of their class that no better one found, at IoU 0.5.

    Args:
        boxes: float[D, 4] xyxy, by falling score.
        labels: int[D], their classes.
        objects: float[G, 4] xyxy.
        classes: int[G], their classes.
    """
    import torch

    from drcnn.detector.boxes import pairwise_iou

    overlaps = pairwise_iou(torch.from_numpy(boxes), torch.from_numpy(objects)).numpy()
    overlaps = np.where(labels[:, None] == classes, overlaps, 0)
    is_correct = np.zeros(len(boxes), dtype=np.bool_)
    for number, overlap in enumerate(overlaps):
        if overlap.max(initial=0) >= 0.5:
            is_correct[number] = True
            overlaps[:, overlap.argmax()] = 0
    return is_correct
