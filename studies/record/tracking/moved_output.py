"""Lets MLflow's record follow an output folder that was moved.

MLflow keeps absolute addresses of artifacts, and its clients cannot change them: this does, in the tables of
``OUTPUT/mlflow.db``. A folder that was copied has a database of its own, so that the original stays as it is.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from studies.record.tracking.addresses import artifacts_of, default_uri

__all__ = ["follow_move"]

# The columns that hold addresses of artifacts.
ADDRESSES = {
    "experiments": ("artifact_location",),
    "runs": ("artifact_uri",),
    "logged_models": ("artifact_location",),
    "model_versions": ("source", "storage_location"),
}
TIMEOUT = 20  # seconds, as MLflow waits for a lock


def follow_move(output: Path, tag: str) -> None:
    """Correct all addresses in OUTPUT's database that lie where OUTPUT was before.

    Args:
        output: absolute; has a database.
        tag: of runs, by which they are known as this output's.

    Raises:
        sqlite3.Error: the database is locked, or cannot be written.
    """
    root = artifacts_of(default_uri(output), output)
    assert root is not None
    with closing(sqlite3.connect(output / "mlflow.db", timeout=TIMEOUT)) as database:
        found = database.execute("SELECT name, artifact_location FROM experiments").fetchall()
        # MLflow gives its own, empty "Default" the folder where the command was started.
        old_roots = {
            location.removesuffix(ending)
            for name, location in found
            for ending in (f"/{quote(name)}", f"/{name}")
            if name != "Default" and location.endswith(ending)
        }
        has_moved = bool(old_roots - {root})
        is_elsewhere = any(name == "Default" and not place.startswith(root) for name, place in found)
        if not has_moved and not is_elsewhere:
            return
        with database:
            for old in sorted(old_roots - {root}):
                _replace(database, old, root)
            database.execute(
                "UPDATE experiments SET artifact_location = ? WHERE name = 'Default'", (f"{root}/Default",)
            )
            database.execute("UPDATE tags SET value = ? WHERE key = ?", (str(output), tag))


def _replace(database: sqlite3.Connection, old: str, new: str) -> None:
    for table, columns in ADDRESSES.items():
        for column in columns:
            database.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
                (new, len(old) + 1, len(old) + 1, f"{old}/"),
            )
