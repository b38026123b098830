from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drcnn.data.annotations import Annotations, DataError, Record


def record(name: str = "a", **changes: Any) -> Record:
    values: dict[str, Any] = {
        "width": 64,
        "height": 48,
        "boxes": [[1, 2, 11, 22], [0, 0, 64, 48]],
        "labels": [1, 0],
        "path": f"/somewhere/{name}.jpg",
    }
    return Record(id=name, **{**values, **changes})


def test_a_saved_table_opens_with_the_same_content(tmp_path: Path) -> None:
    made = Annotations.from_records(
        [record("a", ignore=[False, True]), record("b", boxes=[], labels=[]), record("c", areas=[5.0, 6.0])],
        ["cat", "dog"],
        skipped=["x was left out"],
        category_ids=[4, 9],
    )
    made.save(tmp_path / "deep" / "table.arrow")
    opened = Annotations.load(tmp_path / "deep" / "table.arrow")

    assert (opened.classes, opened.skipped, opened.category_ids) == (
        ("cat", "dog"),
        ("x was left out",),
        (4, 9),
    )
    assert (len(opened), opened.ids) == (3, ("a", "b", "c"))
    assert opened.widths.tolist() == [64] * 3
    assert opened.heights.tolist() == [48] * 3
    assert opened.boxes(0).tolist() == [[1, 2, 11, 22], [0, 0, 64, 48]]
    assert opened.boxes(1).shape == (0, 4)
    assert opened.labels(0).tolist() == [1, 0]
    assert opened.ignore(0).tolist() == [False, True]
    assert opened.areas(0).tolist() == [200, 64 * 48]
    assert opened.areas(2).tolist() == [5, 6]
    assert opened.trainable_counts.tolist() == [1, 0, 2]
    assert opened.source(2) == "/somewhere/c.jpg"
    assert opened.all_boxes.dtype == np.float32
    assert opened.fingerprint == made.fingerprint
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["table.arrow"]


def test_the_boxes_of_a_saved_table_are_a_view_of_the_mapped_file(tmp_path: Path) -> None:
    Annotations.from_records([record()], ["cat", "dog"]).save(tmp_path / "table.arrow")
    assert not Annotations.load(tmp_path / "table.arrow").all_boxes.flags.owndata


@pytest.mark.parametrize(
    "change",
    [
        {"boxes": [[1, 2, 11, 22], [0, 0, 64, 47]]},
        {"labels": [1, 1]},
        {"ignore": [True, False]},
        {"areas": [1, 2]},
        {"width": 65},
        {"image": b"pixels"},
    ],
)
def test_the_fingerprint_follows_content(change: dict[str, Any]) -> None:
    classes = ["cat", "dog"]
    plain = Annotations.from_records([record()], classes)
    assert Annotations.from_records([record(**change)], classes).fingerprint != plain.fingerprint
    assert Annotations.from_records([record()], ["cat", "cow"]).fingerprint != plain.fingerprint


def test_the_fingerprint_does_not_depend_on_the_folder() -> None:
    here, there = (
        Annotations.from_records([record(path=path)], ["c", "d"]) for path in ("/a/1.jpg", "/b/1.jpg")
    )
    assert here.fingerprint == there.fingerprint
    assert len(here.fingerprint) == 16


def test_bad_tables_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'a' occurs twice"):
        Annotations.from_records([record(), record()], ["cat", "dog"])
    with pytest.raises(DataError, match="no image is left"):
        Annotations.from_records([], ["cat"])
    with pytest.raises(ValueError, match="2 boxes, 1 labels"):
        Annotations.from_records([record(labels=[1])], ["cat", "dog"])
    with pytest.raises(DataError, match=r"gone\.arrow: no such annotation table"):
        Annotations.load(tmp_path / "gone.arrow")
    (tmp_path / "bad.arrow").write_bytes(b"ARROW1, almost")
    with pytest.raises(DataError, match=r"bad\.arrow: not a drcnn annotation table"):
        Annotations.load(tmp_path / "bad.arrow")
