from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from drcnn.engine.divergence import check_every, require_finite, require_finite_weights
from drcnn.engine.errors import TrainingDiverged


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_terms_that_are_not_finite_are_named_with_their_step(value: float) -> None:
    losses = {name: torch.tensor(1.0) for name in ("loss_cls", "loss_reg", "loss")}
    require_finite(losses, 2, 7)
    losses["loss_reg"] = losses["loss"] = torch.tensor(value)
    with pytest.raises(
        TrainingDiverged, match=r"^loss_reg not finite in epoch 2 at step 7; lower training\.lr"
    ):
        require_finite(losses, 2, 7)


def test_a_total_that_overflows_is_named_itself() -> None:
    large = torch.tensor(3e38)
    with pytest.raises(TrainingDiverged, match=r"^loss not finite"):
        require_finite({"loss_cls": large, "loss_reg": large, "loss": large + large}, 1, 1)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_the_last_step_ruined_are_named(value: float) -> None:
    detector = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 3))
    require_finite_weights(detector, 4)
    with torch.no_grad():
        detector[1].weight[2, 0] = value
    with pytest.raises(TrainingDiverged, match=r"^1\.weight not finite after epoch 4"):
        require_finite_weights(detector, 4)
    detector[1].weight.requires_grad_(requires_grad=False)
    require_finite_weights(detector, 4)


def test_a_gpu_is_waited_for_less_often() -> None:
    assert check_every(torch.device("cpu")) == 1
    assert check_every(torch.device("cuda")) > 1
