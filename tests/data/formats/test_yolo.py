from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from drcnn.data.annotations import Annotations, DataError
from drcnn.data.faults import DataFaults
from drcnn.data.formats.label_pairs import Pair
from drcnn.data.formats.yolo import read_yolo
from drcnn.data.formats.yolo_layout import find_yolo


def read(
    folder: Path, text: str | None, *, skip: bool = False, faults: DataFaults | None = None
) -> Annotations:
    Image.new("RGB", (100, 50)).save(folder / "a.png")
    Image.new("RGB", (100, 50)).save(folder / "good.png")
    pairs = [Pair(f"{name}.png", folder / f"{name}.png", folder / f"{name}.txt") for name in ("a", "good")]
    if text is not None:
        pairs[0].label.write_text(text)
    pairs[1].label.write_text("0 0.5 0.5 1 1")
    return read_yolo(pairs, ["cat", "dog"], faults or DataFaults(skip=skip))


def test_boxes_are_pixels(tmp_path: Path) -> None:
    made = read(tmp_path, "1 0.5 0.5 0.25 0.5\n\n0 0.1 0.2 0.2 0.4\n")
    assert made.boxes(0).tolist() == [[37.5, 12.5, 62.5, 37.5], [0, 0, 20, 20]]
    assert made.labels(0).tolist() == [1, 0]
    assert made.areas(0).tolist() == [625, 400]
    assert not made.all_ignore.any()


@pytest.mark.parametrize("text", [None, "", "\n"])
def test_without_a_line_an_image_has_no_objects(tmp_path: Path, text: str | None) -> None:
    assert len(read(tmp_path, text).boxes(0)) == 0


def test_polygons_are_read_as_boxes_with_a_word(tmp_path: Path) -> None:
    faults = DataFaults(skip=False)
    made = read(tmp_path, "1 0.1 0.2 0.5 0.2 0.3 0.8\n", faults=faults)
    assert made.boxes(0).tolist() == [[10, 10, 50, 40]]
    (warning,) = faults.warnings
    assert warning.message == f"{tmp_path}/a.txt: 1 polygons are read as the boxes around them"


def test_a_box_without_area_is_left_out(tmp_path: Path) -> None:
    faults = DataFaults(skip=False)
    made = read(tmp_path, "1 0.5 0.5 0 0.5\n", faults=faults)
    assert len(made.boxes(0)) == 0
    (warning,) = faults.warnings
    assert warning.message == f"{tmp_path}/a.txt: line 1: box of zero area left out"


BAD = {
    "2 0.5 0.5 1 1": "class 2 has no name; there are 2, counted from 0",
    "0.5 0.5 0.5 1 1": "class 0.5 has no name",
    "nan 0.5 0.5 1 1": "class nan has no name",
    "0 0.5 0.5 1": "has 4 numbers, expected 5",
    "0 0.5 0.5 1 1 0.9": "has 6 numbers, expected 5",
    "0 37 12 62 37": "37 12 62 37 are no fractions of the image's sides",
    "0 nan 0.5 1 1": "are no fractions",
    "cat 0.5 0.5 1 1": "'cat 0.5 0.5 1 1' is not numbers only",
    "0 0.9 0.5 0.5 0.5": "is outside the image of 100x50",
    "0 0.5 0.5 -0.5 0.5": "are no fractions",
}


@pytest.mark.parametrize("text", BAD)
def test_bad_lines_stop_or_are_skipped(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path}/a.txt: line 1: ")
    assert BAD[text] in str(caught.value)
    kept = read(tmp_path, text, skip=True)
    assert kept.ids == ("good.png",)
    assert len(kept.skipped) == 1


def folder_with(tmp_path: Path, yaml: str) -> Path:
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    Image.new("RGB", (100, 50)).save(tmp_path / "images" / "a.png")
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5 1 1")
    (tmp_path / "data.yaml").write_text(yaml)
    return tmp_path


BAD_YAML = {
    "names: [a, a]\ntrain: images": "expected different names",
    "names: 3\ntrain: images": "'names' is 3, expected the list of classes",
    "names: {1: a}\ntrain: images": "numbers of 'names' are [1], expected 0, 1, 2",
    "names: [a]\ntrain: photos": "data.yaml: train: 'photos' is not found in",
    "names: [a]\ntrain: /etc": "data.yaml: train: '/etc' is not found in",
    "names: [a\ntrain": "not readable as YAML",
    "[a]": "expected a mapping",
    "!!python/object/apply:os.system ['true']": "not readable as YAML",
}


@pytest.mark.parametrize("yaml", BAD_YAML)
def test_a_bad_data_yaml_is_explained(tmp_path: Path, yaml: str) -> None:
    with pytest.raises(DataError) as caught:
        find_yolo(folder_with(tmp_path, yaml))
    assert BAD_YAML[yaml] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_label_without_an_image_is_seen(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "names: [a]\ntrain: images\n")
    (folder / "labels" / "b.txt").write_text("0 0.5 0.5 1 1")
    found = find_yolo(folder)
    assert found is not None
    assert found.classes == ("a",)
    assert [label.name for label in found.pairs.labels] == ["a.txt", "b.txt"]
    assert [pair.id for pair in found.pairs.splits[""]] == ["a.png"]


@pytest.mark.parametrize(
    "line", ["images/a.png", "./images/a.png", "data/images/a.png", "../images/a.png", "{}/images/a.png"]
)
def test_a_list_of_images_is_followed(tmp_path: Path, line: str) -> None:
    folder = folder_with(tmp_path, "names: [a]\ntrain: train.txt\n")
    (folder / "train.txt").write_text(f"\n{line.format(folder)}\n")
    found = find_yolo(folder)
    assert found is not None
    (pair,) = found.pairs.all
    assert (pair.id, pair.label) == ("images/a.png", folder / "labels" / "a.txt")


@pytest.mark.parametrize(
    "line", ["images/b.png", "/etc/hostname", "  /etc/hostname", "../../../etc/hostname"]
)
def test_a_list_does_not_lead_out_of_the_folder(tmp_path: Path, line: str) -> None:
    folder = folder_with(tmp_path, "names: [a]\ntrain: train.txt\n")
    (folder / "train.txt").write_text(f"{line}\n")
    with pytest.raises(DataError, match=rf"train\.txt: line 1: '{line.strip()}' is not found in {folder}"):
        find_yolo(folder)
