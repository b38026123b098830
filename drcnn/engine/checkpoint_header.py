"""The header of a checkpoint, read and verified without torch, which a driver has no other use for.

It holds three texts: ``state``, JSON (``drcnn.engine.checkpoint.TrainingState``); ``tensors``, the checksum
of all tensors; and ``checksum``, that of these two. Files of earlier versions have the first only, and are
read as they are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from drcnn.engine.errors import DamagedCheckpointError
from drcnn.trained_model import CHECKPOINT

__all__ = ["PREVIOUS", "Header", "damaged", "header_texts", "newest_header", "read_header"]

# Beside ``last.safetensors`` until the trial has finished: the epoch before. A dot file, which no store
# uploads: object stores verify what they hold.
PREVIOUS = f".previous-{CHECKPOINT}"


@dataclass(frozen=True)
class Header:
    """The state as it was saved, and the checksum of the tensors; empty in files of earlier versions."""

    state: Mapping[str, Any]
    tensors: str


def header_texts(state: Mapping[str, Any], tensors: str) -> dict[str, str]:
    """The texts of a header.

    Args:
        state: what JSON can hold.
        tensors: their checksum.
    """
    text = json.dumps(state)
    return {"state": text, "tensors": tensors, "checksum": _checksum(text, tensors)}


def read_header(path: Path) -> Header:
    """Read and verify a checkpoint's header.

    Raises:
        DamagedCheckpointError: the file is missing, damaged or no checkpoint of ours.
    """
    try:
        with safe_open(path, "np") as file:
            texts = file.metadata() or {}
        state = json.loads(texts["state"])
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        why = "no such file" if not path.exists() else "a folder" if path.is_dir() else _why(error)
        raise damaged(path, f"is not a checkpoint of drcnn, or damaged ({why})") from None
    if not isinstance(state, dict) or not isinstance(state.get("config"), str):
        raise damaged(path, "is not a checkpoint of drcnn (its training state has no configuration)")
    tensors = texts.get("tensors", "")
    if "checksum" in texts and texts["checksum"] != _checksum(texts["state"], tensors):
        raise damaged(path, "is damaged: its header does not match its checksum")
    return Header(state, tensors)


def newest_header(folder: Path) -> Header | None:
    """The header of a trial's newest checkpoint whose header is whole; none if there is none."""
    for name in (CHECKPOINT, PREVIOUS):
        try:
            return read_header(folder / name)
        except DamagedCheckpointError:
            continue
    return None


def damaged(path: Path, what: str) -> DamagedCheckpointError:
    """The error of a checkpoint that cannot be believed, with what to do about it."""
    return DamagedCheckpointError(
        f"{path} {what}; put a whole copy in its place, or delete the folder {path.parent} and run the "
        "command that trained it again"
    )


def _checksum(state: str, tensors: str) -> str:
    return hashlib.sha256(f"{tensors} {state}".encode()).hexdigest()


def _why(error: Exception) -> str:
    if isinstance(error, KeyError):
        return "it has no training state"
    return " ".join(str(error).split())[:150] or type(error).__name__
