"""An output folder's identity: by it a shared MLflow server tells its runs from those of other folders.

It is an id kept in the folder, so that it stays when the folder is moved, or used by another head with the
same ``--storage``. The folder's path would not do: two machines may have the same.
"""

from __future__ import annotations

import logging
import uuid
from pathlib import Path

from drcnn.locks import file_lock
from drcnn.sealed import DamagedFileError, read_sealed, write_sealed

__all__ = ["IDENTITY", "output_identity"]

logger = logging.getLogger(__name__)

# In OUTPUT: its id, and the absolute path that it had when it was used last.
IDENTITY = ".identity"


def output_identity(output: Path) -> str:
    """The id of an absolute output folder, made when it is first asked for; a copy gets one of its own."""
    path = output / IDENTITY
    # Launches of two studies may ask at once.
    with file_lock(output / f"{IDENTITY}.lock"):
        own_id, place = _read(path)
        is_copy = bool(own_id) and place != str(output) and _read(Path(place, IDENTITY))[0] == own_id
        if is_copy or not own_id:
            own_id, place = uuid.uuid4().hex, ""
        if place != str(output):
            write_sealed(path, {"id": own_id, "place": str(output)})
    return own_id


def _read(path: Path) -> tuple[str, str]:
    """The id and the path in a file; empty ones where there is no such file."""
    try:
        content = read_sealed(path)
        return str(content["id"]), str(content["place"])
    except OSError:
        return "", ""
    except (DamagedFileError, KeyError) as error:
        logger.warning("%s: a shared MLflow server gets new runs of this folder's studies", error)
        return "", ""
