"""Folders that one process at a time works in; the other processes are real."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from drcnn.locks import HeldError, Holder, file_lock, held

HOLD = """
import sys, time
from pathlib import Path
from drcnn.locks import held
with held(Path(sys.argv[1]), "mine is running"):
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def another(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that works in a folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_second_process_is_told_who_works_there_until_that_one_is_killed(tmp_path: Path) -> None:
    with another(tmp_path / "run") as process:
        who = f"process {process.pid} on {socket.gethostname()} since 2"
        with (
            pytest.raises(HeldError, match=f"mine is running: {who}"),
            held(tmp_path / "run", "mine is running"),
        ):
            pass
    with held(tmp_path / "run", "mine is running"):
        pass


@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b"", b"{", b"[]", b'{"host": "a", "pid": 1e999, "since": 1}']
)
def test_a_holder_that_cannot_be_read_is_unknown(tmp_path: Path, content: bytes) -> None:
    with another(tmp_path):
        (tmp_path / ".holder").write_bytes(content)
        with (
            pytest.raises(HeldError, match="on an unknown machine since an unknown time"),
            held(tmp_path, "a"),
        ):
            pass


def test_a_folder_in_the_holders_place_is_no_matter(tmp_path: Path) -> None:
    with another(tmp_path):
        (tmp_path / ".holder").unlink()
        (tmp_path / ".holder").mkdir()
        with pytest.raises(HeldError, match="a: another process; wait"), held(tmp_path, "a"):
            pass
    with held(tmp_path, "a"):
        assert Holder.from_json((tmp_path / ".holder").read_text()).host == socket.gethostname()


def test_a_folder_in_a_locks_place_is_put_aside(tmp_path: Path) -> None:
    (tmp_path / ".lock" / "inside").mkdir(parents=True)
    with held(tmp_path, "a"):
        assert (tmp_path / ".lock").is_file()
    assert (tmp_path / ".lock.damaged" / "inside").is_dir()
    (tmp_path / "b").mkdir()
    with file_lock(tmp_path / "b"):
        assert (tmp_path / "b").is_file()
