"""The embedded digits data: handwritten digits, overlapping, on cluttered and noisy canvases.

The handwriting is scikit-learn's copy of the UCI "Optical recognition of handwritten digits" test set (8x8
grey values). Everything else is drawn from a seed that is fixed here, so all trials share one data set.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from drcnn.data.annotations import Annotations, DataError, Record

__all__ = ["DIGITS_SEED", "make_digits"]

DIGITS_SEED = 20200923

CANVAS_SIDES = (128, 160, 192)
DIGITS_PER_IMAGE = (2, 8)
DIGIT_SIDES = (16, 56)  # longer side of the tight box
MAX_IOU = 0.3
# Ink is where a digit's own mask is at least this dense; its box is tight around that.
INK = 0.5
# A digit that is hidden more than this by others could not be recognised by a person either.
MAX_HIDDEN = 0.35
MIN_CONTRAST = 50.0
# Grey values of each colour channel: a dark sheet, stains somewhat lighter, light ink of any hue. Strokes and
# scraps of the clutter are drawn in ink too.
SHEET, STAIN, INKS = (15, 90), (20, 130), (130, 255)

# The samples are in the order of the forms they were scanned from, one writer after the other, and new forms
# start at 1287 and at 1545: no writer is in two splits. (A random split would be easier.)
HANDWRITING = {"train": slice(0, 1287), "val": slice(1287, 1545), "test": slice(1545, 1797)}

Mask = NDArray[np.float32]
Pixels = NDArray[np.float32]


@dataclass(frozen=True)
class _Digit:
    label: int
    mask: Mask  # [h, w] in 0..1, cut tightly around the ink
    left: int
    top: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        height, width = self.mask.shape
        return self.left, self.top, self.left + width, self.top + height


def make_digits(
    count: int, seed: int = DIGITS_SEED, split: Literal["train", "val", "test"] = "train"
) -> Annotations:
    """Generate ``count`` images; the same arguments give the same bytes.

    Canvases have sides of 128, 160 or 192 pixels and hold 2 to 8 digits whose longer side is 16 to 56 pixels;
    two boxes overlap up to IoU 0.3. The first images of a larger set are those of a smaller one.

    Raises:
        DataError: ``count`` is not positive or ``split`` is none of train, val, test.
    """
    if count < 1:
        raise DataError(f"digits: cannot make {count} images; give at least 1")
    if split not in HANDWRITING:
        raise DataError(f"digits: unknown split {split!r}; it has 'train', 'val' and 'test'")
    records = (_make_image(index, seed, split) for index in range(count))
    return Annotations.from_records(records, classes=[str(digit) for digit in range(10)])


def _make_image(index: int, seed: int, split: str) -> Record:
    rng = np.random.default_rng([seed, list(HANDWRITING).index(split), index])
    width, height = (int(side) for side in rng.choice(CANVAS_SIDES, size=2))
    glyphs, labels = _handwriting(split)
    canvas = _background(rng, width, height, glyphs)
    digits = _place_digits(rng, width, height, glyphs, labels)
    for digit in digits:
        left, top, right, bottom = digit.box
        _paint(canvas[top:bottom, left:right], digit.mask, rng)
    canvas += rng.normal(0.0, rng.uniform(4, 18), canvas.shape)
    encoded = io.BytesIO()
    Image.fromarray(np.clip(canvas + 0.5, 0, 255).astype(np.uint8)).save(encoded, "PNG", compress_level=1)
    return Record(
        id=f"{split}-{index:05d}",
        width=width,
        height=height,
        boxes=[digit.box for digit in digits],
        labels=[digit.label for digit in digits],
        image=encoded.getvalue(),
    )


@lru_cache(maxsize=3)
def _handwriting(split: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    # scikit-learn takes seconds to import, and only who draws the digits anew needs it.
    from sklearn.datasets import load_digits

    digits = load_digits()
    glyphs = (digits.images[HANDWRITING[split]] / 16.0).astype(np.float32)
    # Two empty pixels around, so that interpolated strokes end softly at the border.
    return np.pad(glyphs, ((0, 0), (2, 2), (2, 2))), digits.target[HANDWRITING[split]]


def _place_digits(
    rng: np.random.Generator,
    width: int,
    height: int,
    glyphs: NDArray[np.float32],
    labels: NDArray[np.int64],
) -> list[_Digit]:
    """Draw digits and positions until all of them fit; later digits cover earlier ones."""
    count = int(rng.integers(DIGITS_PER_IMAGE[0], DIGITS_PER_IMAGE[1] + 1))
    sides = rng.uniform(DIGIT_SIDES[0], DIGIT_SIDES[1], size=count)
    placed: list[_Digit] = []
    # Large digits first: a small one below a large one would vanish.
    for side in np.sort(sides)[::-1]:
        for attempt in range(1000):
            # On a crowded canvas only smaller digits fit in the end.
            longer_side = max(DIGIT_SIDES[0], side * 0.99 ** max(0, attempt - 50))
            sample = int(rng.integers(len(glyphs)))
            mask = _render(rng, glyphs[sample], longer_side)
            left, top = _position(rng, width, height, mask, placed)
            digit = _Digit(int(labels[sample]), mask, left, top)
            if DIGIT_SIDES[0] <= max(mask.shape) <= DIGIT_SIDES[1] and _fits(digit, placed, width, height):
                placed.append(digit)
                break
        else:
            raise RuntimeError(f"no place for digit {len(placed) + 1} of {count} on {width}x{height}")
    return placed


def _position(
    rng: np.random.Generator, width: int, height: int, mask: Mask, placed: list[_Digit]
) -> tuple[int, int]:
    """A random position; every third time next to another digit, where they touch and overlap."""
    free_x, free_y = width - mask.shape[1], height - mask.shape[0]
    if placed and rng.random() < 1 / 3:
        other = placed[int(rng.integers(len(placed)))]
        reach = max(mask.shape)
        left = other.left + int(rng.integers(-reach, other.mask.shape[1] + 1))
        top = other.top + int(rng.integers(-reach // 2, reach // 2 + 1))
        return min(max(left, 0), free_x), min(max(top, 0), free_y)
    return int(rng.integers(0, free_x + 1)), int(rng.integers(0, free_y + 1))


def _fits(digit: _Digit, placed: list[_Digit], width: int, height: int) -> bool:
    left, top, right, bottom = digit.box
    area = (right - left) * (bottom - top)
    cover = np.zeros((height, width), dtype=np.bool_)
    cover[top:bottom, left:right] = digit.mask > INK
    above = cover
    for other in reversed(placed):
        x1, y1, x2, y2 = other.box
        overlap = max(0, min(right, x2) - max(left, x1)) * max(0, min(bottom, y2) - max(top, y1))
        if overlap / (area + (x2 - x1) * (y2 - y1) - overlap) > MAX_IOU:
            return False
        ink = other.mask > INK
        if above[y1:y2, x1:x2][ink].mean() > MAX_HIDDEN:
            return False
        above[y1:y2, x1:x2] |= ink
    return True


def _render(rng: np.random.Generator, glyph: NDArray[np.float32], side: float) -> Mask:
    """Return the glyph slanted, turned and stretched, cut to its ink, longer side about ``side`` pixels."""
    angle, slant = np.deg2rad(rng.uniform(-12, 12)), rng.uniform(-0.2, 0.2)
    stretch = np.exp(rng.uniform(-0.15, 0.15))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shape = turn @ np.array([[stretch, slant], [0.0, 1.0 / stretch]])
    # First at a known scale to measure the ink, then at the scale that gives the requested side.
    reference = 4.0
    first = _cut(_warp(glyph, shape * reference))
    return _cut(_warp(glyph, shape * (reference * side / max(first.shape))))


def _warp(glyph: NDArray[np.float32], forward: NDArray[np.float64]) -> Mask:
    corners = np.abs(forward) @ np.array([6.0, 6.0])
    width, height = (int(np.ceil(2 * extent)) + 2 for extent in corners)
    inverse = np.linalg.inv(forward)
    centre = np.array([6.0, 6.0]) - inverse @ np.array([width / 2, height / 2])
    matrix = (inverse[0, 0], inverse[0, 1], centre[0], inverse[1, 0], inverse[1, 1], centre[1])
    image = Image.fromarray(glyph)
    grey = np.asarray(
        image.transform((width, height), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
    )
    # Grey values of 8x8 blocks become a stroke with an edge, as a pen leaves it.
    soft = np.clip((grey - 0.2) / 0.4, 0.0, 1.0)
    edge: Mask = (soft * soft * (3 - 2 * soft)).astype(np.float32)
    return edge


def _cut(mask: Mask) -> Mask:
    ink = mask >= INK
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _paint(region: Pixels, mask: Mask, rng: np.random.Generator) -> None:
    """Paint ink of a random colour over ``region`` in place, light enough to be visible."""
    below = region.mean((0, 1))
    for _ in range(50):
        colour = rng.uniform(*INKS, size=3)
        if _luminance(colour - below) >= MIN_CONTRAST:
            break
    else:
        colour = np.full(3, 255.0)
    alpha = (mask * rng.uniform(0.8, 1.0))[..., None]
    region += alpha * (colour - region)


def _luminance(colour: NDArray[np.float64] | Pixels) -> float:
    return float(colour @ np.array([0.299, 0.587, 0.114]))


def _background(rng: np.random.Generator, width: int, height: int, glyphs: NDArray[np.float32]) -> Pixels:
    """A shaded, stained sheet with lines, blobs and pieces of handwriting that are not digits."""
    base = rng.uniform(*SHEET, size=3)
    coarse = base + rng.normal(0, 15, size=(4, 4, 3))
    sheet = np.clip(coarse, 0, 255).astype(np.uint8)
    image = Image.fromarray(sheet).resize((width, height), Image.Resampling.BICUBIC)
    _draw_blobs(rng, image)
    _draw_lines(rng, image)
    canvas = np.asarray(image).astype(np.float32)
    for _ in range(int(rng.integers(2, 8))):
        _paste_fragment(rng, canvas, glyphs)
    return canvas


def _draw_blobs(rng: np.random.Generator, image: Image.Image) -> None:
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(2, 6))):
        x, y = rng.uniform(0, image.width), rng.uniform(0, image.height)
        half_width, half_height = rng.uniform(3, 28, size=2)
        corners = (x - half_width, y - half_height, x + half_width, y + half_height)
        draw.ellipse(corners, fill=_colour(rng, STAIN))


def _draw_lines(rng: np.random.Generator, image: Image.Image) -> None:
    """Draw bent strokes, as wide and as strongly coloured as those of the digits."""
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(1, 6))):
        start = rng.uniform(0, (image.width, image.height))
        bends = np.cumsum(rng.normal(0, 22, size=(int(rng.integers(1, 4)), 2)), axis=0)
        points = [tuple(point) for point in np.vstack([start, start + bends])]
        draw.line(points, fill=_colour(rng, INKS), width=int(rng.integers(1, 5)), joint="curve")


def _paste_fragment(rng: np.random.Generator, canvas: Pixels, glyphs: NDArray[np.float32]) -> None:
    """Paste a piece of a digit, too small to be recognised, at a random angle."""
    glyph = glyphs[int(rng.integers(len(glyphs)))]
    row, column = rng.integers(2, 7, size=2)
    piece = np.zeros_like(glyph)
    piece[4:8, 4:8] = glyph[row : row + 4, column : column + 4]
    angle, scale = rng.uniform(0, 2 * np.pi), rng.uniform(2.0, 6.5)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    mask = _warp(piece, turn * scale)
    if not (mask >= INK).any():
        return
    mask = _cut(mask)
    left = int(rng.integers(0, canvas.shape[1] - mask.shape[1] + 1))
    top = int(rng.integers(0, canvas.shape[0] - mask.shape[0] + 1))
    _paint(canvas[top : top + mask.shape[0], left : left + mask.shape[1]], mask, rng)


def _colour(rng: np.random.Generator, values: tuple[int, int]) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in rng.integers(*values, size=3, endpoint=True))
    return red, green, blue
