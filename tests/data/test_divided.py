from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drcnn.config import Config, ConfigError, DataConfig
from drcnn.data.annotations import Annotations, DataError
from drcnn.data.prepare import prepare
from drcnn.split_shares import split_of, split_shares

Configure = Callable[..., DataConfig]


def write(folder: Path, name: str, seed: int) -> None:
    folder.mkdir(exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / f"{name}.png")
    (folder / f"{name}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (folder / "classes.txt").write_text("cell\n")


def ids(data: DataConfig, cache: Path) -> dict[str, set[str]]:
    return {split: set(Annotations.load(path).ids) for split, path in prepare(data, cache).tables.items()}


def test_shares_are_kept() -> None:
    shares = split_shares("0.7/0.15/0.15")
    splits = [split_of(hashlib.sha256(bytes([n % 256, n // 256])).digest(), shares) for n in range(4000)]
    assert splits.count("train") / 4000 == pytest.approx(0.7, abs=0.03)
    assert splits.count("val") / 4000 == pytest.approx(0.15, abs=0.03)


def test_images_stay_where_they_are_when_others_are_added(tmp_path: Path, config: Configure) -> None:
    folder = tmp_path / "cells"
    for number in range(40):
        write(folder, f"a{number}", number)
    before = ids(config(source=f"yolo:{folder}"), tmp_path / "cache")
    assert list(before) == ["train", "val", "test"]
    assert sum(map(len, before.values())) == 40
    for number in range(40, 60):
        write(folder, f"0{number}", number)
    after = ids(config(source=f"yolo:{folder}"), tmp_path / "cache")
    assert all(before[split] <= after[split] for split in before)


def test_equal_images_fall_into_one_split(tmp_path: Path, config: Configure) -> None:
    folder = tmp_path / "cells"
    for number in range(30):
        write(folder, f"a{number}", number)
        write(folder, f"copy{number}", number)
    for names in ids(config(source=f"yolo:{folder}"), tmp_path / "cache").values():
        assert {name.replace("copy", "a") for name in names} <= names


def test_the_fingerprint_is_that_of_the_images_chosen(tmp_path: Path, config: Configure) -> None:
    folder = tmp_path / "cells"
    for number in range(40):
        write(folder, f"a{number}", number)
    one, two = (
        prepare(config(source=f"yolo:{folder}", split=split), tmp_path / "cache")
        for split in ("0.5/0.25/0.25", "0.6/0.2/0.2")
    )
    assert one.fingerprint != two.fingerprint
    assert one.train != two.train


def test_without_a_share_there_is_no_test_split(tmp_path: Path, config: Configure) -> None:
    folder = tmp_path / "cells"
    for number in range(40):
        write(folder, f"a{number}", number)
    found = ids(config(source=f"yolo:{folder}", split="0.8/0.2"), tmp_path / "cache")
    assert list(found) == ["train", "val"]
    paper = ids(config(source=f"yolo:{folder}", train_split="trainval", val_split=None), tmp_path / "cache")
    three = ids(config(source=f"yolo:{folder}"), tmp_path / "cache")
    assert paper == {"train": three["train"] | three["val"], "test": three["test"]}
    with pytest.raises(DataError, match=r"no split 'exam'; .* makes train, val, test, trainval"):
        ids(config(source=f"yolo:{folder}", val_split="exam"), tmp_path / "cache")


def test_an_empty_split_is_refused(tmp_path: Path, config: Configure) -> None:
    write(tmp_path / "cells", "a", 1)
    with pytest.raises(DataError, match=r"divides its 1 images by their content into train ., val ., test ."):
        ids(config(source=f"yolo:{tmp_path / 'cells'}"), tmp_path / "cache")


@pytest.mark.parametrize(
    "text", ["0.7", "0.7/0.2", "0.7/0.3/0", "1.2/-0.2", "a/b", "0.4/0.2/0.2/0.2", "nan/nan", ""]
)
def test_other_shares_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.split = .* such as 0\.7/0\.15/0\.15"):
        Config().with_changes({"data.split": text})
