"""Damaged annotation files: a DataError that names the file, or boxes that lie in their images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from PIL import Image

from drcnn.config import Config, DataConfig
from drcnn.data.annotations import Annotations, DataError
from drcnn.data.check import check
from drcnn.data.faults import DataFaults
from drcnn.data.formats.sources import open_source, split_names
from drcnn.plain_text import UNPRINTABLE
from tests.fuzz.mutations import cases, fails_only_with, file_of, tree_of

BOX = {"bbox": [10, 5, 20, 30], "area": 111.5, "iscrowd": 0, "category_id": 90}
CLASSES = [{"id": 90, "name": "cup"}, {"id": 2, "name": "bowl", "supercategory": "root"}]
COCO: dict[str, Any] = {
    "images": [
        {"id": 7, "file_name": "a.jpg", "width": 60, "height": 40},
        {"id": 3, "file_name": "b.jpg", "width": 60, "height": 40},
    ],
    "annotations": [
        {"id": 1, "image_id": 7, **BOX},
        {"id": 2, "image_id": 3, **BOX, "category_id": 2, "ignore": 1, "segmentation": [[1, 2, 3, 4, 5, 6]]},
    ],
    "categories": [*CLASSES, {"id": 0, "name": "root"}],
}
VOC = """<?xml version="1.0" encoding="utf-8"?>
<annotation><filename>a.jpg</filename><size><width>60</width><height>40</height><depth>3</depth></size>
<object><name>cup</name><difficult>0</difficult>
<bndbox><xmin>11</xmin><ymin>6</ymin><xmax>31</xmax><ymax>36</ymax></bndbox></object>
<object><name>bowl</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>60</xmax><ymax>40</ymax></bndbox></object>
</annotation>
"""
YOLO = "0 0.5 0.5 0.25 0.5\n1 0.1 0.2 0.5 0.2 0.3 0.8\n"
DATA_YAML = "path: .\ntrain: images/train\nval: images/val\nnames: {0: cup, 1: bowl}\nnc: 2\n"


def write_images(*paths: Path) -> None:
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)


def require_usable(table: Annotations) -> None:
    """What is read without a word of a fault can be trained on."""
    rows = np.repeat(np.arange(len(table)), np.diff(table.offsets))
    boxes, width, height = table.all_boxes, table.widths[rows], table.heights[rows]
    assert np.isfinite(boxes).all()
    assert ((boxes[:, :2] >= 0) & (boxes[:, 2:] > boxes[:, :2])).all()
    assert ((boxes[:, 2] <= width) & (boxes[:, 3] <= height)).all()
    assert ((table.all_labels >= 0) & (table.all_labels < len(table.classes))).all()
    assert (np.isfinite(table.all_areas) & (table.all_areas > 0)).all()
    assert not any(UNPRINTABLE.search(name) for name in table.classes)


def read(source: str) -> None:
    """Read data as training does, which stops at a fault, and as ``drcnn data check``, which does not."""
    data: DataConfig = Config().with_changes({"data.source": source}).data
    with fails_only_with(DataError):
        opened = open_source(data)
        for name in split_names(data, opened).values():
            require_usable(opened.read(name, DataFaults(skip=False)))
    checked = check(data)
    for table in checked.tables.values():
        require_usable(table)
    assert all(len(line) < 5000 for line in checked.faults)


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coco")
    write_images(*(folder / split / name for split in ("train", "val") for name in ("a.jpg", "b.jpg")))
    (folder / "annotations").mkdir()
    (folder / "annotations" / "instances_val.json").write_text(json.dumps(COCO))
    return folder


@cases
@given(tree=tree_of(COCO))
def test_coco_with_other_values(coco: Path, tree: Any) -> None:
    (coco / "annotations" / "instances_train.json").write_text(json.dumps(tree))
    read(f"coco:{coco}")


@cases
@given(content=file_of(json.dumps(COCO)))
def test_coco_with_damaged_bytes(coco: Path, content: bytes) -> None:
    (coco / "annotations" / "instances_train.json").write_bytes(content)
    read(f"coco:{coco}")


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("voc")
    write_images(*(folder / "JPEGImages" / f"{name}.jpg" for name in "ab"))
    for part in ("Annotations", "ImageSets/Main"):
        (folder / part).mkdir(parents=True)
    (folder / "Annotations" / "b.xml").write_text(VOC)
    for split in ("train", "val"):
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("a\nb\n" if split == "train" else "b\n")
    return folder


@cases
@given(content=file_of(VOC))
def test_voc_annotations(voc: Path, content: bytes) -> None:
    (voc / "Annotations" / "a.xml").write_bytes(content)
    read(f"voc:{voc}")


@cases
@given(content=file_of("a 1\nb -1\n"))
def test_voc_lists(voc: Path, content: bytes) -> None:
    (voc / "Annotations" / "a.xml").write_text(VOC)
    path = voc / "ImageSets" / "Main" / "train.txt"
    whole = path.read_bytes()
    path.write_bytes(content)
    try:
        read(f"voc:{voc}")
    finally:
        path.write_bytes(whole)


@pytest.fixture(scope="module")
def yolo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("yolo")
    for split in ("train", "val"):
        write_images(*(folder / "images" / split / f"{name}.jpg" for name in "ab"))
        (folder / "labels" / split).mkdir(parents=True)
        (folder / "labels" / split / "b.txt").write_text(YOLO)
    return folder


@cases
@given(content=file_of(YOLO))
def test_yolo_labels(yolo: Path, content: bytes) -> None:
    (yolo / "data.yaml").write_text(DATA_YAML)
    (yolo / "labels" / "train" / "a.txt").write_bytes(content)
    read(f"yolo:{yolo}")


@cases
@given(content=file_of(DATA_YAML))
def test_yolo_settings(yolo: Path, content: bytes) -> None:
    (yolo / "data.yaml").write_bytes(content)
    read(f"yolo:{yolo}")
