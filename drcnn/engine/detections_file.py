"""``detections.parquet``: a trial's detections on the split that it is judged by, with checksums.

Parquet's own checksums, one a page of a column, are verified at each reading: a wrong bit in a score or a box
would change figures. They do not cover the names of the columns, which are checked as well.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from drcnn.files import replacing
from drcnn.sealed import DamagedFileError

__all__ = ["DETECTIONS", "has_detections", "read_detections", "write_detections"]

DETECTIONS = "detections.parquet"
COLUMNS = {"image_id", "label", "score", "x1", "y1", "x2", "y2"}


def write_detections(folder: Path, detections: pa.Table) -> None:
    """Replace a trial's detections; a folder in their place is put aside.

    Raises:
        DiskFullError: there is no space for them.
    """
    path = folder / DETECTIONS
    with replacing(path) as draft:
        pq.write_table(detections, draft, write_page_checksum=True)


def read_detections(folder: Path) -> pa.Table:
    """Read and verify a trial's detections.

    Raises:
        FileNotFoundError: there are none.
        DamagedFileError: the file is damaged.
    """
    path = folder / DETECTIONS
    try:
        table = pq.read_table(path, page_checksum_verification=True)
        if missing := COLUMNS - set(table.column_names):
            raise ValueError(f"no column {', '.join(sorted(missing))}")
        return table
    except FileNotFoundError:
        raise
    # Arrow raises OSError for most damage, and others for some of it.
    except Exception as error:
        why = " ".join(str(error).split())[:150]
        raise DamagedFileError(
            f"{path} is damaged ({why}); delete {folder / 'result.json'} and run the command that made it "
            "again: it detects anew"
        ) from None


def has_detections(folder: Path) -> bool:
    """Whether a trial's detections are there and whole."""
    try:
        read_detections(folder)
    except (FileNotFoundError, DamagedFileError):
        return False
    return True
