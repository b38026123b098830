"""Whether a training diverges: its losses, and the weights that an epoch leaves, must stay finite.

All workers call these at the same step, and all raise if any worker's figures are not finite: if one raised
alone, the others would wait for its gradients until they are killed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from drcnn.engine.errors import TrainingDiverged
from drcnn.engine.workers import sum_

__all__ = ["check_every", "require_finite", "require_finite_weights"]

# Reading a loss back waits for the device; on a GPU it is checked only every so many steps.
STEPS_ON_GPU = 20
ADVICE = "lower training.lr or set training.clip_norm"


def check_every(device: torch.device) -> int:
    """After how many steps the losses are checked."""
    return 1 if device.type == "cpu" else STEPS_ON_GPU


def require_finite(sums: Mapping[str, Tensor], epoch: int, step: int) -> None:
    """Refuse losses that are not finite.

    Args:
        sums: each loss, added up over the steps of an epoch; float32[].
        epoch, step: counted from 1, for the message.

    Raises:
        TrainingDiverged: the message names the terms.
    """
    # A sum over workers is finite only if all its terms are.
    values = sum_(torch.stack(list(sums.values())))
    infinite = [name for name, value in zip(sums, values.tolist(), strict=True) if not math.isfinite(value)]
    if not infinite:
        return
    # The total is named only if none of its parts is to blame.
    parts = [name for name in infinite if name != "loss"] or infinite
    raise TrainingDiverged(f"{', '.join(parts)} not finite in epoch {epoch} at step {step}; {ADVICE}")


def require_finite_weights(detector: nn.Module, epoch: int) -> None:
    """Refuse weights that the last step of an epoch has ruined: its loss, taken before, was finite.

    Raises:
        TrainingDiverged: the message names the first such weight.
    """
    weights = {name: weight.detach() for name, weight in detector.named_parameters() if weight.requires_grad}
    # One number a weight, read back together: infinite exactly if one of its values is not finite.
    values = sum_(torch.stack([weight.abs().amax().float() for weight in weights.values()]))
    for name, value in zip(weights, values.tolist(), strict=True):
        if not math.isfinite(value):
            raise TrainingDiverged(f"{name} not finite after epoch {epoch}; {ADVICE}")
