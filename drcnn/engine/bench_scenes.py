"""Inputs of the benchmark: large scenes of digits, and weights of a detector trained briefly on digits."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path

import torch
from torch import Tensor

from drcnn.batch import Batch
from drcnn.config import Config, DetectorConfig
from drcnn.data.annotations import Annotations
from drcnn.data.digits import make_digits
from drcnn.data.images import decode
from drcnn.data.prepare import prepare
from drcnn.engine.checkpoint import load_detector
from drcnn.engine.run_options import RunOptions
from drcnn.engine.train import fit
from drcnn.recipes import recipe

__all__ = ["brief_weights", "scenes"]

# Digit sheets have sides of at most this. Every second place of a scene stays empty: 480x608 pixels then hold
# about 15 objects.
CELL = 192
EMPTY = 2
TRAIN_IMAGES = 256


def scenes(images: int, height: int, width: int) -> Batch:
    """Return a batch of scenes: digit sheets on a grey background, with their ground truth.

    Args:
        images: N.
        height: in pixels, a multiple of 32 and at least 192; ``width`` likewise.
    """
    tops, lefts = range(0, height - CELL + 1, CELL), range(0, width - CELL + 1, CELL)
    places = list(itertools.product(tops, lefts))[::EMPTY]
    sheets = make_digits(images * len(places), split="val")
    pixels = torch.full((images, 3, height, width), 60, dtype=torch.uint8)
    boxes: list[Tensor] = []
    labels: list[Tensor] = []
    for image in range(images):
        targets = [
            _paint(sheets, image * len(places) + number, pixels[image], place)
            for number, place in enumerate(places)
        ]
        boxes.append(torch.cat([sheet_boxes for sheet_boxes, _ in targets]))
        labels.append(torch.cat([sheet_labels for _, sheet_labels in targets]))
    return Batch(
        images=pixels,
        sizes=torch.tensor([[float(height), float(width)]] * images),
        scales=torch.ones(images, 2),
        rows=torch.arange(images),
        keys=torch.arange(images),
        boxes=torch.nn.utils.rnn.pad_sequence(boxes, batch_first=True),
        labels=torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-1),
    )


def _paint(sheets: Annotations, row: int, canvas: Tensor, place: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Paint a sheet onto ``canvas``, in place; return its boxes and labels there."""
    top, left = place
    sheet = decode(sheets.source(row))
    canvas[:, top : top + sheet.shape[1], left : left + sheet.shape[2]] = sheet
    boxes = torch.tensor(sheets.boxes(row)) + torch.tensor([left, top, left, top], dtype=torch.float32)
    return boxes, torch.tensor(sheets.labels(row), dtype=torch.int64)


def brief_weights(config: DetectorConfig, folder: Path, options: RunOptions) -> dict[str, Tensor]:
    """Return the weights of ``config``'s backbone in a ``fpn`` trained briefly on digits; kept in ``folder``.

    With random weights no score passes the threshold, and the work on detections would look free.
    """
    changes = {
        **recipe("laptop", "digits"),
        "detector.variant": "fpn",
        "detector.backbone": config.backbone,
        "detector.backbone_width": 1.0,
        # Trained from scratch; the benchmark then freezes its statistics.
        "detector.weights": "none",
        "detector.norm": "batch",
        "detector.frozen_stages": 0,
        "detector.fpn_channels": config.fpn_channels,
        "detector.fc_width": config.fc_width,
        "data.train_images": TRAIN_IMAGES,
        "data.val_images": 16,
        "training.epochs": 1,
    }
    trial = Config().with_changes(changes)
    folder = folder / hashlib.sha256(trial.to_yaml().encode()).hexdigest()[:12]
    fit(trial, prepare(trial.data, folder / "data"), folder, report=lambda _: None, options=options)
    detector, _ = load_detector(folder / "last.safetensors")
    return detector.state_dict()
