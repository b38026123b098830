"""Whether there is what a training starts from, asked before time goes into other things.

Loads no torchvision, which takes seconds, for the usual start: a file with the weights of a backbone.
"""

from __future__ import annotations

from drcnn.config import Config, ConfigError
from drcnn.detector.weights import require_weights
from drcnn.presets import STARTS

__all__ = ["ARCHITECTURE", "require_start"]

# What backbone, pyramid and RPN are made of.
ARCHITECTURE = ("backbone", "backbone_width", "norm", "fpn_channels")


def require_start(config: Config) -> None:
    """Check that there is what training starts from, and that it fits.

    Raises:
        ConfigError: it does not fit; or the file is missing, damaged or no checkpoint.
        OSError: the download failed; a later attempt may succeed.
    """
    init = config.training.init
    if init == "none":
        require_weights(config.detector.backbone, config.detector.weights, config.detector.backbone_width)
        return
    from drcnn.engine.start import download_coco, trained_settings

    own = config.detector.model_dump()
    theirs = STARTS["coco"] if init == "coco" else trained_settings(init)
    theirs = {key.removeprefix("detector."): value for key, value in theirs.items()}
    differing = [key for key in ARCHITECTURE if theirs.get(key, own[key]) != own[key]]
    if init == "coco" and not differing:
        download_coco()
    if differing:
        recipe = " ".join(f"detector.{key}={theirs[key]}" for key in differing)
        raise ConfigError(
            f"training.init = {init!r}: its detector is another one; give --set {recipe}, "
            "or 'drcnn train --from', which takes over its settings"
        )
