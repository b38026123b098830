"""The walks of docs/data.md: their commands run as they are written, on small folders made here."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from drcnn.cli import main

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "data.md").read_text(encoding="utf-8")
SIZE = (64, 48)
# xyxy of the object in every picture.
BOX = (12, 8, 40, 36)


def walk(name: str) -> list[str]:
    """The commands of a walk."""
    (block,) = re.findall(rf"<!-- walk: {name} -->\n```\n(.*?)```", PAGE, re.DOTALL)
    return str(block).splitlines()


def picture(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 120, (*SIZE[::-1], 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    ImageDraw.Draw(image).rectangle(BOX, fill="#f0e442")
    image.save(path)


def labelimg(folder: Path) -> None:
    for number in range(40):
        picture(folder / f"{number}.png", number)
        corners = "".join(
            f"<{name}>{value + 1}</{name}>"
            for name, value in zip(("xmin", "ymin", "xmax", "ymax"), BOX, strict=True)
        )
        (folder / f"{number}.xml").write_text(
            f"<annotation><filename>{number}.png</filename>"
            f"<object><name>cell</name><bndbox>{corners}</bndbox></object></annotation>"
        )


def yolo(folder: Path) -> None:
    x1, y1, x2, y2 = (value / side for value, side in zip(BOX, SIZE * 2, strict=True))
    for split, numbers in {"train": range(20), "val": range(20, 30)}.items():
        for number in numbers:
            picture(folder / "images" / split / f"{number}.png", number)
            label = folder / "labels" / split / f"{number}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text(f"0 {(x1 + x2) / 2} {(y1 + y2) / 2} {x2 - x1} {y2 - y1}\n")
    (folder / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [car]\n")


def roboflow(folder: Path) -> None:
    for split, numbers in {"train": range(20), "valid": range(20, 26), "test": range(26, 32)}.items():
        for number in numbers:
            picture(folder / split / f"{number}.png", number)
        content = {
            "images": [{"id": number, "file_name": f"{number}.png"} for number in numbers],
            "annotations": [
                {"id": number, "image_id": number, "category_id": 1, "bbox": [*BOX[:2], 28, 28]}
                for number in numbers
            ],
            "categories": [{"id": 1, "name": "apple"}],
        }
        (folder / split / "_annotations.coco.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("name", "folder", "make", "results"),
    [
        ("labelimg", "photos", labelimg, ["samples.png", "errors/evaluation.html", "found/pictures/0.png"]),
        ("yolo", "cars", yolo, ["cars.png", "cars_coco/annotations/instances_val.json", "corrected/labels"]),
        ("coco", "fruit", roboflow, ["runs/fruit/result.json"]),
    ],
)
def test_a_walk_leads_there(
    name: str,
    folder: str,
    make: Callable[[Path], None],
    results: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make(tmp_path / folder)
    monkeypatch.chdir(tmp_path)
    said = ""
    for line in walk(name):
        program, *arguments = shlex.split(line, comments=True)
        assert program == "drcnn"
        status = main(arguments)
        output = capsys.readouterr()
        assert status == 0, f"{line}: {output.err}"
        said += output.out
    assert ": no faults\n" in said
    for result in results:
        assert (tmp_path / result).exists(), result
