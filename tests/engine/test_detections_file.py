from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from drcnn.engine.detections_file import DETECTIONS, has_detections, read_detections, write_detections
from drcnn.sealed import DamagedFileError
from tests.damage import DAMAGES


@pytest.fixture
def detections() -> pa.Table:
    values = np.random.default_rng(0).random((5, 40)).astype(np.float32)
    columns = dict(zip(("score", "x1", "y1", "x2", "y2"), values, strict=True))
    return pa.table({"image_id": [f"{n // 8}" for n in range(40)], "label": pa.array([1] * 40), **columns})


def test_no_flipped_bit_is_believed(detections: pa.Table, tmp_path: Path) -> None:
    write_detections(tmp_path, detections)
    path = tmp_path / DETECTIONS
    whole = path.read_bytes()
    noticed = 0
    for place in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            assert read_detections(tmp_path).equals(detections)
        except DamagedFileError:
            noticed += 1
    assert noticed > len(whole) / 6


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_and_mended_by_writing(damage: str, detections: pa.Table, tmp_path: Path) -> None:
    write_detections(tmp_path, detections)
    assert has_detections(tmp_path)
    DAMAGES[damage](tmp_path / DETECTIONS)
    assert not has_detections(tmp_path)
    expected = FileNotFoundError if damage == "deleted" else DamagedFileError
    with pytest.raises(expected, match=DETECTIONS):
        read_detections(tmp_path)
    write_detections(tmp_path, detections)
    assert read_detections(tmp_path).equals(detections)


def test_files_without_checksums_are_read(detections: pa.Table, tmp_path: Path) -> None:
    pq.write_table(detections, tmp_path / DETECTIONS)
    assert read_detections(tmp_path).equals(detections)
