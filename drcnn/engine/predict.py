"""A trained detector as a function: from images to boxes in their pixels.

    predictor = Predictor(Path("runs/one/last.safetensors"))
    for found in predictor.predict(["street.jpg", pixels]):
        print(found.boxes, found.scores, found.labels)

It resizes and detects as evaluation does, so an image gets here the detections that its figures stand for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from drcnn.batch import Batch
from drcnn.config import Config
from drcnn.data.images import decode, resize, resized_sizes
from drcnn.data.plan import BatchPlan, plan_batches
from drcnn.detector.fused import Weights, unchanged_weights
from drcnn.engine.checkpoint import load_detector, read_state
from drcnn.engine.evaluate import BATCH, detect_batch
from drcnn.engine.precision import autocast, require_precision
from drcnn.engine.run_options import RunOptions

__all__ = ["Prediction", "Predictor"]


@dataclass(frozen=True)
class Prediction:
    """The D detections of one image, by falling score.

    Attributes:
        boxes: float32[D, 4], xyxy in pixels of the image as it was given.
        scores: float32[D].
        labels: D names of classes.
        width: of the image in pixels; ``height`` likewise.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: tuple[str, ...]
    width: int
    height: int

    def above(self, score: float) -> Prediction:
        """Return the detections of at least this score."""
        keep = int((self.scores >= score).sum())
        return Prediction(self.boxes[:keep], self.scores[:keep], self.labels[:keep], self.width, self.height)


class Predictor:
    """A checkpoint, loaded once.

    Args:
        checkpoint: ``last.safetensors`` of a trial.
        options: where to run; its loader processes are not used.
        changes: dotted settings of inference or of image size instead of the trained ones, such as
            ``{"detector.score_thr": 0.01}``.

    Attributes:
        classes: names of the K classes.
        config: how it detects.

    Raises:
        CheckpointError: the file is no checkpoint, or the changes ask for another architecture.
        ConfigError: a change is not allowed, or fp16 is asked for without a GPU.
    """

    def __init__(
        self,
        checkpoint: Path,
        options: RunOptions = RunOptions(),  # noqa: B008 - frozen
        changes: Mapping[str, Any] | None = None,
    ) -> None:
        state = read_state(checkpoint)
        self.config = Config.from_yaml(state.config).with_changes(changes or {})
        self.classes = tuple(state.classes)
        require_precision(self.config, options.device)
        options.apply()
        self._device = torch.device(options.device)
        self._detector, _ = load_detector(checkpoint, self._device, self.config.detector)
        self._weights: Weights = {}

    @torch.inference_mode()
    def predict(self, images: Sequence[NDArray[np.uint8] | str | Path]) -> list[Prediction]:
        """Detect on images; an image's detections do not depend on the others.

        Args:
            images: each uint8[H, W, 3] in RGB, or the path of a file. All are held in memory.

        Raises:
            DataError: a file is missing, damaged or no image.
            ValueError: an array is not uint8[H, W, 3].
        """
        pixels = [_pixels(image) for image in images]
        if not pixels:
            return []
        data = self.config.data
        widths, heights = [image.shape[2] for image in pixels], [image.shape[1] for image in pixels]
        sizes = resized_sizes(widths, heights, short_side=data.short_side, long_side=data.long_side)
        plans = plan_batches(sizes, np.arange(len(pixels)), batch_size=BATCH, training=False)
        found: dict[int, Prediction] = {}
        with autocast(self._device, self.config.evaluation.amp), unchanged_weights(self._weights):
            for plan in plans:
                columns = detect_batch(self._detector, _batch(pixels, sizes, plan).to(self._device))
                for row in plan.rows:
                    found[row] = self._of(row, columns, widths[row], heights[row])
        return [found[row] for row in range(len(pixels))]

    def _of(self, row: int, columns: Mapping[str, NDArray[Any]], width: int, height: int) -> Prediction:
        """Return one image's part of a batch's detections, as ``detect_batch`` gives them."""
        own = np.flatnonzero(columns["row"] == row)
        own = own[np.argsort(-columns["score"][own], kind="stable")]
        boxes = np.stack([columns[side][own] for side in ("x1", "y1", "x2", "y2")], axis=1)
        labels = tuple(self.classes[label] for label in columns["label"][own])
        return Prediction(boxes, columns["score"][own], labels, width, height)


def _pixels(image: NDArray[np.uint8] | str | Path) -> Tensor:
    """Return uint8[3, H, W]."""
    if isinstance(image, str | Path):
        return decode(str(image))
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"an image is uint8[height, width, 3] in RGB, got {image.dtype}{list(image.shape)}")
    return torch.from_numpy(np.array(image, order="C")).permute(2, 0, 1)


def _batch(pixels: Sequence[Tensor], sizes: NDArray[np.int64], plan: BatchPlan) -> Batch:
    """Resize the images of a plan and pad them; there is no ground truth."""
    nothing = torch.zeros(0, 4), torch.zeros(0).long()
    images, scales = [], []
    for row in plan.rows:
        width, height = sizes[row].tolist()
        image, _ = resize(pixels[row], nothing[0], (width, height))
        images.append(image)
        scales.append((width / pixels[row].shape[2], height / pixels[row].shape[1]))
    count = len(images)
    return Batch.padded(
        images,
        scales,
        [nothing] * count,
        rows=plan.rows,
        keys=[0] * count,
        height=plan.height,
        width=plan.width,
    )
