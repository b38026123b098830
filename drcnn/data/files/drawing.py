"""Draw boxes and their names into a picture. Boxes are xyxy in pixels of the picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from matplotlib import get_data_path
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from drcnn.data.images import decode

__all__ = [
    "color_of",
    "draw_box",
    "draw_detections",
    "drawn_names",
    "font",
    "numbers_in_words",
    "png",
    "scaled",
    "write_name",
]

# Okabe and Ito's, which colour-blind people tell apart, without black; bright enough to write on in black.
COLORS = ("#56b4e9", "#ff8a3d", "#2fc79a", "#f0e442", "#e79ac9", "#6fa8ff", "#ffb000")

# No font has a character for it.
LACKING = "\U0010fffe"

Size = tuple[int, int]
# x1, y1, x2, y2.
Box = Sequence[float] | NDArray[np.floating]


def scaled(source: str | bytes, side: int) -> tuple[Image.Image, float]:
    """Open an image, upright, with ``side`` pixels as its longer side.

    Args:
        source: of the image: its path, or the encoded file.
        side: in pixels.

    Returns:
        The image in RGB, and what to multiply its boxes with.
    """
    stored = Image.fromarray(decode(source).permute(1, 2, 0).numpy())
    scale = side / max(stored.size)
    size = (max(1, round(stored.width * scale)), max(1, round(stored.height * scale)))
    return stored.resize(size, Image.Resampling.BICUBIC), scale


def png(image: Image.Image) -> bytes:
    """Return a picture as a PNG file of 128 colours."""
    target = io.BytesIO()
    image.quantize(128).save(target, format="PNG", optimize=True)
    return target.getvalue()


def color_of(label: int) -> str:
    """Return the colour of a class."""
    return COLORS[label % len(COLORS)]


def drawn_names(classes: Sequence[str]) -> list[str]:
    """Return what is drawn of each class: its name, or its number where the font lacks a character of it.

    >>> drawn_names(["cat", "猫"])
    ['cat', '#1']
    """
    return [name if all(map(_has_glyph, name)) else f"#{label}" for label, name in enumerate(classes)]


def numbers_in_words(classes: Sequence[str]) -> str:
    """Say which classes the numbers in pictures stand for; empty if all names are drawn.

    >>> numbers_in_words(["cat", "猫"])
    'in pictures, whose font lacks these characters: #1 is 猫'
    """
    pairs = zip(drawn_names(classes), classes, strict=True)
    numbered = ", ".join(f"{drawn} is {name}" for drawn, name in pairs if drawn != name)
    return f"in pictures, whose font lacks these characters: {numbered}" if numbered else ""


@cache
def font(letters: int) -> ImageFont.FreeTypeFont:
    """Return the font of pictures, DejaVu Sans, in a size in pixels: Pillow's own has ASCII only."""
    return ImageFont.truetype(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), letters)


@cache
def _has_glyph(character: str) -> bool:
    """Whether the font draws it as anything else than the box that stands for what it lacks."""
    if character.isspace():
        return True
    drawn, lacking = (font(17).getmask(text) for text in (character, LACKING))
    return (drawn.size, bytes(drawn)) != (lacking.size, bytes(lacking))


def draw_detections(
    image: Image.Image,
    boxes: Sequence[Box] | NDArray[np.floating],
    texts: Sequence[str],
    labels: Sequence[int],
) -> None:
    """Draw detections into an image, best first, in the colours of their classes.

    Args:
        image: RGB; lines and letters grow with it.
        boxes: [D, 4].
        texts: D, written above the boxes.
        labels: D, classes from 0.
    """
    pen = ImageDraw.Draw(image)
    width = max(2, round(max(image.size) / 300))
    letters = max(12, round(max(image.size) / 45))
    # The best last, so that it lies above the others.
    for box, text, label in reversed(list(zip(boxes, texts, labels, strict=True))):
        draw_box(pen, box, image.size, color_of(label), width=width)
        write_name(pen, text, box, image.size, color_of(label), letters=letters)


def draw_box(
    pen: ImageDraw.ImageDraw, box: Box, size: Size, color: str, *, width: int = 3, inset: int = 0
) -> None:
    """Draw a box, clipped to an image of this (width, height) and shrunk by ``inset`` pixels."""
    x1, y1, x2, y2 = box
    left, top = max(0.0, x1) + inset, max(0.0, y1) + inset
    right, bottom = max(left, min(size[0] - 1.0, x2) - inset), max(top, min(size[1] - 1.0, y2) - inset)
    pen.rectangle((left, top, right, bottom), outline=color, width=width)


def write_name(
    pen: ImageDraw.ImageDraw,
    text: str,
    box: Box,
    size: Size,
    color: str,
    *,
    letters: int = 17,
    is_below: bool = False,
) -> None:
    """Write above a box, or inside at its lower border, in black on the box's colour; never off the image."""
    own = font(letters)
    left, top, right, bottom = pen.textbbox((0, 0), text, font=own)
    x = min(max(0.0, box[0]), max(0.0, size[0] - right - 6))
    y = min(box[3], size[1] - bottom - 6.0) if is_below else max(0.0, box[1] - bottom - 6)
    pen.rectangle((x, y, x + right - left + 6, y + bottom - top + 8), fill=color)
    pen.text((x + 3, y + 1), text, fill="#000000", font=own)
