"""The two kinds of head on pooled features: classifier and regressor, each with its own FC layers.

Shapes: R RoIs, C channels, K foreground classes. The background is the LAST class, index K.
"""

from __future__ import annotations

from torch import Tensor, nn

from drcnn.detector.pooling import POOLED_SIZE

__all__ = ["STAGE_STDS", "Classifier", "Regressor", "TwoFC"]

# Delta normalisation of regression stages 1 to 4 (spec 1.0; the fourth continues the pattern).
STAGE_STDS = (
    (0.1, 0.1, 0.2, 0.2),
    (0.05, 0.05, 0.1, 0.1),
    (0.033, 0.033, 0.067, 0.067),
    (0.025, 0.025, 0.05, 0.05),
)


class TwoFC(nn.Sequential):
    """Flatten, then twice a fully connected layer and ReLU: [R, C, 7, 7] to [R, width]."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__(
            nn.Flatten(),
            nn.Linear(channels * POOLED_SIZE**2, width),
            nn.ReLU(inplace=True),
            nn.Linear(width, width),
            nn.ReLU(inplace=True),
        )

    def init_xavier(self) -> None:
        """Initialise as the official stage-1 head: xavier-uniform weights, zero biases."""
        for layer in self:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)


class Classifier(nn.Module):
    """Class logits [R, K + 1] of RoI features."""

    def __init__(self, channels: int, width: int, classes: int) -> None:
        super().__init__()
        self.fcs = TwoFC(channels, width)
        self.fcs.init_xavier()
        self.predictor = nn.Linear(width, classes + 1)
        nn.init.normal_(self.predictor.weight, std=0.01)
        nn.init.zeros_(self.predictor.bias)

    def forward(self, pooled: Tensor) -> Tensor:
        """Apply to [R, C, 7, 7]."""
        logits: Tensor = self.predictor(self.fcs(pooled))
        return logits


class Regressor(nn.Module):
    """Deltas [R, B, 4] of RoI features: B = K boxes for the first stage, 1 (class-agnostic) for later ones.

    Attributes:
        stds: the stage's delta normalisation.
    """

    def __init__(self, channels: int, width: int, boxes: int, *, stage: int) -> None:
        super().__init__()
        self.stds = STAGE_STDS[stage - 1]
        self.fcs = TwoFC(channels, width)
        if stage == 1:
            # Later stages keep PyTorch's own initialisation, as the official code does in effect (spec D11).
            self.fcs.init_xavier()
        self.predictor = nn.Linear(width, boxes * 4)
        nn.init.normal_(self.predictor.weight, std=0.001)
        nn.init.zeros_(self.predictor.bias)

    def forward(self, pooled: Tensor) -> Tensor:
        """Apply to [R, C, 7, 7]."""
        deltas: Tensor = self.predictor(self.fcs(pooled))
        return deltas.view(len(deltas), deltas.shape[1] // 4, 4)
