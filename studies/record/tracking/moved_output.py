"""Lets MLflow's record follow an output folder that was moved.

Runs of a shared server are known as an output's by its path; the folder itself remembers the paths it had.

MLflow keeps absolute addresses of artifacts, and its clients cannot change them: this does, in the tables of
``OUTPUT/mlflow.db``. A folder that was copied has a database of its own, so that the original stays as it is.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from drcnn.files import replacing
from studies.record.tracking.addresses import artifacts_of, default_uri

__all__ = ["follow_move", "known_places"]

# In OUTPUT: every absolute path that it had, the newest last.
PLACES = ".places"

# The columns that hold addresses of artifacts.
ADDRESSES = {
    "experiments": ("artifact_location",),
    "runs": ("artifact_uri",),
    "logged_models": ("artifact_location",),
    "model_versions": ("source", "storage_location"),
}
TIMEOUT = 20  # seconds, as MLflow waits for a lock


def known_places(output: Path) -> list[str]:
    """Every path that an absolute output folder had, its own last; of a copy, only its own."""
    file, place = output / PLACES, str(output)
    try:
        places = file.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except FileNotFoundError:
        places = []
    if places and places[-1] != place and Path(places[-1], PLACES).exists():
        places = []
    if places[-1:] != [place]:
        places = [*(each for each in places if each != place), place]
        with replacing(file) as draft:
            draft.write_text("\n".join(places) + "\n", encoding="utf-8", errors="surrogateescape")
    return places


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
