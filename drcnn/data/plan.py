"""Assignment of images to batches, and the batches' padded sizes: pure functions of sizes, seed and epoch.

Everything is decided before an image is decoded: any number of ranks or loader workers sees the same batches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drcnn.data.annotations import DataError

__all__ = ["STRIDE", "BatchPlan", "image_key", "plan_batches"]

# Sides of a batch are multiples of this: the pyramid's fifth level (stride 64) copes with odd sizes, the
# backbone's C5 (stride 32) should not.
STRIDE = 32


@dataclass(frozen=True)
class BatchPlan:
    """One rank's part of one batch.

    Attributes:
        rows: rows of the annotation table, in order.
        height: of the padded batch, in pixels, the same on all ranks; ``width`` likewise.
    """

    rows: tuple[int, ...]
    height: int
    width: int


def plan_batches(
    sizes: NDArray[np.int64],
    rows: NDArray[np.int64],
    *,
    batch_size: int,
    training: bool,
    seed: int = 0,
    epoch: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> list[BatchPlan]:
    """Plan one epoch.

    In training a batch has either wide or tall images (w/h > 1 or not), the order depends on (seed, epoch),
    and every batch is full: the last one of each group is filled from the group's beginning. Each rank takes
    its share of each batch, in order.

    In evaluation each row occurs once, and a batch has only images that are padded to the same size: padding
    changes an image's features at its border, so its detections would depend on its batch. Ranks take whole
    batches in turn.

    Args:
        sizes: int64[N, 2], (width, height) of every row after resizing in this epoch.
        rows: int64[M], the rows that take part.
        batch_size: images of a batch: in training over all ranks, in evaluation of one rank.
        training: whether the batches are for training or for evaluation.
        rank: of ``world_size``.

    Raises:
        DataError: there are no rows, or the ranks cannot share a batch evenly.
    """
    if len(rows) == 0:
        raise DataError("no image is left to make batches of; check the split and its boxes")
    if not training:
        return _evaluation_batches(sizes, rows, batch_size)[rank::world_size]
    if batch_size < 1 or batch_size % world_size:
        raise DataError(
            f"batch_size {batch_size} cannot be shared by {world_size} workers; "
            f"make it a multiple of {world_size}"
        )
    share = batch_size // world_size
    plans = []
    for batch in _training_batches(sizes, rows, batch_size, np.random.default_rng([seed, epoch])):
        width, height = _padded(sizes[batch].max(0)).tolist()
        own_rows = batch[rank * share : (rank + 1) * share]
        plans.append(BatchPlan(tuple(own_rows.tolist()), height, width))
    return plans


def image_key(seed: int, epoch: int, row: int) -> int:
    """Return 63 random bits that depend on the arguments only.

    All random decisions for an image in an epoch derive from its key, whichever worker loads it.
    """
    digest = hashlib.blake2b(f"{seed}/{epoch}/{row}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def _training_batches(
    sizes: NDArray[np.int64], rows: NDArray[np.int64], batch_size: int, rng: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    wide = sizes[rows, 0] > sizes[rows, 1]
    batches: list[NDArray[np.int64]] = []
    for group in (rows[wide], rows[~wide]):
        # np.resize repeats from the beginning as often as necessary.
        shuffled = rng.permutation(group)
        full = np.resize(shuffled, -(-len(group) // batch_size) * batch_size)
        batches += [full[start : start + batch_size] for start in range(0, len(full), batch_size)]
    yield from (batches[index] for index in rng.permutation(len(batches)))


def _evaluation_batches(
    sizes: NDArray[np.int64], rows: NDArray[np.int64], batch_size: int
) -> list[BatchPlan]:
    plans = []
    padded = _padded(sizes[rows])
    for width, height in np.unique(padded, axis=0).tolist():
        group = rows[(padded == (width, height)).all(axis=1)].tolist()
        for start in range(0, len(group), batch_size):
            plans.append(BatchPlan(tuple(group[start : start + batch_size]), height, width))
    return plans


def _padded(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """The next multiples of the stride."""
    padded: NDArray[np.int64] = -(-sizes // STRIDE) * STRIDE
    return padded
