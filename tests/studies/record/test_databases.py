"""Databases that are damaged, half made, held by others, or made by two at once: with real SQLite files."""

from __future__ import annotations

import logging
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from studies.definition.errors import StudyError
from studies.record.databases import ready_database

pytestmark = pytest.mark.faults

ROWS = 2000


def make(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE rows (number INTEGER, text TEXT)")
        database.executemany("INSERT INTO rows VALUES (?, ?)", [(row, "x" * 100) for row in range(ROWS)])
        database.execute("CREATE TABLE made (yes INTEGER)")


def is_whole(database: sqlite3.Connection) -> bool:
    return database.execute("SELECT * FROM made").fetchone() is None


def ready(path: Path, patience: float = 5.0) -> None:
    ready_database(path, make, is_whole, "it is filled again", patience)


def count(path: Path) -> int:
    with closing(sqlite3.connect(path)) as database:
        found: int = database.execute("SELECT count(*) FROM rows").fetchone()[0]
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "an output" / "a#1?.db"
    ready(found)
    return found


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096:8192] = bytes(byte ^ 0xFF for byte in content[4096:8192])
    path.write_bytes(content)


def spoil_header(path: Path) -> None:
    path.write_bytes(b"not a database" + path.read_bytes()[14:])


def empty(path: Path) -> None:
    os.truncate(path, 0)


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "something").touch()


def unmake(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("DROP TABLE made")


@pytest.mark.parametrize("damage", [truncate, flip, spoil_header, empty, replace_by_folder, unmake])
def test_what_is_damaged_is_put_aside_and_made_again(
    path: Path, damage: object, caplog: pytest.LogCaptureFixture
) -> None:
    assert callable(damage)
    damage(path)
    path.with_name(path.name + "-journal").touch()
    with caplog.at_level(logging.WARNING):
        ready(path)
    assert count(path) == ROWS
    aside = path.with_name(f"{path.name}.damaged")
    assert f"put aside as {aside.name}; it is filled again" in caplog.text
    assert aside.with_name(f"{aside.name}-journal").exists(), "another database would be damaged by it"
    caplog.clear()
    ready(path)
    assert not caplog.text


def test_a_sound_database_stays_as_it_is(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("DELETE FROM rows WHERE number > 9")
    ready(path)
    assert count(path) == 10
    assert not caplog.text


def test_one_that_others_hold_is_waited_for_and_then_named(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StudyError, match=r"a#1\?\.db: another process has held this database for 1 s"):
            ready(path, patience=1.0)
        assert "held by another process; waiting up to 1 s" in caplog.text
        release = threading.Timer(2.0, lambda: other.execute("ROLLBACK"))
        release.start()
        ready(path, patience=60.0)
        release.join()
    assert count(path) == ROWS


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "my.db", Path("/proc/nowhere/my.db")):
        with pytest.raises(StudyError, match=rf"{place}: a database cannot be made there"):
            ready(place)


MAKE = """
import sqlite3, sys, time
from pathlib import Path
from studies.record.databases import ready_database
def make(path):
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE rows (number INTEGER)")
    print("making", flush=True)
    time.sleep(float(sys.argv[2]))
    database.execute("CREATE TABLE made (yes INTEGER)")
    database.close()
ready_database(Path(sys.argv[1]), make, lambda database: database.execute("SELECT * FROM made") or True, "")
"""


def start(path: Path, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", MAKE, str(path), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_kill_while_it_is_made_leaves_none(tmp_path: Path, number: int) -> None:
    path = tmp_path / "my.db"
    process = start(path, 60)
    assert process.stdout is not None
    assert process.stdout.readline() == "making\n"
    process.send_signal(number)
    process.communicate()
    assert not path.exists()
    ready(path)
    assert count(path) == ROWS
    assert {each.name for each in tmp_path.iterdir()} == {"my.db", ".my.db.lock"}


def test_of_two_at_once_one_makes_it(tmp_path: Path) -> None:
    path = tmp_path / "my.db"
    both = [start(path, 1) for _ in range(2)]
    outputs = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert sorted(out for out, _ in outputs) == ["", "making\n"]
    assert {each.name for each in tmp_path.iterdir()} == {"my.db", ".my.db.lock"}
