"""The learning rate of every step: a pure function, so that a resumed run equals an uninterrupted one."""

from __future__ import annotations

import math

from drcnn.config import TrainingConfig

__all__ = ["PAPER_BATCH", "learning_rate", "warmup_steps"]

PAPER_BATCH = 8  # images per step in the paper: 2 on each of 4 GPUs


def learning_rate(config: TrainingConfig, step: int, steps_per_epoch: int) -> float:
    """Return the rate for a step counted from 0 over all epochs.

    ``config.lr`` is the rate at 8 images per step and scales linearly with the batch (Section IV-A). The step
    schedule divides it by 10 after each milestone epoch; the cosine schedule brings it to 0 at the last step.
    Warm-up multiplies either, from 0.001 to 1.
    """
    rate = config.lr * config.batch_size / PAPER_BATCH
    if config.schedule == "cosine":
        rate *= (1 + math.cos(math.pi * step / (config.epochs * steps_per_epoch))) / 2
    else:
        rate *= 0.1 ** sum(step >= epoch * steps_per_epoch for epoch in config.milestones)
    warmup = warmup_steps(config, steps_per_epoch)
    if step < warmup:
        rate *= 0.001 + 0.999 * step / warmup
    return rate


def warmup_steps(config: TrainingConfig, steps_per_epoch: int) -> int:
    """Return the length of the warm-up: at most a third of all steps, or a short run would be all warm-up."""
    return min(config.warmup_iterations, config.epochs * steps_per_epoch // 3)
