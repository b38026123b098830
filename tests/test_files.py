"""Files on a disk that is really full: a small one in memory, which only root can mount."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from drcnn import files
from drcnn.files import DiskFullError, put_aside, replacing, require_space, waiting_for_space, write_text
from tests.damage import Filler, small_disk


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", megabytes=1) as folder:
        yield folder


@pytest.mark.faults
def test_a_full_disk_keeps_the_old_file(disk: Path) -> None:
    path = disk / "result.json"
    write_text(path, "old")
    Filler(disk)
    with pytest.raises(
        DiskFullError, match=r"no space left in .*disk to write result.json: 0.\d MB are free; free"
    ):
        write_text(path, "new" * 10000)
    assert path.read_text() == "old"
    assert {file.name for file in disk.iterdir()} == {"result.json", "filler"}


@pytest.mark.faults
def test_a_write_waits_for_space(disk: Path) -> None:
    said: list[str] = []
    filler = Filler(disk)
    threading.Timer(1.5, filler.remove).start()
    waiting_for_space(lambda: write_text(disk / "a", "new" * 10000), said.append)
    assert (disk / "a").stat().st_size == 30000
    (line,) = said
    assert "waiting for space, 5 minutes at most" in line


@pytest.mark.faults
def test_space_is_probed(disk: Path) -> None:
    filler = Filler(disk)
    with pytest.raises(DiskFullError):
        require_space(disk)
    assert [path.name for path in disk.iterdir()] == ["filler"]
    filler.remove()
    require_space(disk)
    assert not list(disk.iterdir())


@pytest.mark.faults
def test_waiting_ends(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "SECONDS", 0.0)
    Filler(disk)
    with pytest.raises(DiskFullError, match="run the same command again"):
        waiting_for_space(lambda: write_text(disk / "a", "new" * 10000), lambda line: None)
    assert not (disk / "a").exists()


def test_other_errors_are_not_waited_for(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        waiting_for_space(lambda: write_text(tmp_path / "absent" / "a", ""), lambda line: None)
    with pytest.raises(ValueError, match="mine"):
        fail_to_write(tmp_path / "a")
    assert not list(tmp_path.iterdir())


def fail_to_write(path: Path) -> None:
    with replacing(path) as draft:
        draft.touch()
        raise ValueError("mine")


def test_what_is_put_aside_replaces_nothing(tmp_path: Path) -> None:
    for kind in ("file", "folder", "file", "folder"):
        path = tmp_path / "a"
        path.mkdir() if kind == "folder" else path.write_text("x")
        assert put_aside(path).exists()
        assert not path.exists()
    assert {path.name for path in tmp_path.iterdir()} == {"a.damaged", *(f"a.damaged-{n}" for n in (2, 3, 4))}


def test_a_folder_in_the_place_of_a_file_is_put_aside(tmp_path: Path) -> None:
    path = tmp_path / "a"
    (path / "inside").mkdir(parents=True)
    write_text(path, "new")
    assert path.read_text() == "new"
    assert (tmp_path / "a.damaged" / "inside").is_dir()
