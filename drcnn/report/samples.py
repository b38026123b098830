"""Images with their objects and detections drawn in: those where a detector is best and worst."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from drcnn.data.annotations import Annotations
from drcnn.data.files.drawing import draw_box, drawn_names, numbers_in_words, png, scaled, write_name
from drcnn.engine.diagnosis import rank_images
from drcnn.engine.judged_detections import JudgedDetections
from drcnn.report.blocks import Picture, escape

__all__ = ["best_and_worst", "draw_judged", "found_in", "how_drawn", "photo", "side_by_side"]

HOW_DRAWN = (
    "White boxes are true objects, named below; blue ones are detections that are right (IoU from 0.5), "
    "orange ones are wrong."
)
FOUND, WRONG, OBJECT, NEITHER = "#56b4e9", "#ff8a3d", "#ffffff", "#b9bec5"
SIDE = 480  # pixels, the longer side of a drawn image
GAP = 12  # between two


def how_drawn(classes: Sequence[str]) -> str:
    """Say in Markdown what the boxes of a picture mean, and which numbers stand for names, if any do."""
    numbers = escape(numbers_in_words(classes))
    return f"{HOW_DRAWN} Some names are numbers {numbers}." if numbers else HOW_DRAWN


def best_and_worst(
    annotations: Annotations, judged: JudgedDetections, score: float, count: int = 4
) -> tuple[list[Picture], list[Picture]]:
    """Draw the images of the highest and of the lowest AP.

    Args:
        annotations: the images.
        judged: a detector's detections there.
        score: the least of a detection that is drawn; all together would cover the image.
        count: how many images of each.
    """
    rows, curves = rank_images(annotations, judged)
    # Half the images are best, half worst; a single one is worst.
    half = len(rows) // 2
    chosen = {
        "best": list(range(half))[:count],
        "worst": [len(rows) - 1 - place for place in range(len(rows) - half)][:count],
    }
    best, worst = (
        [
            _picture(annotations, judged, int(rows[place]), score, curves[place], f"sample_{name}_{number}")
            for number, place in enumerate(places, 1)
        ]
        for name, places in chosen.items()
    )
    return best, worst


def draw_judged(annotations: Annotations, judged: JudgedDetections, row: int, score: float) -> Image.Image:
    """Draw the objects of one image, and the detections from a score on: right, wrong, or neither."""
    image, scale = scaled(annotations.source(row), SIDE)
    size = image.size
    pen = ImageDraw.Draw(image)
    keep, names = ~annotations.ignore(row), drawn_names(annotations.classes)
    for box, label in zip(annotations.boxes(row)[keep] * scale, annotations.labels(row)[keep], strict=True):
        draw_box(pen, box, size, "#000000", width=4)
        draw_box(pen, box, size, OBJECT, width=2, inset=1)
        write_name(pen, names[label], box, size, OBJECT, is_below=True)
    for place in np.flatnonzero((judged.image == row) & (judged.score >= score)):
        color = FOUND if judged.is_right[place] else WRONG if judged.is_wrong[place] else NEITHER
        box = judged.boxes[place] * scale
        draw_box(pen, box, size, color)
        write_name(pen, f"{names[judged.label[place]]} {judged.score[place]:.2f}", box, size, color)
    return image


def found_in(annotations: Annotations, judged: JudgedDetections, row: int, score: float) -> str:
    """How many objects of an image are found by detections from a score on, and how many are wrong."""
    drawn = (judged.image == row) & (judged.score >= score)
    right, wrong = (int((drawn & flags).sum()) for flags in (judged.is_right, judged.is_wrong))
    return f"{right} of {annotations.trainable_counts[row]} objects found, {wrong} wrong"


def side_by_side(images: Sequence[Image.Image]) -> Image.Image:
    """Put images of one size beside each other."""
    width, height = images[0].size
    sheet = Image.new("RGB", (len(images) * (width + GAP) - GAP, height), "#ffffff")
    for number, image in enumerate(images):
        sheet.paste(image, (number * (width + GAP), 0))
    return sheet


def photo(file: str, image: Image.Image, alt: str, caption: str, *, is_wide: bool = False) -> Picture:
    """Return an image as a picture of a page; a wide one takes a line of its own."""
    return Picture(file, png(image), None, alt, caption, is_wide)


def _picture(
    annotations: Annotations,
    judged: JudgedDetections,
    row: int,
    score: float,
    curve: NDArray[np.float64],
    name: str,
) -> Picture:
    """``curve``: AP at each IoU threshold on this image alone."""
    image_id, result = annotations.ids[row], found_in(annotations, judged, row, score)
    ap = f"AP {100 * curve.mean():.0f}, AP50 {100 * curve[0]:.0f}"
    caption = f"{image_id}: {result}; with weaker detections too, {ap}"
    alt = f"Image {image_id}: {result} detections."
    return photo(f"{name}.png", draw_judged(annotations, judged, row, score), alt, caption)
