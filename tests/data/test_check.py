from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from drcnn.config import DataConfig
from drcnn.data.annotations import Annotations, DataError, Record
from drcnn.data.check import Checked, check
from drcnn.data.checks import few_to_judge, unusable, warnings_across_splits, warnings_of_split
from drcnn.data.prepare import prepare
from drcnn.data.summary import counts_by_class
from drcnn.data.warnings import DataWarning, count_warnings, in_one_line

Configure = Callable[..., DataConfig]
Make = Callable[..., Path]


def kinds(checked: Checked) -> dict[str, int]:
    return dict(count_warnings(checked.warnings))


def table(objects: Mapping[str, list[tuple[str, list[float]]]], **changes: Any) -> Annotations:
    """A split: by image, its objects' classes and boxes."""
    classes = changes.pop("classes", ["cat", "dog"])
    records = [
        Record(
            name,
            **{"width": 64, "height": 48, "image": name.encode(), **changes},
            boxes=[box for _, box in boxes],
            labels=[classes.index(label) for label, _ in boxes],
        )
        for name, boxes in objects.items()
    ]
    return Annotations.from_records(records, classes)


CAT = ("cat", [1.0, 2.0, 11.0, 22.0])
DOG = ("dog", [5.0, 5.0, 20.0, 30.0])


def test_check_tells_every_fault(make_voc: Make, config: Configure) -> None:
    bad = [("dog", (31, 5, 11, 9)), ("dog", (1, 5, 99, 9)), ("dog", (5, 5, 5, 30))]
    good = [("dog", (1, 1, 9, 9))]
    folder = make_voc({"a": bad, "b": good, "c": good}, lists=["train"])
    (folder / "JPEGImages" / "b.jpg").unlink()
    faults = check(config(source=f"voc:{folder}", val_split="chosen")).faults
    assert [message.removeprefix(f"{folder}/") for message in faults[:3]] == [
        "Annotations/a.xml: object 1: box [30, 4, 10, 8] is inverted "
        "(expected xmin <= xmax and ymin <= ymax); correct it or use --on-bad-data skip",
        "Annotations/a.xml: object 2: box [0, 4, 98, 8] is outside the image of 60x40; "
        "correct it or use --on-bad-data skip",
        "JPEGImages/b.jpg: no such image file; restore it or use --on-bad-data skip",
    ]
    assert "chosen.txt: no such list" in faults[3]
    assert len(faults) == 4
    assert check(config(source=f"voc:{make_voc(name='sound')}")).faults == ()


def test_check_tells_of_pixels_without_a_range(make_voc: Make, config: Configure) -> None:
    folder = make_voc()
    Image.new("F", (60, 40)).save(folder / "JPEGImages" / "000001.jpg", "TIFF")
    faults = check(config(source=f"voc:{folder}")).faults
    # Both splits list the image: it is told once.
    assert len(faults) == 1
    assert "000001.jpg: cannot be decoded (pixels of 32 bits" in faults[0]


def test_check_finds_what_training_refuses(make_coco: Make, config: Configure, tmp_path: Path) -> None:
    """Never "no faults" where ``prepare`` raises."""

    def crowds(content: dict[str, Any]) -> None:
        for entry in content["annotations"]:
            entry["iscrowd"] = 1

    def nothing(content: dict[str, Any]) -> None:
        content["annotations"] = []

    for name, change, message in (
        ("crowds", crowds, "can be trained on"),
        ("nothing", nothing, "can be trained on"),
    ):
        source = f"coco:{make_coco(change, name=name)}"
        faults = check(config(source=source)).faults
        assert message in faults[0]
        assert "split 'val': none of its images (2) has an object" in faults[1]
        with pytest.raises(DataError, match=message):
            prepare(config(source=source), tmp_path / "cache")


def test_a_split_without_objects_is_refused_before_training(
    make_voc: Make, config: Configure, tmp_path: Path, xml: Callable[..., str]
) -> None:
    objects = [("dog", (11, 21, 31, 41))]
    folder = make_voc({"a": objects, "b": [], "c": objects}, xml={"c": xml(objects, difficult=[0])})
    lists = folder / "ImageSets" / "Main"
    (lists / "train.txt").write_text("a\n")
    for listed, said in (("b\n", "has an object, so"), ("b\nc\n", "that is not ignored")):
        (lists / "val.txt").write_text(listed)
        data = config(source=f"voc:{folder}")
        with pytest.raises(DataError, match=rf"split 'val': none of its images \(\d\) .*{said}"):
            prepare(data, tmp_path / "cache")
        assert said in " ".join(check(data).faults)


def test_images_too_small_to_train_on_are_counted(tmp_path: Path) -> None:
    flat = table({"a": [CAT]}, height=31)
    assert [warning.kind for warning in warnings_of_split("train", flat)] == [
        "images with a side below 32 px, not trained on"
    ]
    assert warnings_of_split("val", flat) == []
    assert "sides of at least 32 px" in unusable({"train": flat}, {"train": "train"})[0]


def test_images_without_objects_are_negatives(make_voc: Make, config: Configure, tmp_path: Path) -> None:
    folder = make_voc({"a": [("dog", (11, 21, 31, 41))], "b": []})
    checked = check(config(source=f"voc:{folder}"))
    assert checked.faults == ()
    assert kinds(checked)["images without objects, not trained on"] == 1
    assert kinds(checked)["images without objects"] == 1
    assert len(Annotations.load(prepare(config(source=f"voc:{folder}"), tmp_path / "cache").val or "")) == 2


def test_boxes_given_twice_are_named() -> None:
    twice = table({"a": [CAT, DOG, CAT], "b": [CAT, ("dog", CAT[1])]})
    found = warnings_of_split("train", twice)
    assert found == [
        DataWarning(
            "boxes given twice", "a: box [1, 2, 11, 22] of 'cat' is given twice; one is always missed"
        ),
        DataWarning("boxes of two classes", "b: box [1, 2, 11, 22] is given as 'cat' and as 'dog'"),
    ]
    # The same box in two images is none.
    assert warnings_of_split("train", table({"a": [CAT], "b": [CAT]})) == []


def test_equal_images_are_found_by_content(make_voc: Make, config: Configure) -> None:
    objects = [("dog", (11, 21, 31, 41))]
    folder = make_voc(dict.fromkeys(("one", "two2", "three"), objects))
    lists = folder / "ImageSets" / "Main"
    shutil.copy(folder / "JPEGImages" / "one.jpg", folder / "JPEGImages" / "two2.jpg")
    (lists / "train.txt").write_text("one\n")
    (lists / "val.txt").write_text("two2\nthree\n")
    found = check(config(source=f"voc:{folder}"))
    assert kinds(found)["images of train in val too"] == 1
    message = next(w.message for w in found.warnings if "in val too" in w.kind)
    assert "two2.jpg (val): has the same content as" in message
    assert "one.jpg (train)" in message
    (lists / "train.txt").write_text("one\ntwo2\n")
    assert kinds(check(config(source=f"voc:{folder}")))["images given twice"] == 1


def test_suspicious_classes_are_named() -> None:
    classes = ["cat", "Cat", "dog", "eel", "fox"]
    tables = {
        "train": table({"a": [CAT] * 10, "b": [("Cat", [1.0, 2.0, 3.0, 4.0]), DOG]}, classes=classes),
        "val": table({"c": [CAT, ("fox", DOG[1])]}, classes=classes),
    }
    assert {(w.kind, w.message) for w in warnings_across_splits(tables)} == {
        ("classes that differ in case only", "classes 'cat' and 'Cat' differ in case or blanks only"),
        ("classes missing in a split", "class 'Cat' has objects in train, but none in val"),
        ("classes missing in a split", "class 'dog' has objects in train, but none in val"),
        ("classes missing in a split", "class 'fox' has objects in val, but none in train"),
        ("classes without objects", "class 'eel' has no object in any split"),
        ("classes with few objects", "class 'Cat' has few objects to train on: 1"),
        ("classes with few objects", "class 'dog' has few objects to train on: 1"),
    }


def test_more_objects_than_the_metric_counts_are_said() -> None:
    crowded = table({"a": [("cat", [i * 0.5, 0.0, i * 0.5 + 1, 1.0]) for i in range(101)], "b": [CAT] * 2})
    found = [w for w in warnings_of_split("test", crowded) if "over 100" in w.kind]
    assert len(found) == 1
    assert "a: has 101 objects of a class; COCO's metric counts 100" in found[0].message


def test_boxes_in_percent_are_suspected() -> None:
    boxes = [("cat", [i, i, i + 40.0, i + 50.0]) for i in range(30)]
    found = warnings_of_split("train", table({"a": boxes}, width=640, height=480))
    assert [warning.kind for warning in found] == ["splits whose boxes look like percentages"]
    assert warnings_of_split("train", table({"a": boxes}, width=120, height=120)) == []


def test_a_run_knows_the_warnings_of_a_cached_table(
    make_voc: Make, config: Configure, tmp_path: Path
) -> None:
    data = config(source=f"voc:{make_voc()}")
    first = prepare(data, tmp_path / "cache")
    assert dict(first.warnings)["images of train in val too"] == 2
    assert prepare(data, tmp_path / "cache").warnings == first.warnings
    assert first.warnings == count_warnings(check(data).warnings)


def test_a_split_too_small_to_judge_by_is_said(make_voc: Make, config: Configure, tmp_path: Path) -> None:
    source = f"voc:{make_voc()}"
    checked = check(config(source=source))
    (warning,) = (each for each in checked.warnings if "too few" in each.kind)
    assert warning.message.startswith("val: has 2 images; with fewer than 30")
    data = config(source=source)
    prepared = prepare(data, tmp_path / "cache")
    assert "too few to tell settings apart: 1" in prepared.said_at_start(data.source)[-1]
    # What was asked to be small is.
    assert "too few" not in str(check(config(source=source, val_images=2)).warnings)


def test_thirty_images_are_enough_to_judge_by() -> None:
    images = {str(number): [CAT] for number in range(30)}
    assert few_to_judge("val", table(images)) == []
    images.popitem()
    assert few_to_judge("train", table(images)) == []
    assert len(few_to_judge("test", table(images))) == 1


def test_warnings_fit_in_one_line() -> None:
    line = in_one_line((("boxes given twice", 2), ("images given twice", 1)), "coco:my data")
    assert line.startswith("3 warnings about the data (boxes given twice: 2, images given twice: 1); ")
    assert "`drcnn data check 'coco:my data'`" in line


def test_counts_by_class() -> None:
    tables = {"train": table({"a": [CAT, CAT, DOG], "b": [CAT], "c": []}), "val": table({"d": [DOG]})}
    rows = {(row.name, row.split): row for row in counts_by_class(tables)}
    whole, cats = rows[None, "train"], rows["cat", "train"]
    assert (whole.images, whole.objects, whole.ignored) == (3, 4, 0)
    assert (cats.images, cats.objects) == (2, 3)
    assert (cats.widths, cats.heights) == ((10, 10, 10), (20, 20, 20))
    assert rows["cat", "val"].widths is None
    assert whole.widths == tuple(np.quantile([10, 10, 15, 10], (0.25, 0.5, 0.75)).round(1))
    assert counts_by_class({}) == []
    assert json.dumps([row.widths for row in rows.values()])
