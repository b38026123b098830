"""SQLite databases of an output folder, MLflow's and Optuna's: whole or absent, never in between.

A database is made beside its place and moved there when it is whole, by one process at a time: a kill, or
another launch in the same moment, leaves none that is half made. What is damaged is put aside, under a name
that is told, so that the launch can go on with a new one.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from drcnn.files import put_aside
from drcnn.locks import file_lock
from studies.definition.errors import StudyError, one_line

__all__ = ["PATIENCE", "ready_database"]

logger = logging.getLogger(__name__)

# How long to wait for another process that holds a database, in seconds.
PATIENCE = 120.0
# What SQLite keeps beside a database; with another database they would damage it.
COMPANIONS = ("-journal", "-wal", "-shm")
DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
HELD = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def ready_database(
    path: Path,
    make: Callable[[Path], None],
    is_whole: Callable[[sqlite3.Connection], bool],
    loss: str,
    patience: float = PATIENCE,
) -> None:
    """Make a database that is not there; put one aside that is damaged or half made, and make it again.

    Args:
        path: of the database.
        make: makes one at the path that it is given, and closes it.
        is_whole: whether all tables are there; may raise what SQLite raises for missing tables.
        loss: what becomes of the content of one that is put aside, for the line that tells of it.
        patience: how long to wait for another process that holds it, in seconds.

    Raises:
        StudyError: it is held for longer, or cannot be read or written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(path.with_name(f".{path.name}.lock")):
            fault = _fault(path, is_whole, patience)
            if fault:
                aside = put_aside(path, COMPANIONS)
                logger.warning("%s %s: it was put aside as %s; %s", path, fault, aside.name, loss)
            if not path.exists():
                _make(path, make)
    except OSError as error:
        raise StudyError(
            f"{path}: a database cannot be made there: {one_line(error)}; give a folder that can be written"
        ) from None


def _make(path: Path, make: Callable[[Path], None]) -> None:
    # The same name each time, since whoever makes one is alone: what a kill left is removed.
    draft = path.with_name(f".{path.name}.draft")
    try:
        _remove(draft)
        make(draft)
        draft.replace(path)
    finally:
        _remove(draft)


def _remove(draft: Path) -> None:
    for ending in ("", *COMPANIONS):
        draft.with_name(draft.name + ending).unlink(missing_ok=True)


def _fault(path: Path, is_whole: Callable[[sqlite3.Connection], bool], patience: float) -> str:
    """What is wrong with a database, as the end of a sentence; empty if it is sound, or not there."""
    if not path.exists():
        return ""
    if not path.is_file():
        return "is no file"
    if path.stat().st_size == 0:
        return "is empty"
    began = time.monotonic()
    was_told = False
    while True:
        try:
            return _fault_inside(path, is_whole)
        except sqlite3.Error as error:
            # The lower eight bits are the kind of the error, the others say more of it.
            kind = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
            if kind in DAMAGED:
                return f"is damaged ({error})"
            if kind not in HELD:
                raise StudyError(f"{path}: cannot be used: {error}; is its folder writable?") from None
            if not was_told:
                logger.warning("%s is held by another process; waiting up to %.0f s", path, patience)
                was_told = True
            if time.monotonic() - began > patience:
                raise StudyError(
                    f"{path}: another process has held this database for {patience:.0f} s ('fuser' names "
                    "it); end it, then run the same command again: finished trials and epochs are kept"
                ) from None
        time.sleep(0.5)


def _fault_inside(path: Path, is_whole: Callable[[sqlite3.Connection], bool]) -> str:
    with closing(sqlite3.connect(path, timeout=1, isolation_level=None)) as database:
        # Whether it can be written, too.
        database.execute("BEGIN IMMEDIATE")
        database.execute("ROLLBACK")
        (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            return f"is damaged ({one_line(found, 100)})"
        try:
            return "" if is_whole(database) else "was not made to its end"
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_ERROR:
                raise
            return "was not made to its end"  # a table is missing
