from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from drcnn.config import DataConfig
from drcnn.data.annotations import Annotations, DataError, Record
from drcnn.data.files.convert import write_coco
from drcnn.data.prepare import PreparedData, prepare

Configure = Callable[..., DataConfig]
Make = Callable[..., Path]


def tables_of(prepared: PreparedData) -> dict[str, Annotations]:
    return {split: Annotations.load(path) for split, path in prepared.tables.items()}


def assert_equal(one: Annotations, two: Annotations) -> None:
    assert one.classes == two.classes
    for name in (
        "widths",
        "heights",
        "offsets",
        "all_boxes",
        "all_labels",
        "all_ignore",
        "all_areas",
        "digests",
    ):
        assert np.array_equal(getattr(one, name), getattr(two, name)), name


def test_voc_is_written_as_coco_and_read_back(
    tmp_path: Path, make_voc: Make, config: Configure, xml: Callable[..., str]
) -> None:
    objects = [("WBC", (1, 1, 60, 40)), ("RBC", (5.25, 5, 20.7, 30))]
    images = {"b": objects, "a": objects[:1], "none": []}
    folder = make_voc(images, xml={"b": xml(objects, difficult=[1])})
    before = prepare(config(source=f"voc:{folder}"), tmp_path / "cache")
    write_coco(tables_of(before), tmp_path / "coco")
    after = prepare(config(source=f"coco:{tmp_path / 'coco'}"), tmp_path / "cache")
    for split, table in tables_of(before).items():
        assert_equal(table, tables_of(after)[split])
    assert sorted(path.name for path in (tmp_path / "coco" / "train").iterdir()) == [
        "a.jpg",
        "b.jpg",
        "none.jpg",
    ]


def test_coco_keeps_its_ids(tmp_path: Path, make_coco: Make, config: Configure) -> None:
    before = prepare(config(source=f"coco:{make_coco(name='first')}"), tmp_path / "cache")
    write_coco(tables_of(before), tmp_path / "second")
    after = prepare(config(source=f"coco:{tmp_path / 'second'}"), tmp_path / "cache")
    for split, table in tables_of(before).items():
        copy = tables_of(after)[split]
        assert_equal(table, copy)
        assert copy.category_ids == table.category_ids
        assert copy.ids == table.ids
        assert copy.fingerprint == table.fingerprint
    assert after.fingerprint == before.fingerprint


def test_the_official_reader_reads_it(
    tmp_path: Path, make_coco: Make, config: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    before = prepare(config(source=f"coco:{make_coco(name='first')}"), tmp_path / "cache")
    write_coco(tables_of(before), tmp_path / "second")
    coco = COCO(str(tmp_path / "second" / "annotations" / "instances_train.json"))
    areas = tables_of(before)["train"].all_areas.tolist()
    assert sorted(entry["area"] for entry in coco.anns.values()) == sorted(areas)
    assert coco.getCatIds() == [2, 90]


def test_images_of_one_name_and_embedded_ones(tmp_path: Path) -> None:
    pixels = tmp_path / "pixels.png"
    Image.new("RGB", (8, 8)).save(pixels)
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (8, 8), (folder == "one" and "red") or "blue").save(tmp_path / folder / "a.png")
    records = [
        Record("one/a", 8, 8, [[0, 0, 4, 4]], [0], path=str(tmp_path / "one" / "a.png")),
        Record("two/a", 8, 8, [], [], path=str(tmp_path / "two" / "a.png")),
        Record("digit", 8, 8, [], [], image=pixels.read_bytes()),
    ]
    write_coco({"train": Annotations.from_records(records, ["x"])}, tmp_path / "coco")
    content = json.loads((tmp_path / "coco" / "annotations" / "instances_train.json").read_text())
    assert [image["id"] for image in content["images"]] == [1, 2, 3]
    names = [image["file_name"] for image in content["images"]]
    assert len(set(names)) == 3
    for name, record in zip(names, records, strict=True):
        original = record.image or Path(str(record.path)).read_bytes()
        assert (tmp_path / "coco" / "train" / name).read_bytes() == original


def test_links_become_files(tmp_path: Path, make_voc: Make, config: Configure) -> None:
    folder = make_voc()
    image = folder / "JPEGImages" / "000001.jpg"
    image.rename(tmp_path / "stored.jpg")
    image.symlink_to(tmp_path / "stored.jpg")
    write_coco(tables_of(prepare(config(source=f"voc:{folder}"), tmp_path / "cache")), tmp_path / "coco")
    copy = tmp_path / "coco" / "train" / "000001.jpg"
    assert not copy.is_symlink()
    assert copy.read_bytes() == (tmp_path / "stored.jpg").read_bytes()


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(DataError, match="exists and is not empty"):
        write_coco({}, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
