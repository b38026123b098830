from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from studies.definition.errors import StudyError
from studies.resources import temporary
from studies.resources.temporary import use_short_temporary_folder
from tests.damage import Filler, small_disk


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_TMPDIR", "TMPDIR", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(tempfile, "tempdir", None)


def test_a_folder_that_fits_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        use_short_temporary_folder()
        assert os.environ["TMPDIR"] == folder


@pytest.mark.parametrize("name", ["RAY_TMPDIR", "TMPDIR"])
def test_a_long_folder_is_replaced(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setenv(name, str(long))
    use_short_temporary_folder()
    assert os.environ["TMPDIR"] == "/tmp"
    assert "RAY_TMPDIR" not in os.environ
    assert tempfile.gettempdir() == "/tmp"


def test_one_that_cannot_be_written_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(temporary, "CANDIDATES", ("/proc", "/dev/shm"))
    use_short_temporary_folder()
    assert os.environ["TMPDIR"] == "/dev/shm"


def test_where_none_will_do_each_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(temporary, "CANDIDATES", ("/absent", "/" + "x" * 80))
    with pytest.raises(StudyError, match=r"/absent cannot be written \(No such.*; /x+ is too long; set RAY"):
        use_short_temporary_folder()


@pytest.mark.faults
def test_a_full_folder_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with small_disk(tmp_path / "d", megabytes=3) as disk:
        monkeypatch.setattr(temporary, "LONGEST", 10000)
        monkeypatch.setenv("TMPDIR", str(disk))
        use_short_temporary_folder()
        assert os.environ["TMPDIR"] == str(disk)
        Filler(disk)
        use_short_temporary_folder()
        assert os.environ["TMPDIR"] != str(disk)
