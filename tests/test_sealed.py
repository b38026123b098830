from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest

from drcnn.sealed import DamagedFileError, read_sealed, write_sealed

CONTENT = {"epoch": 3, "AP": 0.123456789, "none": None, "undefined": float("nan"), "names": ["ä", "b"]}


def test_what_was_written_is_read(tmp_path: Path) -> None:
    write_sealed(tmp_path / "a.json", CONTENT)
    found = read_sealed(tmp_path / "a.json")
    assert json.dumps(found) == json.dumps(CONTENT)


def test_no_flipped_bit_is_believed(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_sealed(path, CONTENT)
    whole = path.read_bytes()
    believed = []
    for place in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        with suppress(DamagedFileError):
            believed.append(read_sealed(path))
    # What is left are spaces, and the checksum's own name.
    assert believed
    assert {json.dumps({key: found[key] for key in CONTENT}) for found in believed} == {json.dumps(CONTENT)}


def test_a_file_without_a_checksum_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"epoch": 3}')
    assert read_sealed(tmp_path / "a.json") == {"epoch": 3}


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"epoch": 3, "sha256": 5}'])
def test_what_is_no_such_file_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DamagedFileError, match=r"a\.json is damaged"):
        read_sealed(tmp_path / "a.json")


def test_a_folder_in_its_place_is_put_aside(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for _ in range(2):
        path.unlink(missing_ok=True)
        path.mkdir()
        with pytest.raises(DamagedFileError, match="it is a folder"):
            read_sealed(path)
        write_sealed(path, CONTENT)
    assert read_sealed(path)["epoch"] == 3
    assert len([*tmp_path.glob("a.json.damaged*")]) == 2
