"""From an annotation table to batches, the same ones for any number of ranks and loader workers.

loader = make_loader(prepared.train, config.data, training=True, batch_size=8, seed=1, epoch=3)
batch = next(iter(loader))
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from drcnn.batch import Batch
from drcnn.config import DataConfig
from drcnn.data.annotations import Annotations, DataError
from drcnn.data.images import decode, flip, resize, resized_sizes
from drcnn.data.plan import BatchPlan, image_key, plan_batches

__all__ = ["BatchLoader", "Beat", "make_loader", "trainable_rows"]

# Takes a sign of life: True for a batch that has arrived, False when all of them have been worked on.
Beat = Callable[[bool], None]

# Training leaves out images with a shorter side below this (pixels), as MMDetection does.
SMALLEST_SIDE = 32


class BatchLoader:
    """The batches of one epoch, on one rank.

    Iterating again gives the same batches: make one loader an epoch.

    Attributes:
        rows: int64[M], the rows of the annotation table that take part, over all ranks.
    """

    def __init__(
        self, loader: DataLoader[Any], plans: Sequence[BatchPlan], rows: NDArray[np.int64], beat: Beat
    ) -> None:
        self._loader, self._plans, self._beat = loader, plans, beat
        self.rows = rows

    def __len__(self) -> int:
        """How many batches the whole epoch has, those before ``first`` included."""
        return len(self._plans)

    def largest(self) -> tuple[int, Callable[[], Batch]]:
        """Return the pixels of the batch that has the most, and a function that loads it here."""
        plan = max(self._plans, key=_pixels)

        def load() -> Batch:
            batch = self._loader.dataset[plan]
            if isinstance(batch, Exception):
                raise batch
            return cast(Batch, batch)

        return _pixels(plan), load

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches in order.

        Raises:
            DataError: an image cannot be decoded, or changed since the data was prepared.
            OSError: a file system failed.
        """
        for batch in self._loader:
            if isinstance(batch, Exception):
                raise batch
            self._beat(True)
            yield batch
        self._beat(False)


def make_loader(
    path: str,
    data: DataConfig,
    *,
    training: bool,
    batch_size: int,
    seed: int = 0,
    epoch: int = 0,
    rank: int = 0,
    world_size: int = 1,
    first: int = 0,
    num_workers: int = 0,
    pin_memory: bool = False,
    beat: Beat = lambda has_batch: None,
) -> BatchLoader:
    """Make the loader of one epoch.

    Training batches are shuffled and full. Their images are flipped with probability ``data.flip``, resized
    to one of ``data.train_short_sides`` if there are any (drawn for each image and epoch), and have the boxes
    that are not ignored. Evaluation batches hold every image once, padded no more than alone, and no boxes
    (G = 0): metrics read the annotations.

    Args:
        path: an annotation table, as ``prepare`` wrote it.
        data: gives the image sizes and the flip probability.
        training: whether the batches are for training or for evaluation.
        batch_size: images of a batch: in training over all ranks, in evaluation of one rank.
        seed: with ``epoch``, determines order, sizes and flips.
        epoch: of the training.
        rank: of this worker among ``world_size``.
        first: the batch to begin with, counted from 0.
        num_workers: processes that decode; 0 decodes in this one.
        pin_memory: use page-locked memory, from which a GPU copies faster.
        beat: told of every batch, and of the end.

    Raises:
        DataError: no image has a box to train on, or ``world_size`` does not divide ``batch_size``.
    """
    annotations = Annotations.load(path)
    if training:
        rows = trainable_rows(annotations)
        if not annotations.trainable_counts[rows].any():
            raise DataError(
                f"{path}: none of its {len(annotations)} images can be trained on "
                f"(a box that is not ignored, sides of at least {SMALLEST_SIDE} px); check the training split"
            )
    else:
        rows = np.arange(len(annotations))
    images = _Images(path, data, training=training, seed=seed, epoch=epoch)
    plans = plan_batches(
        images.sizes(annotations, np.arange(len(annotations))),
        rows,
        batch_size=batch_size,
        training=training,
        seed=seed,
        epoch=epoch,
        rank=rank,
        world_size=world_size,
    )
    loader: DataLoader[Any] = DataLoader(
        images,
        sampler=plans[first:],
        batch_size=None,
        num_workers=num_workers,
        collate_fn=_unchanged,
        pin_memory=pin_memory,
        # A generator of its own: starting an epoch must not advance the global one.
        generator=torch.Generator().manual_seed(0),
    )
    return BatchLoader(loader, plans, rows, beat)


def trainable_rows(annotations: Annotations) -> NDArray[np.int64]:
    """Return int64[M], the images with a box and no side below 32 pixels.

    As MMDetection does, an image whose boxes are all ignored (VOC's difficult, COCO's crowd) is kept: all its
    proposals are negatives.
    """
    large = np.minimum(annotations.widths, annotations.heights) >= SMALLEST_SIDE
    return np.flatnonzero((np.diff(annotations.offsets) > 0) & large)


class _Images(Dataset[Any]):
    """Maps the plan of a batch to the batch. Holds a path, so that it is cheap to send to a worker."""

    def __init__(self, path: str, data: DataConfig, *, training: bool, seed: int, epoch: int) -> None:
        self.path = path
        self.data = data
        self.training = training
        self.seed = seed
        self.epoch = epoch
        self._opened: Annotations | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def sizes(self, annotations: Annotations, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """int64[M, 2], (width, height) of these images after resizing in this epoch."""
        choices = self.data.train_short_sides
        short_side: ArrayLike | None = self.data.short_side
        if self.training and choices is not None:
            keys = [image_key(self.seed, self.epoch, row) for row in rows.tolist()]
            short_side = [choices[int(_fraction(key, "scale") * len(choices))] for key in keys]
        return resized_sizes(
            annotations.widths[rows],
            annotations.heights[rows],
            short_side=short_side,
            long_side=self.data.long_side,
        )

    def __getitem__(self, plan: BatchPlan) -> Batch | Exception:
        if self._opened is None:
            self._opened = Annotations.load(self.path)
        try:
            return self._collate(self._opened, plan)
        except (DataError, OSError) as error:
            # Raised in a worker, it would arrive as a page of traceback; BatchLoader raises it unchanged.
            return error

    def _collate(self, annotations: Annotations, plan: BatchPlan) -> Batch:
        keys = [image_key(self.seed, self.epoch, row) for row in plan.rows]
        loaded = [self._load(annotations, row, key) for row, key in zip(plan.rows, keys, strict=True)]
        return Batch.padded(
            [image for image, _, _, _ in loaded],
            [scale for _, scale, _, _ in loaded],
            [(boxes, labels) for _, _, boxes, labels in loaded],
            rows=plan.rows,
            keys=keys,
            height=plan.height,
            width=plan.width,
        )

    def _load(
        self, annotations: Annotations, row: int, key: int
    ) -> tuple[Tensor, tuple[float, float], Tensor, Tensor]:
        """Return the image as uint8[3, h, w], its (x, y) scale, boxes and labels, all transformed."""
        name, source = annotations.ids[row], annotations.source(row)
        image = decode(source, name)
        width, height = int(annotations.widths[row]), int(annotations.heights[row])
        if tuple(image.shape[-2:]) != (height, width):
            raise DataError(
                f"{source if isinstance(source, str) else name}: is {image.shape[2]}x{image.shape[1]} pixels "
                f"but was {width}x{height} when the data was prepared; prepare it again"
            )
        kept = ~annotations.ignore(row) if self.training else np.zeros(len(annotations.labels(row)), np.bool_)
        boxes = torch.from_numpy(annotations.boxes(row)[kept])
        labels = torch.from_numpy(annotations.labels(row)[kept].astype(np.int64))
        new_width, new_height = self.sizes(annotations, np.array([row]))[0].tolist()
        image, boxes = resize(image, boxes, (new_width, new_height))
        if self.training and _fraction(key, "flip") < self.data.flip:
            image, boxes = flip(image, boxes)
        return image, (new_width / width, new_height / height), boxes, labels


def _fraction(key: int, purpose: str) -> float:
    """A number in [0, 1) that depends on the key and the purpose."""
    digest = hashlib.blake2b(f"{key}/{purpose}".encode(), digest_size=7).digest()
    # 53 bits are what a float holds: with more, the largest would round up to 1.
    return (int.from_bytes(digest, "little") >> 3) / 2**53


def _pixels(plan: BatchPlan) -> int:
    return len(plan.rows) * plan.height * plan.width


def _unchanged(batch: Any) -> Any:
    return batch
