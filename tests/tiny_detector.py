"""The narrowest detector, for tests of the ``drcnn`` command: seconds an epoch, and no weights to load."""

from __future__ import annotations

TINY_DETECTOR = [
    "detector.backbone_width=0.25",
    "detector.weights=none",
    "detector.norm=group",
    "detector.frozen_stages=0",
    "detector.fpn_channels=16",
    "detector.fc_width=32",
]
