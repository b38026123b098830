from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from drcnn.data.annotations import Annotations, DataError
from drcnn.data.faults import DataFaults
from drcnn.data.formats.coco import read_coco
from drcnn.data.loader import trainable_rows
from drcnn.data.warnings import DataWarning

MakeCoco = Callable[..., Path]


def read(folder: Path, split: str = "train", skip: bool = False) -> Annotations:
    return read_coco(folder, split, DataFaults(skip=skip))


def warned(folder: Path) -> list[DataWarning]:
    faults = DataFaults(skip=False)
    read_coco(folder, "train", faults)
    return faults.warnings


def test_a_folder_is_read(make_coco: MakeCoco) -> None:
    made = read(make_coco())
    assert made.classes == ("bicycle", "toothbrush")
    assert made.category_ids == (2, 90)
    assert made.ids == ("7", "3")
    assert made.boxes(0).tolist() == [[10, 5, 30, 35], [0, 0, 60, 40]]
    assert made.labels(0).tolist() == [1, 0]
    assert made.ignore(0).tolist() == [False, True]
    assert made.areas(0).tolist() == [111.5, 900]
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

    folder = make_coco(change)
    made = read(folder)
    assert (len(made), len(made.all_boxes)) == (2, 0)
    assert made.skipped == ()
    assert [warning.message.rpartition("/")[2] for warning in warned(folder)] == [
        "instances_train2017.json: annotations[0]: box of zero area left out"
    ]


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
    with pytest.raises(DataError, match="has no 'annotations'; expected a COCO instances file"):
        read(folder)
    path.write_text('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}')
    with pytest.raises(DataError, match="has no usable image"):
        read(folder)


def test_areas_that_the_box_rules_out_are_replaced(make_coco: MakeCoco) -> None:
    """pycocotools would make such objects no object at all, or the only ones of a size."""
    for area in (-600, 0, float("nan"), float("inf"), 0.25, 1, 5000, None, "600"):

        def change(content: dict[str, Any], area: Any = area) -> None:
            content["annotations"][0]["area"] = area

        folder = make_coco(change, name=f"area {area}")
        made, warnings = read(folder), warned(folder)
        assert made.areas(0).tolist() == [600, 900]
        assert [warning.kind for warning in warnings] == [
            "areas missing or ruled out by the box, replaced by its own"
        ]
        assert f"annotations[0]: area is {area!r}, the box has 600" in warnings[0].message


def test_an_area_that_would_be_rounded_to_none_is_replaced(make_coco: MakeCoco) -> None:
    def change(content: dict[str, Any]) -> None:
        content["annotations"][0] |= {"area": 1e-320, "segmentation": [[10, 5, 30, 35, 30, 34.5]]}

    assert read(make_coco(change)).areas(0).tolist() == [600, 900]


def test_an_outline_may_have_a_small_area(make_coco: MakeCoco) -> None:
    def change(content: dict[str, Any]) -> None:
        content["annotations"][0] |= {"area": 4.5, "segmentation": [[10, 5, 30, 35, 30, 34.5]]}

    folder = make_coco(change)
    assert read(folder).areas(0).tolist() == [4.5, 900]
    assert warned(folder) == []


def test_ignore_is_obeyed_and_said(make_coco: MakeCoco) -> None:
    def change(content: dict[str, Any]) -> None:
        content["annotations"][0]["ignore"] = 1
        content["annotations"][2]["ignore"] = 0

    folder = make_coco(change)
    assert read(folder).all_ignore.tolist() == [True, True, False]
    assert [warning.kind for warning in warned(folder)] == ["boxes marked 'ignore', read like crowds"]


def test_entries_of_one_file_are_one_image(make_coco: MakeCoco) -> None:
    def change(content: dict[str, Any]) -> None:
        content["images"].append({**content["images"][0], "id": 8})
        content["annotations"][0]["image_id"] = 8

    folder = make_coco(change)
    made = read(folder)
    assert made.ids == ("7", "3")
    assert sorted(made.labels(0).tolist()) == [0, 1]
    assert "images[2]: file_name 'a.jpg' is that of image 7 too" in warned(folder)[0].message


@pytest.mark.parametrize("root", [0, 99])
def test_categories_of_one_name_are_one_class(make_coco: MakeCoco, root: int) -> None:
    """Roboflow's root category may have a class's name, and comes first or last."""

    def change(content: dict[str, Any]) -> None:
        content["categories"].append({"id": root, "name": " toothbrush"})

    folder = make_coco(change)
    made = read(folder)
    assert sorted(made.classes) == ["bicycle", "toothbrush"]
    assert dict(zip(made.classes, made.category_ids, strict=True)) == {"bicycle": 2, "toothbrush": 90}
    assert made.classes[made.labels(0)[0]] == "toothbrush"
    assert [warning.kind for warning in warned(folder)] == ["categories of one name, read as one class"]


def test_a_class_keeps_its_place_whichever_of_its_ids_a_split_uses(make_coco: MakeCoco) -> None:
    def change(content: dict[str, Any]) -> None:
        content["categories"].append({"id": 1, "name": "toothbrush"})

    folder = make_coco(change)
    path = folder / "annotations" / "instances_val2017.json"
    path.write_text(path.read_text().replace('"category_id": 90', '"category_id": 1'))
    assert read(folder).classes == read(folder, "val").classes
    assert read(folder).labels(0).tolist() == read(folder, "val").labels(0).tolist()


def test_a_stated_size_is_compared_with_the_files(make_coco: MakeCoco) -> None:
    def change(content: dict[str, Any]) -> None:
        content["images"][0] |= {"width": 120, "height": 80}
        content["images"][1] |= {"width": 61, "height": 0}

    folder = make_coco(change)
    with pytest.raises(DataError, match=r"images\[0\]: states a size of 120x80, but \S*a\.jpg has 60x40"):
        read(folder)
    assert read(folder, skip=True).ids == ("3",)


def test_a_turned_image_has_the_size_that_it_shows(make_coco: MakeCoco) -> None:
    folder = make_coco()
    exif = Image.Exif()
    exif[0x0112] = 6
    # Stored 40 wide and 60 high: a viewer shows the 60x40 that the annotation states.
    Image.new("RGB", (40, 60)).save(folder / "train2017" / "a.jpg", exif=exif)
    made = read(folder)
    assert (made.widths[0], made.heights[0]) == (60, 40)
    assert warned(folder) == []
    Image.new("RGB", (60, 40)).save(folder / "train2017" / "a.jpg", exif=exif)
    with pytest.raises(DataError, match="has 40x60 once its EXIF orientation is applied"):
        read(folder)
    exif[0x0112] = 3
    Image.new("RGB", (60, 40)).save(folder / "train2017" / "a.jpg", exif=exif)
    assert [warning.kind for warning in warned(folder)] == ["images turned by their EXIF orientation"]


def test_boxes_in_fractions_are_refused(make_coco: MakeCoco) -> None:
    def change(content: dict[str, Any]) -> None:
        content["annotations"][0] |= {"bbox": [0.1, 0.1, 0.5, 0.75], "area": 0.375}

    with pytest.raises(DataError, match=r"annotations\[0\]: bbox .* seems to be in fractions of the image"):
        read(make_coco(change))
