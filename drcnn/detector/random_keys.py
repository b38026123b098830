"""Counter-based random numbers: a pure function of (image key, purpose, index).

Samplers draw by sorting random keys. With a generator, an image's samples would depend on the other images of
the batch, on the device and on the number of workers. Here they depend on the image's own key only, so one
worker, two workers and a GPU all choose the same anchors and RoIs from the same candidates.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["random_keys"]


def _as_int64(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


# splitmix64 (Steele, Lea, Flood 2014); torch's int64 product wraps, which is what it needs.
_GAMMA = _as_int64(0x9E3779B97F4A7C15)
_MIX1 = _as_int64(0xBF58476D1CE4E5B9)
_MIX2 = _as_int64(0x94D049BB133111EB)


def random_keys(keys: Tensor, purpose: int, count: int) -> Tensor:
    """Return uniform numbers in [0, 1), float32[N, count], for int64[N] image keys.

    Args:
        keys: one per image.
        purpose: a small number, different for each sampler, so that their streams are independent.
        count: numbers per image.
    """
    start = _mix(keys + _as_int64(purpose * _GAMMA % (1 << 64)))
    index = torch.arange(1, count + 1, device=keys.device)
    bits = _mix(start[:, None] + index * _GAMMA)
    # The top 24 bits: all that a float32 in [0, 1) holds.
    return _shift(bits, 40).float() * 2.0**-24


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _shift(z, 30)) * _MIX1
    z = (z ^ _shift(z, 27)) * _MIX2
    return z ^ _shift(z, 31)


def _shift(z: Tensor, by: int) -> Tensor:
    """Logical right shift; torch's is arithmetic on int64."""
    return (z >> by) & ((1 << (64 - by)) - 1)
