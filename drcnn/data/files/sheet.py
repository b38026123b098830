"""One picture of sample images with their objects."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate

import numpy as np
from PIL import Image, ImageDraw

from drcnn.data.annotations import Annotations
from drcnn.data.files.drawing import color_of, draw_box, drawn_names, font, scaled, write_name

__all__ = ["sheet"]

SIDE = 360  # pixels, the longer side of an image
GAP, CAPTION = 8, 24
COLUMNS = 4
IGNORED = "#999999"


def sheet(tables: Mapping[str, Annotations], count: int, seed: int = 0) -> Image.Image:
    """Draw images of all splits with their objects and the names of these (``drawn_names``).

    Every class that a split has is shown in it where ``count`` allows, and then images of any kind, without
    objects too. Objects that are ignored (difficult or crowds) are grey.

    Args:
        tables: by split.
        count: of images, divided evenly between the splits.
        seed: chooses the images.
    """
    random = np.random.default_rng(seed)
    tiles = []
    for number, (split, table) in enumerate(tables.items()):
        share = count // len(tables) + (number < count % len(tables))
        tiles += [_tile(table, row, split) for row in _choose(table, share, random)]
    rows = [tiles[start : start + COLUMNS] for start in range(0, len(tiles), COLUMNS)]
    heights = [max(tile.height for tile in row) + GAP for row in rows]
    whole = Image.new("RGB", (len(rows[0]) * (SIDE + GAP) + GAP, sum(heights) + GAP), "#ffffff")
    for row, top in zip(rows, accumulate(heights, initial=GAP), strict=False):
        for column, tile in enumerate(row):
            whole.paste(tile, (GAP + column * (SIDE + GAP), top))
    return whole


def _choose(table: Annotations, count: int, random: np.random.Generator) -> list[int]:
    """Rows of at most ``count`` images: one of each class, the rarest first, then others."""
    image_of = np.repeat(np.arange(len(table)), np.diff(table.offsets))
    numbers = np.bincount(table.all_labels, minlength=len(table.classes))
    chosen: list[int] = []
    for label in np.argsort(numbers, kind="stable"):
        rows = np.unique(image_of[table.all_labels == label])
        if len(rows) and not set(rows.tolist()) & set(chosen):
            chosen.append(int(random.choice(rows)))
    rest = [row for row in random.permutation(len(table)).tolist() if row not in set(chosen)]
    return [*chosen, *rest][:count]


def _tile(table: Annotations, row: int, split: str) -> Image.Image:
    image, scale = scaled(table.source(row), SIDE)
    pen = ImageDraw.Draw(image)
    names = drawn_names(table.classes)
    objects = [
        (box, names[label], IGNORED if is_ignored else color_of(label))
        for box, label, is_ignored in zip(
            table.boxes(row) * scale, table.labels(row).tolist(), table.ignore(row), strict=True
        )
    ]
    for box, _, color in objects:
        draw_box(pen, box, image.size, "#000000", width=4)
        draw_box(pen, box, image.size, color, width=2, inset=1)
    for box, name, color in objects:
        write_name(pen, name, box, image.size, color, letters=12)
    tile = Image.new("RGB", (SIDE, image.height + CAPTION), "#ffffff")
    number = len(table.boxes(row))
    objects_text = "no objects" if not number else "1 object" if number == 1 else f"{number} objects"
    ImageDraw.Draw(tile).text(
        (0, 2), f"{split}: {table.ids[row]}, {objects_text}", fill="#000000", font=font(14)
    )
    tile.paste(image, (0, CAPTION))
    return tile
