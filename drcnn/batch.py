"""A batch of images with their ground truth: output of the loader, input of the detector.

Shape shorthand used across the project: N images, G ground-truth boxes (padded), A anchors, L levels,
P proposals per image (padded), R RoIs of the whole batch, K foreground classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

__all__ = ["Batch"]


@dataclass(frozen=True)
class Batch:
    """N images padded to one shape, and their ground truth padded to one count.

    Attributes:
        images: uint8[N, 3, H, W], RGB; zeros on the right and at the bottom pad H and W to multiples of 32.
        sizes: float32[N, 2], height and width of each image before padding.
        scales: float32[N, 2], (x, y) factors from the original image to this one.
        rows: int64[N], each image's row in its annotation table.
        keys: int64[N], one random key per image: all random sampling for it derives from this.
        boxes: float32[N, G, 4], xyxy in pixels of the padded image; zeros where padded.
        labels: int64[N, G], class 0..K-1; -1 where padded.
    """

    images: Tensor
    sizes: Tensor
    scales: Tensor
    rows: Tensor
    keys: Tensor
    boxes: Tensor
    labels: Tensor

    @classmethod
    def padded(
        cls,
        images: Sequence[Tensor],
        scales: Sequence[tuple[float, float]],
        targets: Sequence[tuple[Tensor, Tensor]],
        *,
        rows: Sequence[int],
        keys: Sequence[int],
        height: int,
        width: int,
    ) -> Batch:
        """Pad N images to one shape, and their ground truth to one count.

        Args:
            images: each uint8[3, h, w].
            scales: each (x, y), from the original image to this one.
            targets: each float32[G, 4] boxes, xyxy in pixels of the image, and int64[G] labels.
            rows: of the images in their table.
            keys: one an image.
            height: of all padded images, in pixels; ``width`` likewise.
        """
        count, most = len(images), max(len(labels) for _, labels in targets)
        pixels = torch.zeros(count, 3, height, width, dtype=torch.uint8)
        boxes, labels = torch.zeros(count, most, 4), torch.full((count, most), -1)
        for index, (image, (own_boxes, own_labels)) in enumerate(zip(images, targets, strict=True)):
            pixels[index, :, : image.shape[1], : image.shape[2]] = image
            boxes[index, : len(own_boxes)] = own_boxes
            labels[index, : len(own_labels)] = own_labels
        sizes = torch.tensor([image.shape[1:] for image in images], dtype=torch.float32)
        return cls(pixels, sizes, torch.tensor(scales), torch.tensor(rows), torch.tensor(keys), boxes, labels)

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device) -> Batch:
        """Return a copy on ``device``; asynchronous where the memory is pinned."""
        return Batch(**{f.name: getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)})

    def pin_memory(self) -> Batch:
        """Return a copy in page-locked memory (called by torch's DataLoader)."""
        return Batch(**{f.name: getattr(self, f.name).pin_memory() for f in fields(self)})
