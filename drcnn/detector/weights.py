"""Loading pretrained weights into a backbone: torchvision's, the package's, or a file's. Never a pickle."""

from __future__ import annotations

from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from drcnn.backbone_weights import IMAGENET_BACKBONES
from drcnn.config import ConfigError
from drcnn.pretrained import shipped

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum

    from drcnn.detector.backbones import Body

__all__ = ["download", "imagenet", "load_backbone", "require_weights"]

# How to do without a backbone's weights.
OTHERWISE = (
    "give a local file with torchvision's names (--set detector.weights=FILE), or train from scratch (--set "
    "detector.weights=none detector.norm=group detector.frozen_stages=0)"
)


def require_weights(name: str, weights: str, width: float = 1.0) -> None:
    """Read the weights that ``load_backbone`` will load, or download them, before others take time.

    Raises:
        ConfigError, OSError: as ``load_backbone`` does.
    """
    if weights != "none":
        _state(name, weights, width)


def load_backbone(body: Body, name: str, weights: str, width: float = 1.0) -> None:
    """Load ``weights`` into ``body``; every tensor of the body must be there, with its shape.

    Args:
        body: as ``build_body`` gives it.
        name: of the backbone.
        weights: 'none' (keeps the random weights), 'imagenet' (torchvision's download), 'digits' (a file of
            this package) or the path of a ``.safetensors`` file or of a checkpoint that
            ``torch.load(weights_only=True)`` reads, with torchvision's names.
        width: of the backbone; the package's files are for one width each.

    Raises:
        ConfigError: the file is missing or unreadable, or tensors do not fit (named); or there are no such
            weights for this backbone.
        OSError: the download failed; a later attempt may succeed.
    """
    if weights == "none":
        return
    # Of torchvision's checkpoints, only the classifier of the pretraining task is left out.
    given = _state(name, weights, width)
    state = {key: value for key, value in given.items() if not key.startswith(("fc.", "classifier."))}
    expected = body.state_dict()
    # Checkpoints from before torch 0.4.1 lack these counters; they do not affect the result.
    missing = [k for k in expected if k not in state and not k.endswith("num_batches_tracked")]
    unknown = [k for k in state if k not in expected]
    misshaped = [
        f"{k} {list(v.shape)} instead of {list(expected[k].shape)}"
        for k, v in state.items()
        if k in expected and v.shape != expected[k].shape
    ]
    faults = [
        f"{fault}: {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
        for fault, names in (("missing", missing), ("unknown", unknown), ("wrong shape", misshaped))
        if names
    ]
    if faults:
        raise ConfigError(f"detector.weights = {weights!r} does not fit backbone {name}: {'; '.join(faults)}")
    body.load_state_dict(state, strict=False)


def _state(name: str, weights: str, width: float) -> Mapping[str, Tensor]:
    if weights == "imagenet":
        return _download(name)
    return _read(shipped(name, width) if weights == "digits" else Path(weights))


def _download(name: str) -> Mapping[str, Tensor]:
    if name not in IMAGENET_BACKBONES:
        raise ConfigError(
            f"detector.weights = 'imagenet': torchvision offers none for {name}; {OTHERWISE}; OpenMMLab's "
            "resnext101_32x4d has these names"
        )
    return download(imagenet(name), f"detector.weights = 'imagenet': the download for {name}", OTHERWISE)


def imagenet(name: str) -> WeightsEnum:
    """torchvision's weights of a backbone, one of ``IMAGENET_BACKBONES``, and where they are."""
    # It takes a second to load, which a launch that reads a file of weights need not wait.
    from torchvision import models

    weights: WeightsEnum = models.get_model_weights(name)["IMAGENET1K_V1"]
    return weights


def download(weights: WeightsEnum, what: str, otherwise: str) -> Mapping[str, Tensor]:
    """Download weights of torchvision, or take them from its cache.

    Args:
        weights: which.
        what: the setting that asks for them and for what, for messages.
        otherwise: what else to do where there is no network, for messages.

    Raises:
        ConfigError: the file in the cache cannot be read.
        OSError: the download failed; a later attempt may succeed.
    """
    cached = Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name)
    try:
        # weights_only also protects against files that others put into the cache: torch checks the hash of
        # downloads only.
        state: Mapping[str, Tensor] = weights.get_state_dict(
            progress=False, check_hash=True, weights_only=True
        )
    except (OSError, HTTPException, RuntimeError, ValueError, EOFError, UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        # An incomplete download has a wrong hash and is not kept.
        if isinstance(error, OSError) or not cached.exists():
            raise OSError(
                f"{what} failed ({reason}); try again, put {weights.url} at {cached}, or {otherwise}"
            ) from None
        raise ConfigError(
            f"{what}: {cached} cannot be read as tensors ({reason}); delete it to download it again"
        ) from None
    return state


def _read(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise ConfigError(
            f"detector.weights = {str(path)!r}: no such file; "
            "give 'imagenet', 'digits', 'none' or the path of a file"
        )
    try:
        if path.suffix == ".safetensors":
            state: Mapping[str, Tensor] = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
            for wrapper in ("state_dict", "model"):
                state = state.get(wrapper, state)  # type: ignore[assignment]
    except (OSError, SafetensorError, RuntimeError, ValueError, AttributeError, EOFError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"detector.weights = {str(path)!r} cannot be read as tensors: {reason}") from None
    except Exception as error:
        raise ConfigError(
            f"detector.weights = {str(path)!r} is not a file of tensors only: {type(error).__name__}"
        ) from None
    if not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()):
        raise ConfigError(f"detector.weights = {str(path)!r} holds more than tensors with names")
    return state
