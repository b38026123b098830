"""Makes the weights that the package ships: MobileNetV2 learns to name crops of single digits.

    python -m drcnn.engine.pretrain --width 0.5

They stand to the embedded digits as ImageNet's stand to photographs. Crops for training show the handwriting
of the training split, in images of a seed of their own; crops to judge by show that of the validation split.
The same arguments give the same file, on one kind of machine and with as many threads.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import MobileNetV2, mobilenet_v2

from drcnn import pretrained
from drcnn.data.digits import make_digits
from drcnn.data.images import decode
from drcnn.detector.detector import IMAGE_MEAN, IMAGE_STD

__all__ = ["Crops", "accuracy", "load", "make_crops", "pretrain", "save"]

# Not DIGITS_SEED: no crop is from an image that a detector is trained or judged on.
CROPS_SEED = 20201116
SIDE = 64  # pixels of a crop
CONTEXT = (0.1, 0.8)  # by this share of the digit's longer side, a crop is larger
BATCH = 32
# From random weights AdamW learns a little faster than SGD.
LEARNING_RATE = 0.003
WARMUP_STEPS = 200
WEIGHT_DECAY = 0.02


class Crops(NamedTuple):
    """Crops of single digits: uint8[N, 3, 64, 64] in RGB, and which digits, int64[N]."""

    images: Tensor
    labels: Tensor


def make_crops(images: int, split: Literal["train", "val"]) -> Crops:
    """Cut every digit out of so many generated images, which hold five each on average.

    A crop is a square with the whole digit somewhere in it, and with what lies around it.
    """
    annotations = make_digits(images, CROPS_SEED, split)
    rng = np.random.default_rng([CROPS_SEED, images])
    crops, labels = [], []
    for row in range(images):
        image = Image.fromarray(decode(annotations.source(row)).permute(1, 2, 0).numpy())
        for box in annotations.boxes(row):
            crop = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, _around(box, image.size, rng))
            crops.append(torch.from_numpy(np.array(crop)).permute(2, 0, 1))
        labels.extend(annotations.labels(row).tolist())
    return Crops(torch.stack(crops), torch.tensor(labels))


def _around(
    box: NDArray[np.float32], size: tuple[int, int], rng: np.random.Generator
) -> tuple[float, float, float, float]:
    """A random square around a box (xyxy), inside an image of ``size``; both in pixels."""
    left, top, right, bottom = box.tolist()
    side = max(right - left, bottom - top) * (1 + rng.uniform(*CONTEXT))
    # The largest square is smaller than the smallest canvas.
    x = float(np.clip(rng.uniform(right - side, left), 0, size[0] - side))
    y = float(np.clip(rng.uniform(bottom - side, top), 0, size[1] - side))
    return x, y, x + side, y + side


def pretrain(crops: Crops, *, width: float, epochs: int, seed: int = 1) -> MobileNetV2:
    """Train MobileNetV2 of this width on the crops, from random weights; return it, ready to be evaluated.

    The rate rises for 200 steps and falls to 0 along a cosine. The caller's random generator is left
    unchanged.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = mobilenet_v2(num_classes=10, width_mult=width)
        # For depthwise convolutions much the fastest on a CPU.
        network.to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(
            network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True
        )
        steps = epochs * (len(crops.labels) // BATCH)
        rate = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: min(1, (step + 1) / WARMUP_STEPS) * (1 + math.cos(math.pi * step / steps)) / 2,
        )
        network.train()
        for epoch in range(1, epochs + 1):
            started, total = time.perf_counter(), 0.0
            for rows in torch.split(torch.randperm(len(crops.labels)), BATCH):
                if len(rows) < BATCH:  # a short last batch would have its say in the statistics
                    continue
                loss = F.cross_entropy(network(_normalised(crops.images[rows])), crops.labels[rows])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                rate.step()
                total += loss.item() * BATCH / len(crops.labels)
            print(
                f"epoch {epoch}/{epochs}  loss {total:.3f}  {time.perf_counter() - started:.0f} s", flush=True
            )
    return network.eval()


@torch.inference_mode()
def accuracy(network: nn.Module, crops: Crops) -> float:
    """The share of the crops that the network names, which must be in evaluation mode."""
    named = [network(_normalised(images)).argmax(1) for images in torch.split(crops.images, 250)]
    return (torch.cat(named) == crops.labels).double().mean().item()


def save(network: MobileNetV2, path: Path) -> None:
    """Write the weights in half precision, under torchvision's names, with the classifier."""
    state = network.state_dict()
    save_file(
        {
            key: (value.half() if value.is_floating_point() else value).contiguous()
            for key, value in state.items()
        },
        path,
    )


def load(path: Path, width: float) -> MobileNetV2:
    """Return the network of a file that ``save`` wrote, ready to be evaluated."""
    network = mobilenet_v2(num_classes=10, width_mult=width)
    network.load_state_dict(load_file(path))
    return network.eval()


def _normalised(images: Tensor) -> Tensor:
    """As the detector does it; uint8 to float32[N, 3, 64, 64]."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGE_MEAN, IMAGE_STD))
    return ((images.float() - mean) / std).contiguous(memory_format=torch.channels_last)


def main(arguments: Sequence[str] | None = None) -> int:
    """Make one file and print its size and its accuracy."""
    parser = argparse.ArgumentParser(prog="python -m drcnn.engine.pretrain", description=__doc__)
    parser.add_argument("--width", type=float, default=0.5, help="channel multiplier of MobileNetV2 (0.5)")
    parser.add_argument("--images", type=int, default=4000, help="generated images to cut crops from (4000)")
    parser.add_argument("--epochs", type=int, default=5, help="(5)")
    parser.add_argument("--seed", type=int, default=1, help="of the random weights and the order (1)")
    parser.add_argument("--threads", type=int, default=1, help="of torch; decides the last bits (1)")
    parser.add_argument("--output", type=Path, default=Path(), help="folder of the file (.)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    network = pretrain(
        make_crops(options.images, "train"), width=options.width, epochs=options.epochs, seed=options.seed
    )
    path = options.output / pretrained.file_name("mobilenet_v2", options.width)
    path.parent.mkdir(parents=True, exist_ok=True)
    save(network, path)
    judged = make_crops(400, "val")
    share = accuracy(load(path, options.width), judged)
    print(f"{path}: {path.stat().st_size:,} bytes; names {share:.1%} of {len(judged.labels)} held-out crops")
    return 0


if __name__ == "__main__":
    sys.exit(main())
