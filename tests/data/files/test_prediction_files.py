from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from drcnn.data.annotations import DataError
from drcnn.data.faults import DataFaults
from drcnn.data.files.prediction_files import LabelledPicture, write_coco, write_labels
from drcnn.data.formats.voc import read_voc

CLASSES = ("cup", "tea & cake")


def picture(name: str, count: int = 2) -> LabelledPicture:
    boxes = np.float32([[0, 10, 50, 40], [20, 0, 100, 80]])[:count]
    return LabelledPicture(name, 100, 80, boxes, np.float32([0.9, 0.6])[:count], CLASSES[::-1][:count])


def test_coco_reads_the_predictions_as_a_data_set_and_as_results(tmp_path: Path) -> None:
    write_coco(tmp_path / "predictions.json", [picture("a.jpg"), picture("sub/bä.jpg", 0)], CLASSES)
    coco = COCO(str(tmp_path / "predictions.json"))
    assert {image["file_name"] for image in coco.loadImgs(coco.getImgIds())} == {"a.jpg", "sub/bä.jpg"}
    first, second = coco.loadAnns(coco.getAnnIds(imgIds=1))
    assert coco.loadCats(first["category_id"])[0]["name"] == "tea & cake"
    assert first["bbox"] == [0, 10, 50, 30]
    assert second["bbox"] == [20, 0, 80, 80]
    assert (first["score"], second["area"]) == (0.9, 6400)
    content = json.loads((tmp_path / "predictions.json").read_text(encoding="utf-8"))
    results = coco.loadRes(content["annotations"])
    assert len(results.getAnnIds()) == 2


def test_yolo_labels_are_fractions_of_the_picture(tmp_path: Path) -> None:
    folder = write_labels("yolo", tmp_path, [picture("sub/a.jpg"), picture("b.png", 0)], CLASSES)
    assert (folder / "classes.txt").read_text() == "cup\ntea & cake\n"
    assert (folder / "sub/a.txt").read_text() == (
        "1 0.250000 0.312500 0.500000 0.375000\n0 0.600000 0.500000 0.800000 1.000000\n"
    )
    assert (folder / "b.txt").read_text() == ""


def test_voc_labels_are_read_back_by_our_reader(tmp_path: Path) -> None:
    write_labels("voc", tmp_path, [picture("a.png")], CLASSES)
    for part in ("JPEGImages", "ImageSets/Main"):
        (tmp_path / part).mkdir(parents=True)
    Image.new("RGB", (100, 80)).save(tmp_path / "JPEGImages/a.png")
    (tmp_path / "ImageSets/Main/train.txt").write_text("a\n")
    table = read_voc([tmp_path], "train", DataFaults(skip=False))
    assert [table.classes[label] for label in table.labels(0)] == ["tea & cake", "cup"]
    # The last pixel of the image is VOC's largest corner.
    np.testing.assert_array_equal(table.boxes(0), [[0, 10, 50, 40], [20, 0, 99, 79]])


def test_two_pictures_that_would_share_a_label_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.jpg and a\.png would both have the labels a\.txt"):
        write_labels("yolo", tmp_path, [picture("a.jpg"), picture("a.png")], CLASSES)
