"""Start training from a whole detector: one of our checkpoints, or torchvision's that was trained on COCO.

Backbone, pyramid and RPN must fit. Heads are taken where they fit; those that belong to classes are made anew
unless the classes are the same, and heads that the other detector does not have start at random as usual.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights, fasterrcnn_resnet50_fpn

from drcnn.config import Config, ConfigError, DetectorConfig
from drcnn.detector.detector import DecoupledRCNN, build_detector
from drcnn.detector.weights import download
from drcnn.engine.checkpoint import read_model, read_state
from drcnn.engine.errors import CheckpointError
from drcnn.engine.torchvision_twin import from_torchvision
from drcnn.presets import STARTS
from drcnn.variants import VARIANTS

__all__ = ["coco_state", "download_coco", "first_detector", "start_from", "trained_settings"]

# torchvision's statistics of COCO are meant without the term that keeps a variance from 0; ours have it.
EPSILON = 1e-5


class _Whole(NamedTuple):
    """A trained detector: its tensors by our names, its classes (none that could be ours: empty), and what
    it is made of."""

    tensors: Mapping[str, Tensor]
    classes: tuple[str, ...]
    detector: Mapping[str, object]


def first_detector(
    config: Config, classes: Sequence[str], say: Callable[[str], None], *, resumes: bool
) -> DecoupledRCNN:
    """Build the detector that a trial begins with, on the CPU.

    Its random start depends on the seed only, and leaves the caller's generator unchanged.

    Args:
        config: the trial.
        classes: names of the K classes.
        say: takes lines about what is taken from a whole detector, and what not.
        resumes: whether a checkpoint's weights follow.

    Raises:
        ConfigError, CheckpointError, OSError: as ``start_from`` does.
    """
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        # A checkpoint holds all weights, as does a whole detector to start from: neither needs the
        # pretrained ones.
        init = "none" if resumes else config.training.init
        pretrained = not resumes and init == "none"
        detector = build_detector(config.detector, len(classes), pretrained=pretrained)
        if init != "none":
            for line in start_from(detector, init, classes):
                say(line)
    return detector


def start_from(detector: DecoupledRCNN, init: str, classes: Sequence[str]) -> list[str]:
    """Load a whole detector's weights in place; return lines that say what was taken and what not.

    Args:
        detector: freshly built, for these classes.
        init: 'coco' or the path of a checkpoint.
        classes: names of the K classes.

    Raises:
        ConfigError: backbone, pyramid or RPN do not fit; or the file is missing or no checkpoint.
        OSError: the download failed; a later attempt may succeed.
    """
    whole = _coco() if init == "coco" else _checkpoint(init)
    own = detector.state_dict()
    is_other = tuple(classes) != whole.classes
    taken, anew, absent = {}, [], []
    for name, tensor in own.items():
        given = _given(name, whole.tensors)
        if given is None or given.shape != tensor.shape:
            absent.append(name)
        elif is_other and _belongs_to_classes(name, detector.config):
            anew.append(name)
        else:
            taken[name] = given
    _require_body(init, own, absent, whole.tensors)
    detector.load_state_dict(taken, strict=False)
    lines = [f"starts from {init}: {len(taken)} of {len(own)} tensors"]
    # Of another number of classes, their shape differs.
    anew += [name for name in absent if ".predictor." in name and name in whole.tensors]
    absent = [name for name in absent if name not in anew and not name.endswith("num_batches_tracked")]
    if anew:
        known = ", ".join(whole.classes[:5]) + (", ..." if len(whole.classes) > 5 else "")
        lines.append(f"made anew for other classes (there: {known or 'those of COCO'}): {_parts(anew)}")
    if absent:
        lines.append(f"made anew, since it has no such heads: {_parts(absent)}")
    scale = whole.detector.get("anchor_scale")
    if scale != detector.config.anchor_scale:
        lines.append(
            f"its RPN learned with detector.anchor_scale={scale}, here it is {detector.config.anchor_scale}"
        )
    return lines


def coco_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return torchvision's weights of ``fasterrcnn_resnet50_fpn`` by our names.

    Args:
        state: the file's, which may have names of older versions of torchvision.
    """
    model = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    model.load_state_dict(state)  # knows the older names
    ours = from_torchvision(model.state_dict())
    return {
        name: tensor - EPSILON if name.endswith("running_var") else tensor for name, tensor in ours.items()
    }


def download_coco() -> Mapping[str, Tensor]:
    """torchvision's detector that was trained on COCO, downloaded or from its cache.

    Raises:
        ConfigError, OSError: as ``drcnn.detector.weights.download`` does.
    """
    weights = FasterRCNN_ResNet50_FPN_Weights.COCO_V1
    otherwise = "give the path of a checkpoint, or 'none'"
    return download(weights, "training.init = 'coco': the download", otherwise)


def _coco() -> _Whole:
    state = download_coco()
    settings = {key.removeprefix("detector."): value for key, value in STARTS["coco"].items()}
    return _Whole(coco_state(state), (), settings)


def _checkpoint(init: str) -> _Whole:
    settings = trained_settings(init)
    return _Whole(read_model(Path(init)), tuple(read_state(Path(init)).classes), settings)


def trained_settings(init: str) -> dict[str, object]:
    """The detector's settings in a checkpoint to start from.

    Raises:
        ConfigError: it is missing, damaged or no checkpoint.
    """
    path = Path(init)
    if not path.is_file():
        raise ConfigError(
            f"training.init = {init!r}: no such file; give 'coco', 'none' or the path of a checkpoint"
        )
    try:
        return Config.from_yaml(read_state(path).config).detector.model_dump()
    except CheckpointError as error:
        raise ConfigError(f"training.init: {error}") from None


def _given(name: str, tensors: Mapping[str, Tensor]) -> Tensor | None:
    """Return the tensor for one of ours; a trunk that was shared starts the trunk of each branch."""
    if name in tensors:
        return tensors[name]
    for branch in ("classifier", "regressor"):
        name = name.replace(f".{branch}.trunk.", ".stem.")
    return tensors.get(name)


def _belongs_to_classes(name: str, config: DetectorConfig) -> bool:
    is_specific = VARIANTS[config.variant].class_specific and name.startswith("heads.stages.0.")
    return ".classifier.predictor." in name or (is_specific and ".regressor.predictor." in name)


def _require_body(
    init: str, own: Mapping[str, Tensor], absent: Sequence[str], theirs: Mapping[str, Tensor]
) -> None:
    """Refuse what does not fit in backbone, pyramid and RPN."""
    unknown = [name for name in theirs if name not in own]
    faults = [
        name
        for name in (*absent, *unknown)
        if not name.startswith("heads.") and not name.endswith("num_batches_tracked")
    ]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise ConfigError(f"training.init = {init!r} does not fit: {', '.join(faults[:3])}{more}")


def _parts(names: Sequence[str]) -> str:
    """Name heads as a reader counts them: stages from 1.

    >>> _parts(["heads.stages.0.classifier.predictor.bias", "heads.stages.0.classifier.predictor.weight"])
    'classifier of stage 1'
    """
    parts = [name.split(".") for name in names]
    return ", ".join(dict.fromkeys(f"{part[3]} of stage {int(part[2]) + 1}" for part in parts))
