"""Names in pictures: what the font cannot draw is a number, which a line explains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from drcnn.cli import main
from drcnn.data.annotations import Annotations, Record
from drcnn.data.files.drawing import drawn_names, numbers_in_words, write_name
from drcnn.data.files.sheet import sheet
from drcnn.report.samples import how_drawn

CLASSES = ["cat", "猫", "Fußgänger", "犬", "red blood cell", "кошка", "x猫"]


def written(name: str) -> bytes:
    image = Image.new("RGB", (200, 40))
    write_name(ImageDraw.Draw(image), name, (0, 30, 100, 40), image.size, "#ffffff")
    return image.tobytes()


def test_classes_of_any_script_can_be_told_apart() -> None:
    names = drawn_names(CLASSES)
    assert names == ["cat", "#1", "Fußgänger", "#3", "red blood cell", "кошка", "#6"]
    assert len({written(name) for name in names}) == len(CLASSES)
    # What is mended: the font draws the same box for both.
    assert written("猫") == written("犬")


def test_the_numbers_are_explained() -> None:
    assert numbers_in_words(["cat", "red blood cell"]) == ""
    assert numbers_in_words(["cat", "猫", "犬"]) == (
        "in pictures, whose font lacks these characters: #1 is 猫, #2 is 犬"
    )
    assert "#1 is 猫" in how_drawn(["cat", "猫"])
    assert "#" not in how_drawn(["cat"])


def test_a_sheet_has_the_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (100, 50)).save(path)

    def drawn(name: str) -> np.ndarray:
        record = Record("a", 100, 50, [[20, 25, 80, 40]], [0], path=str(path))
        return np.asarray(sheet({"train": Annotations.from_records([record], [name])}, 1))

    assert (drawn("猫") == drawn("#0")).all()
    assert (drawn("cat") != drawn("#0")).any()


def test_show_explains_the_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "classes.txt").write_text("猫\n犬\n", encoding="utf-8")
    for number in range(40):
        Image.new("RGB", (64, 64), (number, 0, 0)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("1 0.5 0.5 0.25 0.5\n")
    assert main(["data", "show", str(folder), "--output", str(tmp_path / "sheet.png")]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "in pictures, whose font lacks these characters: #0 is 猫, #1 is 犬"
