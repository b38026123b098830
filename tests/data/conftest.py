"""Tiny VOC and COCO folders, and prepared digits, for the tests of the data layer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from drcnn.config import Config, DataConfig
from drcnn.data.prepare import PreparedData, prepare

Objects = Sequence[tuple[str, tuple[float, float, float, float]]]
VocMaker = Callable[..., Path]
CocoMaker = Callable[..., Path]

VOC_IMAGES: dict[str, Objects] = {
    "000001": [("dog", (11, 21, 31, 41))],
    "000002": [("cat", (1, 1, 60, 40)), ("dog", (5, 5, 20, 30))],
}


def data_config(**changes: Any) -> DataConfig:
    return Config().with_changes({f"data.{key}": value for key, value in changes.items()}).data


def write_image(path: Path, size: tuple[int, int] = (60, 40)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.name)).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def voc_xml(objects: Objects, difficult: Sequence[int] = ()) -> str:
    parts = []
    for number, (name, box) in enumerate(objects):
        corners = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
        inner = "".join(f"<{key}>{value}</{key}>" for key, value in corners)
        flag = int(number in difficult)
        parts.append(
            f"<object><name>{name}</name><difficult>{flag}</difficult><bndbox>{inner}</bndbox>"
            # Persons of VOC have parts, which are no objects and have no class.
            "<part><name>head</name></part></object>"
        )
    return f"<annotation><size><width>9</width></size>{''.join(parts)}</annotation>"


@pytest.fixture
def make_voc(tmp_path: Path) -> VocMaker:
    """Write a VOC folder: images of 60x40, and the lists train and val naming all of them."""

    def make(
        images: Mapping[str, Objects] = VOC_IMAGES,
        *,
        name: str = "VOC",
        lists: Sequence[str] = ("train", "val"),
        xml: Mapping[str, str] | None = None,
    ) -> Path:
        folder = tmp_path / name
        (folder / "Annotations").mkdir(parents=True)
        (folder / "ImageSets" / "Main").mkdir(parents=True)
        for image, objects in images.items():
            write_image(folder / "JPEGImages" / f"{image}.jpg")
            text = (xml or {}).get(image, voc_xml(objects))
            (folder / "Annotations" / f"{image}.xml").write_text(text)
        for split in lists:
            (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(images) + "\n")
        return folder

    return make


@pytest.fixture
def make_coco(tmp_path: Path) -> CocoMaker:
    """Write a COCO folder with train2017 and val2017: two images of 60x40 with three boxes."""

    def make(change: Callable[[dict[str, Any]], None] | None = None, *, name: str = "coco") -> Path:
        folder = tmp_path / name
        (folder / "annotations").mkdir(parents=True)
        for split in ("train2017", "val2017"):
            content: dict[str, Any] = {
                "images": [
                    {"id": 7, "file_name": "a.jpg", "width": 60, "height": 40},
                    {"id": 3, "file_name": "b.png", "width": 60, "height": 40},
                ],
                "annotations": [
                    {
                        "id": 1,
                        "image_id": 7,
                        "category_id": 90,
                        "bbox": [10, 5, 20, 30],
                        "area": 111.5,
                        "iscrowd": 0,
                    },
                    {
                        "id": 2,
                        "image_id": 7,
                        "category_id": 2,
                        "bbox": [0, 0, 60, 40],
                        "area": 900.0,
                        "iscrowd": 1,
                    },
                    {
                        "id": 3,
                        "image_id": 3,
                        "category_id": 2,
                        "bbox": [1.5, 2.5, 3, 4],
                        "area": 12.0,
                        "iscrowd": 0,
                    },
                ],
                "categories": [{"id": 90, "name": "toothbrush"}, {"id": 2, "name": "bicycle"}],
            }
            if change is not None:
                change(content)
            for file in ("a.jpg", "b.png"):
                write_image(folder / split / file)
            (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
        return folder

    return make


@pytest.fixture(scope="session")
def digits_config() -> DataConfig:
    return data_config(short_side=None, train_images=21, val_images=10)


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory, digits_config: DataConfig) -> PreparedData:
    return prepare(digits_config, tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="session")
def config() -> Callable[..., DataConfig]:
    return data_config


@pytest.fixture(scope="session")
def xml() -> Callable[..., str]:
    return voc_xml
