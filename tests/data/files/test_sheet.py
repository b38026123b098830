from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageColor, ImageDraw

from drcnn.data.annotations import Annotations, Record
from drcnn.data.files.drawing import color_of, draw_box, png, scaled
from drcnn.data.files.sheet import IGNORED, sheet


def table(tmp_path: Path, images: int = 12) -> Annotations:
    """Black images of 100x50 with a box of class 0, but one of class 1 in the last; the first has none."""
    records = []
    for number in range(images):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", (100, 50)).save(path)
        boxes = [[20, 10, 80, 40]] if number else []
        labels = [int(number == images - 1)] * len(boxes)
        records.append(
            Record(f"image {number}", 100, 50, boxes, labels, [False] * len(boxes), path=str(path))
        )
    return Annotations.from_records(records, ["cat", "dog"])


def has(picture: Image.Image, color: str) -> bool:
    return bool((np.asarray(picture) == ImageColor.getrgb(color)).all(axis=-1).any())


@pytest.mark.parametrize("seed", range(3))
def test_every_class_is_shown(tmp_path: Path, seed: int) -> None:
    picture = sheet({"train": table(tmp_path)}, 2, seed)
    assert has(picture, color_of(0))
    assert has(picture, color_of(1))


def test_the_frame_lies_on_the_box(tmp_path: Path) -> None:
    annotations = table(tmp_path)
    image, scale = scaled(annotations.source(1), side=200)
    assert image.size == (200, 100)
    draw_box(ImageDraw.Draw(image), annotations.boxes(1)[0] * scale, image.size, "#ff0000", width=1)
    where = np.argwhere((np.asarray(image) == (255, 0, 0)).all(axis=-1))
    assert where.min(axis=0).tolist() == [20, 40]
    assert where.max(axis=0).tolist() == [80, 160]


def test_ignored_objects_are_grey(tmp_path: Path) -> None:
    Image.new("RGB", (100, 50)).save(tmp_path / "a.png")
    record = Record("a", 100, 50, [[20, 10, 80, 40]], [0], [True], path=str(tmp_path / "a.png"))
    picture = sheet({"val": Annotations.from_records([record], ["cat"])}, 4)
    assert has(picture, IGNORED)
    assert not has(picture, color_of(0))


def test_splits_share_the_picture(tmp_path: Path) -> None:
    tables = {split: table(tmp_path) for split in ("train", "val", "test")}
    wide, few = sheet(tables, 12), sheet(tables, 1)
    assert wide.width > 3 * few.width
    assert wide.height > 2 * few.height
    assert np.array_equal(np.asarray(sheet(tables, 12)), np.asarray(wide))


def test_a_picture_is_a_png_file() -> None:
    with Image.open(io.BytesIO(png(Image.new("RGB", (5, 6))))) as read:
        assert (read.format, read.size) == ("PNG", (5, 6))
