"""Splits that a folder does not have: taken from those it has, or a word about what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drcnn.config import DataConfig
from drcnn.data.annotations import Annotations, DataError
from drcnn.data.check import check
from drcnn.data.prepare import PreparedData, prepare, prepare_judged
from drcnn.recipes import configured

Configure = Callable[..., DataConfig]
NUMBERS = {"train": range(20), "valid": range(20, 25), "test": range(25, 32)}


def write_image(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def xml_folder(folder: Path, *splits: str) -> str:
    """As Roboflow exports VOC: ``train/a.png`` with ``train/a.xml``. Every split has an image ``a``."""
    box = "<bndbox><xmin>3</xmin><ymin>3</ymin><xmax>30</xmax><ymax>30</ymax></bndbox>"
    for split in splits:
        for place, number in enumerate(NUMBERS[split]):
            name = folder / split / ("a" if place == 0 else f"b{number}")
            write_image(name.with_suffix(".png"), number)
            name.with_suffix(".xml").write_text(
                f"<annotation><object><name>cat</name>{box}</object></annotation>"
            )
    return f"voc:{folder}"


def coco_content(numbers: range) -> str:
    return json.dumps(
        {
            "images": [{"id": number, "file_name": f"{number}.png"} for number in numbers],
            "annotations": [
                {"image_id": number, "category_id": 1, "bbox": [2, 2, 20, 20]} for number in numbers
            ],
            "categories": [{"id": 1, "name": "cat"}],
        }
    )


def roboflow_folder(folder: Path, *splits: str) -> str:
    for split in splits:
        for number in NUMBERS[split]:
            write_image(folder / split / f"{number}.png", number)
        (folder / split / "_annotations.coco.json").write_text(coco_content(NUMBERS[split]))
    return f"coco:{folder}"


def official_coco(folder: Path) -> str:
    (folder / "annotations").mkdir(parents=True)
    for split, name in {"train": "train2017", "valid": "val2017"}.items():
        for number in NUMBERS[split]:
            write_image(folder / name / f"{number}.png", number)
        (folder / "annotations" / f"instances_{name}.json").write_text(coco_content(NUMBERS[split]))
    return f"coco:{folder}"


def sizes(prepared: PreparedData) -> dict[str, int]:
    return {split: len(Annotations.load(path)) for split, path in prepared.tables.items()}


@pytest.mark.parametrize("chooses", [False, True], ids=["table", "search"])
def test_the_papers_profile_judges_by_a_test_split_where_there_is_one(chooses: bool, tmp_path: Path) -> None:
    source = roboflow_folder(tmp_path / "own", "train", "valid", "test")
    data = configured("paper", source, {}, chooses=chooses).data
    prepared = prepare(data, tmp_path / "cache")
    assert sizes(prepared) == {"train": 20, "val": 5, "test": 7}
    assert prepared.described.endswith("images: train 20, val 5, test 7")
    assert len(Annotations.load(prepare_judged(data, tmp_path / "other"))) == 7


def test_the_papers_profile_judges_coco_by_its_val_and_says_so(tmp_path: Path) -> None:
    source = official_coco(tmp_path / "coco")
    table = prepare(configured("paper", source, {}).data, tmp_path / "cache")
    assert sizes(table) == {"train": 20, "test": 5}
    assert table.described.endswith("images: train 20, test 5 (its val)")
    search = prepare(configured("paper", source, {}, chooses=True).data, tmp_path / "cache")
    assert sizes(search) == {"train": 20, "val": 5}
    assert search.judged == "val"
    # As `drcnn compare` reads what was judged by val.
    again = configured("paper", source, {"data.test_split": None}).data
    assert sizes(prepare(again, tmp_path / "cache")) == {"train": 20, "val": 5}


@pytest.mark.parametrize("make", [xml_folder, roboflow_folder])
def test_val_is_taken_from_train_where_only_val_is_missing(
    make: Callable[..., str], tmp_path: Path, config: Configure
) -> None:
    source = make(tmp_path / "own", "train", "test")
    prepared = prepare(config(source=source, split="0.5/0.25/0.25"), tmp_path / "cache")
    found = sizes(prepared)
    assert found["train"] + found["val"] == 20
    assert found["test"] == 7
    train, val = (set(map(bytes, Annotations.load(path).digests)) for path in (prepared.train, prepared.val))
    assert train
    assert val
    assert not train & val
    # The first 2/3 of all digests, as 0.5 is of 0.5 + 0.25.
    assert max(digest[0] for digest in train) <= 170 <= min(digest[0] for digest in val)
    assert "it has no val, so 33% of train are, by content (data.val_split=null: none)" in prepared.described
    assert check(config(source=source, split="0.5/0.25/0.25")).faults == ()
    # Another share is another table.
    other = sizes(prepare(config(source=source, split="0.7/0.15/0.15"), tmp_path / "cache"))
    assert other["val"] < found["val"]
    whole = prepare(config(source=source, val_split=None), tmp_path / "cache")
    assert sizes(whole) == {"train": 20, "test": 7}


def test_a_val_of_no_image_says_what_to_do(tmp_path: Path, config: Configure) -> None:
    source = roboflow_folder(tmp_path / "own", "train", "test")
    with pytest.raises(DataError, match=r"divides its 20 images by their content into .*val_split=null"):
        prepare(config(source=source, split="0.998/0.001/0.001"), tmp_path / "cache")


def test_trainval_is_train_and_val_where_it_is_missing(tmp_path: Path) -> None:
    source = xml_folder(tmp_path / "own", "train", "valid", "test")
    prepared = prepare(configured("paper", source, {}).data, tmp_path / "cache")
    assert sizes(prepared) == {"train": 25, "test": 7}
    assert "trainval is train and valid" in prepared.described
    # Both have an image of this name.
    assert {"train/a.png", "valid/a.png"} <= set(Annotations.load(prepared.train).ids)


def test_a_missing_test_split_says_how_to_do_without(tmp_path: Path) -> None:
    source = xml_folder(tmp_path / "own", "train", "valid")
    with pytest.raises(DataError) as caught:
        prepare(configured("paper", source, {}).data, tmp_path / "cache")
    message = str(caught.value)
    assert "no split 'test' (there are: train, valid); --set " in message
    changes = dict(word.split("=") for word in message.split() if word.startswith("data."))
    assert changes.pop("data.test_split") == "null"
    data = configured("paper", source, {**changes, "data.test_split": None}).data
    assert sizes(prepare(data, tmp_path / "cache")) == {"train": 20, "val": 5}


def test_coco_does_not_lead_to_choosing_by_the_test_split(tmp_path: Path, config: Configure) -> None:
    source = roboflow_folder(tmp_path / "own", "valid", "test")
    with pytest.raises(DataError, match=r"no annotations of split 'train'.*own \(null: none\)"):
        prepare(config(source=source), tmp_path / "cache")
