"""On which data a run was trained: another run's results must not be taken for this one's."""

from __future__ import annotations

from pathlib import Path

from drcnn.data.annotations import Annotations, DataError
from drcnn.data.prepare import PreparedData
from drcnn.engine.checkpoint import read_state

__all__ = ["data_content", "refuse_changed_data"]


def data_content(data: PreparedData) -> dict[str, dict[str, str]]:
    """Return the digests of each split's images and annotations, by split, wherever the files lie."""
    return {split: Annotations.load(path).content for split, path in data.tables.items()}


def refuse_changed_data(checkpoint: Path, content: dict[str, dict[str, str]]) -> None:
    """Check that a checkpoint was trained and judged on this data.

    Args:
        checkpoint: a file of this or an earlier version, which does not tell its data and is accepted.
        content: what ``data_content`` returns now.

    Raises:
        DataError: it was not; the message names what changed.
        CheckpointError: the file is not one of our checkpoints.
    """
    before = read_state(checkpoint).data
    if not before or before == content:
        return
    changed = []
    for split in {**before, **content}:
        if split not in content or split not in before:
            changed.append(f"the split {split} is {'new' if split in content else 'gone'}")
            continue
        parts = [part for part, digest in content[split].items() if before[split].get(part) != digest]
        if parts:
            changed.append(f"the {' and '.join(parts)} of {split}")
    raise DataError(
        f"{checkpoint.parent} holds a run on other data; since then there changed: {'; '.join(changed)}. "
        "Give another --output to train on the data as it is now, or put the old data back"
    )
