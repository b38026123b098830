"""Checkpoints: one safetensors file each, replaced atomically; never a pickle.

Tensors are named ``model.*`` and ``optimizer.*``. The file's header holds, as JSON, what is needed to build
the model again and to resume: configuration, classes, epoch and the metrics of every epoch so far.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from drcnn.config import Config, DetectorConfig
from drcnn.detector.detector import DecoupledRCNN, build_detector, move_detector
from drcnn.engine.errors import CheckpointError
from drcnn.files import replacing
from drcnn.plain_text import UNPRINTABLE, shown

__all__ = ["TrainingState", "load_detector", "read_model", "read_state", "restore", "save"]


@dataclass
class TrainingState:
    """The header of a checkpoint.

    Attributes:
        config: as YAML.
        classes: names of the K foreground classes.
        epoch: the last finished epoch, 1-based; 0 before the first.
        history: the metrics of each finished epoch.
        per_class: AP of each class when the split that the trial is judged by was last evaluated.
        made_by: with what the epochs so far were trained (``drcnn.engine.made_by``).
        scaler: state of the fp16 gradient scaler; empty otherwise.
        data: of each split, the digests of its images and annotations (``Annotations.content``); empty in
            files of earlier versions.
    """

    config: str
    classes: list[str]
    epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    per_class: dict[str, float] = field(default_factory=dict)
    made_by: dict[str, str] = field(default_factory=dict)
    scaler: dict[str, Any] = field(default_factory=dict)
    data: dict[str, dict[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what a file of somebody else's may say.

        Raises:
            TypeError: a value is of another type, or the name of a class cannot be shown.
        """
        for name, kind in get_type_hints(TrainingState).items():
            try:
                TypeAdapter(kind).validate_python(getattr(self, name), strict=True)
            except ValidationError:
                raise TypeError(f"its {name} is {shown(getattr(self, name))}") from None
        for name in self.classes:
            if UNPRINTABLE.search(name) or "\n" in name:
                raise TypeError(f"the class {shown(name)} holds control characters")


def save(
    path: Path, detector: nn.Module, state: TrainingState, optimizer: torch.optim.Optimizer | None = None
) -> None:
    """Write a checkpoint; a reader sees either the old file or the whole new one.

    Without ``optimizer`` the file is for inference only.
    """
    tensors = {f"model.{name}": tensor for name, tensor in detector.state_dict().items()}
    if optimizer is not None:
        for name, parameter in detector.named_parameters():
            momentum = optimizer.state.get(parameter, {}).get("momentum_buffer")
            if momentum is not None:
                tensors[f"optimizer.{name}"] = momentum
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as draft:
        save_file(tensors, draft, metadata={"state": json.dumps(asdict(state))})


def read_state(path: Path) -> TrainingState:
    """Read a checkpoint's header only.

    Raises:
        CheckpointError: the file is missing or not one of our checkpoints.
    """
    try:
        with safe_open(path, "pt") as file:
            return TrainingState(**json.loads(file.metadata()["state"]))
    except (OSError, SafetensorError, KeyError, TypeError, RecursionError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not a checkpoint of drcnn: {error or type(error).__name__}"
        ) from None


def restore(path: Path, detector: nn.Module, optimizer: torch.optim.Optimizer) -> TrainingState:
    """Load model and momentum in place to resume training, on a CPU exactly.

    Raises:
        CheckpointError: the file is no checkpoint, or of another model.
    """
    state = read_state(path)
    tensors = _read_tensors(path)
    _load_model(path, detector, tensors)
    for name, parameter in detector.named_parameters():
        if f"optimizer.{name}" in tensors:
            # In the parameter's own memory format: SGD's fused and plain paths then compute the same sums.
            buffer = torch.empty_like(parameter).copy_(tensors[f"optimizer.{name}"])
            optimizer.state[parameter]["momentum_buffer"] = buffer
    return state


def load_detector(
    path: Path, device: torch.device | str = "cpu", config: DetectorConfig | None = None
) -> tuple[DecoupledRCNN, TrainingState]:
    """Build the trained detector of a checkpoint, in evaluation mode.

    Args:
        path: ``last.safetensors`` of a trial.
        device: for the detector.
        config: settings of inference that replace those of training; the architecture must be the same.

    Raises:
        CheckpointError: the file is no checkpoint, or ``config`` describes another architecture.
    """
    state = read_state(path)
    config = config or Config.from_yaml(state.config).detector
    detector = build_detector(config, len(state.classes), pretrained=False)
    _load_model(path, detector, _read_tensors(path))
    return move_detector(detector, device).eval(), state


def read_model(path: Path) -> dict[str, Tensor]:
    """Read the detector's tensors by the names of its state dict.

    Raises:
        CheckpointError: the file is missing or not one of our checkpoints.
    """
    read_state(path)
    return _model_of(_read_tensors(path))


def _model_of(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")}


def _read_tensors(path: Path) -> dict[str, Tensor]:
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping


def _load_model(path: Path, detector: nn.Module, tensors: dict[str, Tensor]) -> None:
    try:
        detector.load_state_dict(_model_of(tensors))
    except RuntimeError as error:
        raise CheckpointError(
            f"{path} does not fit the model: {' '.join(str(error).split())[:300]}"
        ) from None
