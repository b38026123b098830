"""The parts of a box head: trunks, classifier, regressor, and the stage that combines them.

Shapes: R RoIs, C channels, K foreground classes. The background is the LAST class, index K.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from drcnn.detector.fused import linear_act
from drcnn.detector.pooling import POOLED_SIZE

__all__ = ["STAGE_STDS", "Classifier", "ConvTrunk", "Regressor", "Stage", "TwoFC"]

# Delta normalisation of regression stages 1 to 4. The official code has three; the fourth continues the
# pattern (docs/detector.md, D17).
STAGE_STDS = (
    (0.1, 0.1, 0.2, 0.2),
    (0.05, 0.05, 0.1, 0.1),
    (0.033, 0.033, 0.067, 0.067),
    (0.025, 0.025, 0.05, 0.05),
)


class TwoFC(nn.Sequential):
    """Flatten, then twice a fully connected layer and ReLU: [R, C, 7, 7] to [R, width].

    Args:
        channels: C.
        width: of both layers.
        xavier: start from xavier-uniform weights and zero biases, as the official first stage does; else from
            PyTorch's default, as the official later regression stages do in effect (docs/detector.md, D11).
    """

    def __init__(self, channels: int, width: int, *, xavier: bool = True) -> None:
        super().__init__(
            nn.Flatten(),
            nn.Linear(channels * POOLED_SIZE**2, width),
            nn.ReLU(inplace=True),
            nn.Linear(width, width),
            nn.ReLU(inplace=True),
        )
        self.width = width
        for layer in self:
            if xavier and isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, pooled: Tensor) -> Tensor:
        """Apply to [R, C, 7, 7]."""
        flatten, first, relu, second, last_relu = self
        hidden = linear_act(cast(nn.Linear, first), relu, flatten(pooled))
        return linear_act(cast(nn.Linear, second), last_relu, hidden)


class ConvTrunk(nn.Module):
    """Double-Head's convolutional branch: [R, C, 7, 7] to [R, 4C].

    A residual block C to 4C, four bottlenecks 4C (C), average pooling.

    Args:
        channels: C.
        norm: builds the normalisation layer for a number of channels.
    """

    def __init__(self, channels: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.width = 4 * channels
        self.main = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            norm(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, self.width, 1, bias=False),
            norm(self.width),
        )
        self.identity = nn.Sequential(nn.Conv2d(channels, self.width, 1, bias=False), norm(self.width))
        self.relu = nn.ReLU(inplace=True)
        self.bottlenecks = nn.Sequential(
            *(Bottleneck(self.width, channels, norm_layer=norm) for _ in range(4))
        )
        self.pool = nn.AvgPool2d(POOLED_SIZE)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, pooled: Tensor) -> Tensor:
        """Apply to [R, C, 7, 7]."""
        hidden = self.bottlenecks(self.relu(self.main(pooled) + self.identity(pooled)))
        flat: Tensor = self.pool(hidden).flatten(1)
        return flat


class Classifier(nn.Module):
    """Class logits [R, K + 1].

    Args:
        trunk: layers of its own, or ``nn.Identity`` where the stage's stem has them.
        width: output channels of trunk or stem.
        classes: K.
    """

    def __init__(self, trunk: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.predictor = nn.Linear(width, classes + 1)
        nn.init.normal_(self.predictor.weight, std=0.01)
        nn.init.zeros_(self.predictor.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """Apply to the output of the stage's stem."""
        logits: Tensor = self.predictor(self.trunk(hidden))
        return logits


class Regressor(nn.Module):
    """Deltas [R, B, 4]: B = K boxes if class-specific, 1 if class-agnostic.

    Args:
        trunk: layers of its own, or ``nn.Identity`` where the stage's stem has them.
        width: output channels of trunk or stem.
        boxes: B.
        stds: the stage's delta normalisation.
        enlarge: factor by which RoIs grow about their centre before they are pooled for this regressor.
        init_std: standard deviation of the predictor's initial weights.
    """

    def __init__(
        self,
        trunk: nn.Module,
        width: int,
        boxes: int,
        *,
        stds: tuple[float, ...],
        enlarge: float = 1.0,
        init_std: float = 0.001,
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.stds = stds
        self.enlarge = enlarge
        self.predictor = nn.Linear(width, boxes * 4)
        nn.init.normal_(self.predictor.weight, std=init_std)
        nn.init.zeros_(self.predictor.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """Apply to the output of the stage's stem."""
        deltas: Tensor = self.predictor(self.trunk(hidden))
        return deltas.view(deltas.shape[0], self.predictor.out_features // 4, 4)


class Stage(nn.Module):
    """One stage of the heads.

    Args:
        classifier: ``None`` in a stage that only regresses (Section III-C).
        regressor: of this stage.
        iou: overlap from which a RoI is positive.
        weight: of the stage's losses.
        stem: a trunk that both branches share; ``None`` where each has its own.
    """

    def __init__(
        self,
        classifier: Classifier | None,
        regressor: Regressor,
        *,
        iou: float = 0.5,
        weight: float = 1.0,
        stem: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.stem = stem or nn.Identity()
        self.classifier = classifier
        self.regressor = regressor
        self.iou = iou
        self.weight = weight

    def classify(self, hidden: Tensor) -> Tensor:
        """Return float32 logits [R, K + 1] for the stem's output; the stage must have a classifier."""
        logits: Tensor = cast(Classifier, self.classifier)(hidden)
        return logits.float()

    def regress(self, hidden: Tensor) -> Tensor:
        """Return float32 deltas [R, B, 4] for the stem's output."""
        deltas: Tensor = self.regressor(hidden).float()
        return deltas
