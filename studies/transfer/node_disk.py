"""Keeps a node's disk from filling with checkpoints that the object store has.

A trial's weights are hundreds of megabytes. They are deleted here as soon as its work here has ended; those
that a killed, pruned or moved trial has left go when the next trial comes. Where all nodes share OUTPUT there
is no other copy, and nothing is deleted.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path

from filelock import Timeout

from drcnn.engine.checkpoint_header import PREVIOUS
from drcnn.locks import LOCK, file_lock
from drcnn.trained_model import CHECKPOINT
from studies.transfer.trial_store import TrialStore

__all__ = ["drop_idle_weights", "drop_weights"]

# Seconds. Weights that have just come are for somebody who has not begun yet.
YOUNG = 600.0


def drop_weights(store: TrialStore, folder: Path) -> int:
    """Delete a trial's checkpoints here if the store has the last one; the caller holds the trial's lock.

    Returns:
        How many bytes are free again.
    """
    found = [path for name in (CHECKPOINT, PREVIOUS) if (path := folder / name).is_file()]
    if not found or not store.has_copy(folder / CHECKPOINT):
        return 0
    freed = sum(path.stat().st_size for path in found)
    for path in found:
        path.unlink()
    return freed


def drop_idle_weights(store: TrialStore, trials: Path, needed: Collection[Path]) -> int:
    """Delete the checkpoints of trials that nobody works with here.

    Args:
        store: of the trials.
        trials: the folder of all trials' folders.
        needed: folders to leave alone.

    Returns:
        How many bytes are free again.
    """
    freed = 0
    for last in trials.glob(f"*/{CHECKPOINT}"):
        folder = last.parent
        try:
            if folder in needed or time.time() - last.stat().st_mtime < YOUNG:
                continue
            with ExitStack() as locks:
                # Who evaluates a detector locks the evaluation's folder only.
                for lock in (folder / LOCK, *folder.glob(f"evaluations/*/{LOCK}")):
                    locks.enter_context(file_lock(lock, timeout=0))
                freed += drop_weights(store, folder)
        except (Timeout, FileNotFoundError):
            continue
    return freed
