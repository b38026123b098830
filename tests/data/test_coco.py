from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from drcnn.data.annotations import Annotations, DataError
from drcnn.data.coco import read_coco
from drcnn.data.faults import DataFaults
from drcnn.data.loader import trainable_rows

MakeCoco = Callable[..., Path]


def read(folder: Path, split: str = "train", skip: bool = False) -> Annotations:
    return read_coco(folder, split, DataFaults(skip=skip))


def test_a_folder_is_read(make_coco: MakeCoco) -> None:
    made = read(make_coco())
    assert made.classes == ("bicycle", "toothbrush")
    assert made.category_ids == (2, 90)
    assert made.ids == ("7", "3")
    assert made.boxes(0).tolist() == [[10, 5, 30, 35], [0, 0, 60, 40]]
    assert made.labels(0).tolist() == [1, 0]
    assert made.ignore(0).tolist() == [False, True]
    assert made.areas(0).tolist() == [111.5, 9]
    assert made.boxes(1).tolist() == [[1.5, 2.5, 4.5, 6.5]]
    assert str(made.source(0)).endswith("/coco/train2017/a.jpg")
    assert made.trainable_counts.tolist() == [1, 1]


def test_an_image_of_nothing_but_crowds_is_trained_on(make_coco: MakeCoco) -> None:
    """MMDetection's filter looks for annotations, crowds among them."""

    def change(content: dict[str, Any]) -> None:
        for annotation in content["annotations"]:
            annotation["iscrowd"] = 1

    made = read(make_coco(change))
    assert made.trainable_counts.tolist() == [0, 0]
    assert trainable_rows(made).tolist() == [0, 1]


def test_images_without_boxes_and_boxes_without_area(make_coco: MakeCoco) -> None:
    def change(content: dict[str, Any]) -> None:
        content["annotations"] = content["annotations"][:1]
        content["annotations"][0]["bbox"] = [3, 3, 0, 9]
        del content["annotations"][0]["iscrowd"], content["annotations"][0]["area"]

    made = read(make_coco(change))
    assert (len(made), len(made.all_boxes)) == (2, 0)
    assert made.skipped[0].endswith("annotations[0]: box of zero area left out")


def test_the_file_of_a_split_is_found(make_coco: MakeCoco) -> None:
    folder = make_coco()
    annotations = folder / "annotations"
    content = (annotations / "instances_train2017.json").read_bytes()

    def add(name: str) -> None:
        (annotations / f"instances_{name}.json").write_bytes(content)
        (folder / name).mkdir(exist_ok=True)
        for file in ("a.jpg", "b.png"):
            (folder / name / file).write_bytes((folder / "train2017" / file).read_bytes())

    def folder_of(split: str) -> str:
        return Path(str(read(folder, split).source(0))).parent.name

    add("train2014")
    assert folder_of("train") == "train2017"
    assert folder_of("train2014") == "train2014"
    add("train")
    assert folder_of("train") == "train"
    for name in ("minival_a", "minival_b"):
        (annotations / f"instances_{name}.json").write_bytes(content)
    with pytest.raises(
        DataError, match=r"fits several files \(instances_minival_a\.json, instances_minival_b\.json\)"
    ):
        read(folder, "minival")
    with pytest.raises(
        DataError, match=r"no annotations of split 'test'.* \(found .*instances_val2017\.json"
    ):
        read(folder, "test")
    with pytest.raises(
        DataError, match=r"no image folder for instances_minival_a\.json; expected minival_a/"
    ):
        read(folder, "minival_a")


def test_images_may_lie_in_a_common_folder(make_coco: MakeCoco) -> None:
    folder = make_coco()
    (folder / "images").mkdir()
    (folder / "train2017").rename(folder / "images" / "train2017")
    assert str(read(folder).source(0)).endswith("/images/train2017/a.jpg")


BAD: dict[str, tuple[tuple[str, str, Any], str]] = {
    "inverted": (
        ("annotations", "bbox", [9, 9, -3, 4]),
        r"annotations\[0\]: box \[9, 9, 6, 13\] is inverted",
    ),
    "outside": (
        ("annotations", "bbox", [9, 9, 99, 4]),
        r"annotations\[0\]: box .* is outside the image of 60x40",
    ),
    "three numbers": (
        ("annotations", "bbox", [9, 9, 9]),
        r"bbox is \[9, 9, 9\], expected \[x, y, width, height\]",
    ),
    "category": (("annotations", "category_id", 5), "category_id 5 is not among the categories"),
    "no box": (("annotations", "bbox", None), r"annotations\[0\]: 'bbox' is None, expected a list"),
    "lost image": (("images", "file_name", "c.jpg"), r"c\.jpg: no such image file"),
    "other folder": (("images", "file_name", "../val2017/a.jpg"), "leads out of"),
}


@pytest.mark.parametrize("fault", BAD)
def test_bad_entries_stop_or_are_skipped(make_coco: MakeCoco, fault: str) -> None:
    (part, key, value), message = BAD[fault]

    def change(content: dict[str, Any]) -> None:
        content[part][0][key] = value

    folder = make_coco(change)
    with pytest.raises(DataError, match=rf"^[^\n]*{message}[^\n]*$"):
        read(folder)
    kept = read(folder, skip=True)
    assert kept.ids == ("3",)
    assert len(kept.skipped) == 1


def test_a_box_of_no_image_stops_or_is_recorded(make_coco: MakeCoco) -> None:
    def change(content: dict[str, Any]) -> None:
        content["annotations"][2]["image_id"] = 99

    folder = make_coco(change)
    with pytest.raises(DataError, match=r"annotations\[2\]: image_id 99 is not among the images"):
        read(folder)
    assert len(read(folder, skip=True)) == 2


def test_ids_are_unique(make_coco: MakeCoco) -> None:
    def change(content: dict[str, Any]) -> None:
        content["images"][1]["id"] = 7

    with pytest.raises(DataError, match=r"instances_train2017\.json: two images have the same id"):
        read(make_coco(change))


def test_damaged_files_are_named(make_coco: MakeCoco) -> None:
    folder = make_coco()
    path = folder / "annotations" / "instances_train2017.json"
    path.write_text('{"images": [')
    with pytest.raises(DataError, match=r"^\S*instances_train2017\.json: not readable as JSON"):
        read(folder)
    path.write_text("[]")
    with pytest.raises(DataError, match="expected an object with images, annotations and categories"):
        read(folder)
    path.write_text('{"images": []}')
    with pytest.raises(DataError, match="has no 'categories'; expected a COCO instances file"):
        read(folder)
    path.write_text('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}')
    with pytest.raises(DataError, match="has no usable image"):
        read(folder)
