"""The backbone weights that come with the package, for the embedded digits; README.md is their card.

>>> shipped("mobilenet_v2", 0.5).name
'mobilenet_v2_050.safetensors'
"""

from __future__ import annotations

from pathlib import Path

from drcnn.config_errors import ConfigError

__all__ = ["SHIPPED", "file_name", "shipped"]

# Backbone and width of every file.
SHIPPED = (("mobilenet_v2", 0.5), ("mobilenet_v2", 0.25))


def file_name(backbone: str, width: float) -> str:
    """The name of the file of this backbone and width, shipped or not."""
    return f"{backbone}_{round(100 * width):03d}.safetensors"


def shipped(backbone: str, width: float) -> Path:
    """The path of the weights that ``detector.weights=digits`` stands for. Needs no torch.

    Raises:
        ConfigError: there are none for this backbone or width.
    """
    if (backbone, width) not in SHIPPED:
        there_are = " and ".join(f"{name} of width {size}" for name, size in SHIPPED)
        raise ConfigError(
            f"detector.weights = 'digits': there are weights for {there_are}, not for {backbone} of width "
            f"{width}; set detector.backbone and detector.backbone_width, or give the path of a file"
        )
    return Path(__file__).with_name(file_name(backbone, width))
