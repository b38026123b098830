"""The time that a detector's arithmetic alone would take: its FLOPs over the speed of a convolution here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from drcnn.engine.bench_steps import timed

__all__ = ["flops", "peak"]

CHANNELS = 256
REPEATS = 5


def flops(call: Callable[[], object]) -> int:
    """Count a call's convolutions and matrix products, forward and backward; a multiply-add is two FLOPs."""
    operators: Any = torch.ops.mkldnn
    # oneDNN's fused operators (drcnn.detector.fused), which torch's counter does not know.
    own = {
        operators._convolution_pointwise: _convolution,
        operators._convolution_pointwise_: _added_convolution,
        operators._linear_pointwise: _linear,
    }
    with FlopCounterMode(display=False, custom_mapping=own) as counter:
        call()
    return int(counter.get_total_flops())


@torch.no_grad()
def peak(device: torch.device, dtype: torch.dtype, *, images: int, height: int, width: int) -> float:
    """Measure the FLOPs a second of a 3x3 convolution on P3, 256 channels to 256; the fastest run counts.

    Args:
        device: to measure.
        dtype: float32, or bfloat16 as under autocast.
        images: of a batch; ``height`` and ``width`` of the images in pixels.
    """
    kind: dict[str, Any] = {"device": device, "dtype": dtype}
    maps = torch.randn(images, CHANNELS, height // 8, width // 8, **kind)
    maps = maps.contiguous(memory_format=torch.channels_last)
    weight = torch.randn(CHANNELS, CHANNELS, 3, 3, **kind)

    def run() -> None:
        F.conv2d(maps, weight, padding=1)

    fastest = min(timed(run, device) for _ in range(1 + REPEATS))
    return flops(run) / fastest


def _convolution(maps: list[int], weight: list[int], *rest: Any, out_shape: Any = None, **other: Any) -> int:
    return conv_flop_count(maps, weight, out_shape)


def _added_convolution(
    residual: list[int], maps: list[int], weight: list[int], *rest: Any, out_shape: Any = None, **other: Any
) -> int:
    return conv_flop_count(maps, weight, residual)


def _linear(rows: list[int], weight: list[int], *rest: Any, out_shape: Any = None, **other: Any) -> int:
    return 2 * rows[0] * weight[0] * weight[1]
