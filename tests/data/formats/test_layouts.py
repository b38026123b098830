"""Every layout that is recognised, made of the same images and boxes, has the same content."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drcnn.config import DataConfig
from drcnn.data.annotations import Annotations, DataError
from drcnn.data.check import check
from drcnn.data.formats.layouts import resolve_source
from drcnn.data.formats.voc import VOC_CLASSES
from drcnn.data.prepare import PreparedData, prepare

Configure = Callable[..., DataConfig]

SIZE = (60, 40)
CLASSES = ("cat", "dog")
# Class and box (xyxy) by image; the last of each split is a negative.
IMAGES: dict[str, dict[str, list[tuple[str, tuple[int, int, int, int]]]]] = {
    "train": {
        "a": [("dog", (10, 20, 30, 40))],
        "b": [("cat", (0, 0, 60, 40)), ("dog", (6, 4, 18, 30))],
        "n": [],
    },
    "valid": {"c": [("dog", (12, 8, 24, 20))], "m": []},
}
ALL = {name: objects for images in IMAGES.values() for name, objects in images.items()}


def write_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(ord(path.stem)).integers(0, 255, (*SIZE[::-1], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def write_xml(path: Path, name: str) -> None:
    def element(item: str, box: tuple[int, int, int, int]) -> str:
        corners = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
        return f"<object><name>{item}</name><bndbox>" + (
            "".join(f"<{key}>{value + 1}</{key}>" for key, value in corners) + "</bndbox></object>"
        )

    if ALL[name]:
        write_text(path, f"<annotation>{''.join(element(*item) for item in ALL[name])}</annotation>")


def write_yolo(path: Path, name: str) -> None:
    def line(item: str, box: tuple[int, int, int, int]) -> str:
        x1, y1, x2, y2 = (value / side for value, side in zip(box, SIZE * 2, strict=True))
        return f"{CLASSES.index(item)} {(x1 + x2) / 2:.8f} {(y1 + y2) / 2:.8f} {x2 - x1:.8f} {y2 - y1:.8f}\n"

    if ALL[name]:
        write_text(path, "".join(line(*item) for item in ALL[name]))


def coco(names: list[str], prefix: str = "", classes: tuple[str, ...] = CLASSES) -> str:
    images = [
        {"id": number, "file_name": f"{prefix}{name}.jpg", "width": 60, "height": 40}
        for number, name in enumerate(names)
    ]
    entries = [
        {
            "id": 0,
            "image_id": number,
            "category_id": classes.index(item),
            "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
        }
        for number, name in enumerate(names)
        for item, box in ALL[name]
    ]
    categories = [{"id": number, "name": name} for number, name in enumerate(classes)]
    return json.dumps({"images": images, "annotations": entries, "categories": categories})


def voc_flat(folder: Path) -> None:
    for name in ALL:
        write_image(folder / f"{name}.jpg")
        write_xml(folder / f"{name}.xml", name)


def voc_annots(folder: Path) -> None:
    for name in ALL:
        write_image(folder / "images" / f"{name}.jpg")
        write_xml(folder / "annots" / f"{name}.xml", name)


def voc_without_lists(folder: Path) -> None:
    for name in ALL:
        write_image(folder / "JPEGImages" / f"{name}.jpg")
        write_xml(folder / "Annotations" / f"{name}.xml", name)
    # As CVAT writes it.
    write_text(folder / "ImageSets" / "Main" / "default.txt", "\n".join(ALL))


def voc_roboflow(folder: Path) -> None:
    for split, images in IMAGES.items():
        for name in images:
            write_image(folder / split / f"{name}.jpg")
            write_xml(folder / split / f"{name}.xml", name)


def voc_lists(folder: Path) -> None:
    voc_without_lists(folder)
    for split, images in IMAGES.items():
        write_text(folder / "ImageSets" / "Main" / f"{split}.txt", "\n".join(images))
        for name in images:
            write_text(folder / "Annotations" / f"{name}.xml", "<annotation/>")
            write_xml(folder / "Annotations" / f"{name}.xml", name)


def coco_annotations(folder: Path) -> None:
    for split, images in IMAGES.items():
        write_text(folder / "annotations" / f"instances_{split}.json", coco(list(images)))
        for name in images:
            write_image(folder / "images" / f"{name}.jpg")


def coco_plain(folder: Path) -> None:
    for split, images in IMAGES.items():
        write_text(folder / "annotations" / f"{split}.json", coco(list(images), f"{split}/"))
        for name in images:
            write_image(folder / split / f"{name}.jpg")


def coco_roboflow(folder: Path) -> None:
    for split, images in IMAGES.items():
        # The root category, and other numbers in the other split.
        classes = ("pets", *(CLASSES if split == "train" else CLASSES[::-1]))
        content = json.loads(coco(list(images), classes=classes))
        for category in content["categories"]:
            category["supercategory"] = "none" if category["name"] == "pets" else "pets"
        write_text(folder / split / "_annotations.coco.json", json.dumps(content))
        for name in images:
            write_image(folder / split / f"{name}.jpg")


def coco_cvat(folder: Path) -> None:
    write_text(folder / "annotations" / "instances_default.json", coco(list(ALL)))
    for name in ALL:
        write_image(folder / "images" / "default" / f"{name}.jpg")


def coco_label_studio(folder: Path) -> None:
    write_text(folder / "result.json", coco(list(ALL), "images\\"))
    for name in ALL:
        write_image(folder / "images" / f"{name}.jpg")


def yolo_roboflow(folder: Path) -> None:
    for split, images in IMAGES.items():
        for name in images:
            write_image(folder / split / "images" / f"{name}.jpg")
            write_yolo(folder / split / "labels" / f"{name}.txt", name)
    lines = [
        "train: ../train/images",
        "val: ../valid/images",
        "test: ../test/images",
        "names: ['cat', 'dog']",
    ]
    write_text(folder / "data.yaml", "\n".join(lines))


def yolo_ultralytics(folder: Path) -> None:
    for split, images in IMAGES.items():
        for name in images:
            write_image(folder / "images" / split / f"{name}.jpg")
            write_yolo(folder / "labels" / split / f"{name}.txt", name)
    text = "path: /home/somebody/pets\ntrain: images/train\nval: images/valid\nnames:\n  0: cat\n  1: dog\n"
    write_text(folder / "data.yaml", text)


def yolo_folders(folder: Path) -> None:
    yolo_ultralytics(folder)
    (folder / "data.yaml").unlink()
    write_text(folder / "classes.txt", "cat\ndog\n")


def yolo_flat(folder: Path) -> None:
    for name in ALL:
        write_image(folder / f"{name}.jpg")
        write_yolo(folder / f"{name}.txt", name)
    write_text(folder / "classes.txt", "cat\ndog\n")


def yolo_label_studio(folder: Path) -> None:
    for name in ALL:
        write_image(folder / "images" / f"{name}.jpg")
        write_yolo(folder / "labels" / f"{name}.txt", name)
    write_text(folder / "classes.txt", "cat\ndog\n")
    write_text(folder / "notes.json", "{}")


def yolo_cvat(folder: Path) -> None:
    for name in ALL:
        write_image(folder / "obj_train_data" / f"{name}.jpg")
        write_yolo(folder / "obj_train_data" / f"{name}.txt", name)
    write_text(folder / "obj.names", "cat\ndog\n")
    write_text(folder / "obj.data", "classes = 2\n")
    write_text(folder / "train.txt", "".join(f"data/obj_train_data/{name}.jpg\n" for name in ALL))


WITH_SPLITS = (
    voc_roboflow, voc_lists, coco_annotations, coco_plain, coco_roboflow, yolo_roboflow, yolo_ultralytics,
    yolo_folders,
)  # fmt: skip
WITHOUT = (
    voc_flat, voc_annots, voc_without_lists, coco_cvat, coco_label_studio, yolo_flat, yolo_label_studio,
    yolo_cvat,
)  # fmt: skip

Contents = dict[str, dict[bytes, list[tuple[str, tuple[float, ...]]]]]


def contents(prepared: PreparedData) -> Contents:
    """Classes and boxes of each image, by split and pixels."""
    found: Contents = {}
    for split, path in prepared.tables.items():
        table = Annotations.load(path)
        found[split] = {
            bytes(table.digests[row]): [
                (table.classes[label], tuple(np.round(box, 3).tolist()))
                for label, box in zip(table.labels(row), table.boxes(row), strict=True)
            ]
            for row in range(len(table))
        }
    return found


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, config: Configure) -> Callable[[str], Contents]:
    """The content as the oldest reader has it."""
    top = tmp_path_factory.mktemp("expected")
    coco_annotations(top / "coco")
    prepared = prepare(config(source=f"coco:{top / 'coco'}"), top / "cache")
    whole = contents(prepared)
    return lambda kind: whole if kind == "split" else {"": whole["train"] | whole["val"]}


@pytest.mark.parametrize("write", WITH_SPLITS, ids=lambda write: write.__name__)
def test_a_folder_with_splits_is_recognised(
    write: Callable[[Path], None], tmp_path: Path, config: Configure, expected: Callable[[str], Contents]
) -> None:
    write(tmp_path / "data")
    source = resolve_source(str(tmp_path / "data"))
    assert source == f"{write.__name__.partition('_')[0]}:{tmp_path / 'data'}"
    prepared = prepare(config(source=source), tmp_path / "cache")
    assert contents(prepared) == expected("split")
    # Lists of images are VOC's own layout: its classes are VOC's if they can be.
    assert prepared.classes == (VOC_CLASSES if write is voc_lists else CLASSES)
    assert prepared.test is None
    assert prepared.described.endswith("; images: train 3, val 2")
    assert prepared.described.startswith(write.__name__.partition("_")[0].upper())
    assert prepared.skipped == ()


@pytest.mark.parametrize("write", WITHOUT, ids=lambda write: write.__name__)
def test_a_folder_without_splits_is_divided(
    write: Callable[[Path], None], tmp_path: Path, config: Configure, expected: Callable[[str], Contents]
) -> None:
    write(tmp_path / "data")
    source = resolve_source(str(tmp_path / "data"))
    assert source == f"{write.__name__.partition('_')[0]}:{tmp_path / 'data'}"
    # These five images fall into both, and the same ones whatever the layout is.
    prepared = prepare(config(source=source, split="0.5/0.5"), tmp_path / "cache")
    (everything,) = expected("whole").values()
    found = contents(prepared)
    assert found["train"] | found["val"] == everything
    assert all(digest[0] < 128 for digest in found["train"])
    assert all(digest[0] >= 128 for digest in found["val"])
    assert "without splits: divided by content, data.split=0.5/0.5; images: train" in prepared.described


def test_a_folder_may_be_named_like_a_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    yolo_flat(tmp_path / "coco")
    monkeypatch.chdir(tmp_path)
    assert resolve_source("coco") == "yolo:coco"
    assert resolve_source("coco:coco") == "coco:coco"


def test_two_formats_at_once_are_refused(tmp_path: Path, config: Configure) -> None:
    yolo_label_studio(tmp_path)
    for name in ALL:
        write_xml(tmp_path / "annotations" / f"{name}.xml", name)
    with pytest.raises(DataError) as caught:
        resolve_source(str(tmp_path))
    assert "could be VOC (XML in annotations/) and YOLO (in labels/); say which" in str(caught.value)
    assert f"--data voc:{tmp_path} or --data yolo:{tmp_path}" in str(caught.value)
    for form in ("voc", "yolo"):
        prepared = prepare(config(source=f"{form}:{tmp_path}", split="0.5/0.5"), tmp_path / "cache")
        assert prepared.described.startswith(form.upper())


def test_a_folder_of_nothing_known_is_refused(tmp_path: Path) -> None:
    coco_roboflow(tmp_path / "unpacked" / "pets")
    write_text(tmp_path / "unpacked" / "readme.txt", "")
    with pytest.raises(DataError) as caught:
        resolve_source(str(tmp_path / "unpacked"))
    message = str(caught.value)
    assert "there is pets/, readme.txt; looked for VOC (" in message
    assert f"{tmp_path / 'unpacked' / 'pets'} looks like COCO: give that" in message
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="the folder is empty"):
        resolve_source(str(tmp_path / "empty"))
    with pytest.raises(DataError, match="say the format of a folder in an object store"):
        resolve_source("s3://bucket/pets")


def test_a_plus_in_a_name_does_not_split_it(tmp_path: Path, config: Configure) -> None:
    voc_roboflow(tmp_path / "night+day")
    coco_annotations(tmp_path / "dusk")
    source = resolve_source(str(tmp_path / "night+day"))
    assert len(Annotations.load(prepare(config(source=source), tmp_path / "cache").train)) == 3
    with pytest.raises(DataError, match=r"several formats .*night\+day is VOC, .*dusk is COCO"):
        resolve_source(f"{tmp_path / 'night+day'}+{tmp_path / 'dusk'}")


@pytest.mark.parametrize(
    "write", [voc_roboflow, coco_roboflow, yolo_roboflow], ids=lambda write: write.__name__
)
def test_folders_of_one_name_are_joined(
    write: Callable[[Path], None], tmp_path: Path, config: Configure, expected: Callable[[str], Contents]
) -> None:
    write(tmp_path / "one" / "pets")
    write(tmp_path / "two" / "pets")
    source = resolve_source(f"{tmp_path / 'one' / 'pets'}+{tmp_path / 'two' / 'pets'}")
    prepared = prepare(config(source=source), tmp_path / "cache")
    assert contents(prepared) == expected("split")
    ids = Annotations.load(prepared.train).ids
    assert len(ids) == 6
    assert {name.partition("/")[0] for name in ids} == {"pets", "pets-2"}


@pytest.mark.parametrize("write", [coco_plain, coco_annotations, voc_roboflow, yolo_ultralytics, voc_lists])
def test_links_are_followed(
    write: Callable[[Path], None], tmp_path: Path, config: Configure, expected: Callable[[str], Contents]
) -> None:
    write(tmp_path / "data")
    store = tmp_path / "store"
    store.mkdir()
    for image in sorted((tmp_path / "data").rglob("*.jpg")):
        shutil.move(image, store / image.name)
        image.symlink_to(store / image.name)
    prepared = prepare(config(source=resolve_source(str(tmp_path / "data"))), tmp_path / "cache")
    assert contents(prepared) == expected("split")


def test_linked_folders_are_followed_and_their_circles_left(
    tmp_path: Path, config: Configure, expected: Callable[[str], Contents]
) -> None:
    voc_roboflow(tmp_path / "data")
    for split in IMAGES:
        (tmp_path / "data" / split).rename(tmp_path / split)
        (tmp_path / "data" / split).symlink_to(tmp_path / split)
    os.symlink(tmp_path / "train", tmp_path / "train" / "again")
    prepared = prepare(config(source=resolve_source(str(tmp_path / "data"))), tmp_path / "cache")
    assert contents(prepared) == expected("split")


def test_a_folder_that_cannot_be_looked_into_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one of another user; permissions do not bind root, as who these tests may run."""
    voc_roboflow(tmp_path / "data")
    scandir, closed = os.scandir, tmp_path / "data" / "valid"

    def scan(path: Path) -> object:
        if path == closed:
            raise PermissionError(13, "Permission denied", str(closed))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    with pytest.raises(DataError, match=r"data/valid: cannot be looked into \(Permission denied\); make it"):
        resolve_source(str(tmp_path / "data"))


def test_a_file_name_may_not_lead_out_of_the_folder(tmp_path: Path, config: Configure) -> None:
    coco_annotations(tmp_path / "data")
    write_image(tmp_path / "a.jpg")
    path = tmp_path / "data" / "annotations" / "instances_train.json"
    path.write_text(path.read_text().replace("a.jpg", "../../a.jpg"))
    with pytest.raises(DataError, match=r"file_name '../../a\.jpg' leads out of"):
        prepare(config(source=f"coco:{tmp_path / 'data'}"), tmp_path / "cache")


def test_a_class_that_only_the_judged_split_has_is_refused(tmp_path: Path, config: Configure) -> None:
    coco_roboflow(tmp_path)
    path = tmp_path / "valid" / "_annotations.coco.json"
    path.write_text(path.read_text().replace('"dog"', '"horse"'))
    with pytest.raises(DataError, match=r"the classes of 'train' and 'val' differ.*horse"):
        prepare(config(source=f"coco:{tmp_path}"), tmp_path / "cache")


@pytest.mark.parametrize("write", [voc_flat, voc_annots, voc_roboflow, voc_lists])
def test_an_annotation_that_names_another_image_is_told(
    write: Callable[[Path], None], tmp_path: Path, config: Configure
) -> None:
    """As a copy of another image's XML does: in all folders of XML alike."""
    write(tmp_path)
    for name, named in {"a": "b.jpg", "b": "C:\\photos\\b.png", "c": "renamed.jpg"}.items():
        (xml,) = tmp_path.rglob(f"{name}.xml")
        xml.write_text(xml.read_text().replace("<object>", f"<filename>{named}</filename><object>", 1))
    warnings = [
        warning.message.rpartition("/")[2]
        for warning in check(config(source=f"voc:{tmp_path}", split="0.5/0.5")).warnings
        if warning.kind == "annotations that name another image"
    ]
    assert sorted(warnings) == [
        "a.xml: its <filename> is 'b.jpg', another image of the folder; it is used for a.jpg",
        "c.xml: its <filename> is 'renamed.jpg', no image of the folder; it is used for c.jpg",
    ]


def test_a_label_needs_one_image(tmp_path: Path, config: Configure) -> None:
    voc_flat(tmp_path)
    (tmp_path / "a.jpg").rename(tmp_path / "A.jpg")
    with pytest.raises(DataError, match=r"a\.xml: no image of this name"):
        prepare(config(source=f"voc:{tmp_path}"), tmp_path / "cache")
    write_image(tmp_path / "a.jpg")
    write_image(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.xml: belongs to several images \(a\.jpg, a\.png\)"):
        prepare(config(source=f"voc:{tmp_path}"), tmp_path / "cache")


def test_pictures_of_a_run_in_the_folder_are_no_data(tmp_path: Path, config: Configure) -> None:
    voc_flat(tmp_path)
    write_image(tmp_path / "runs" / "train" / "x.png")
    prepared = prepare(config(source=f"voc:{tmp_path}", split="0.5/0.5"), tmp_path / "cache")
    assert sum(len(Annotations.load(path)) for path in prepared.tables.values()) == len(ALL)
