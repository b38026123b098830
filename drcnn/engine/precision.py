"""The precision in which the network computes; boxes and losses stay float32."""

from __future__ import annotations

import torch

from drcnn.config import Config, ConfigError

__all__ = ["TYPES", "autocast", "require_precision"]

TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, amp: str) -> torch.autocast:
    """Return a context that computes in ``training.amp`` or ``evaluation.amp``: 'none', 'bf16' or 'fp16'."""
    return torch.autocast(device.type, TYPES.get(amp, torch.bfloat16), enabled=amp != "none")


def require_precision(config: Config, device: str) -> None:
    """Check that the device has the precisions that are asked for.

    Raises:
        ConfigError: fp16 without a GPU.
    """
    for section in ("training", "evaluation"):
        if getattr(config, section).amp == "fp16" and device == "cpu":
            raise ConfigError(f"{section}.amp = 'fp16' needs a GPU; on a CPU use 'bf16' or 'none'")
