"""Checkpoints: one safetensors file each, replaced atomically; never a pickle.

Tensors are named ``model.*`` and ``optimizer.*``. The file's header holds, as JSON, what is needed to build
the model again and to resume: configuration, classes, epoch and the metrics of every epoch so far; and
checksums of itself and of the tensors, which are verified whenever a checkpoint is loaded.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
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
from drcnn.engine.checkpoint_header import PREVIOUS, damaged, header_texts, read_header
from drcnn.engine.errors import CheckpointError, DamagedCheckpointError
from drcnn.files import DAMAGED, put_aside, replacing
from drcnn.plain_text import UNPRINTABLE, shown
from drcnn.trained_model import CHECKPOINT

__all__ = [
    "TrainingState",
    "load_detector",
    "put_aside_if_damaged",
    "read_model",
    "read_state",
    "recover",
    "remove_spares",
    "restore",
    "save",
]


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
        start: the content that training started from (``drcnn.identity.start_digest``); empty in files of
            earlier versions.
        notes: what a person may not expect of how it was trained, such as a checkpoint that was damaged.
        step: how many steps of the epoch after ``epoch`` are done; 0 where it has not been begun.
        sums: of each worker, its losses added up over these steps.
        seconds: that these steps took.
    """

    config: str
    classes: list[str]
    epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    per_class: dict[str, float] = field(default_factory=dict)
    made_by: dict[str, str] = field(default_factory=dict)
    scaler: dict[str, Any] = field(default_factory=dict)
    data: dict[str, dict[str, str]] = field(default_factory=dict)
    start: str = ""
    notes: list[str] = field(default_factory=list)
    step: int = 0
    sums: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0

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

    The one that it replaces stays beside it, until ``remove_spares``. Without ``optimizer`` the file is for
    inference only.

    Raises:
        DiskFullError: there is no space for it; the old file stays.
    """
    tensors = {f"model.{name}": tensor for name, tensor in detector.state_dict().items()}
    if optimizer is not None:
        for name, parameter in detector.named_parameters():
            momentum = optimizer.state.get(parameter, {}).get("momentum_buffer")
            if momentum is not None:
                tensors[f"optimizer.{name}"] = momentum
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    texts = header_texts(asdict(state), _checksum(tensors))
    with replacing(path) as draft:
        save_file(tensors, draft, metadata=texts)
        # A kill between this and the draft's renaming leaves the previous one only: ``recover`` takes it.
        if path.is_file():
            path.replace(path.with_name(PREVIOUS))


def recover(folder: Path) -> list[str]:
    """Make sure that a trial's checkpoint is whole, or that there is none, before training resumes.

    A damaged one is put aside (``last.safetensors.damaged``), and the epoch before takes its place if it is
    whole. What the folder then says of a finished training is deleted: it is trained again from there.

    Returns:
        Lines for a person: what was damaged and where training goes on.
    """
    last, previous = folder / CHECKPOINT, folder / PREVIOUS
    lines = [line for line in map(put_aside_if_damaged, (last, previous)) if line]
    if last.exists():
        return lines
    if (folder / "result.json").is_file():
        (folder / "result.json").unlink()
    if previous.exists():
        previous.replace(last)
        state = read_state(last)
        within = f", step {state.step} of the next" if state.step else ""
        lines.append(f"training goes on from the checkpoint of epoch {state.epoch}{within}")
    elif lines or (folder / f"{CHECKPOINT}{DAMAGED}").exists():
        lines.append(f"{last} was damaged; training starts anew")
    return lines


def remove_spares(folder: Path) -> None:
    """Delete what ``save`` and ``recover`` keep beside the checkpoint of a trial that has now finished."""
    for pattern in (PREVIOUS, f"{PREVIOUS}{DAMAGED}*", f"{CHECKPOINT}{DAMAGED}*"):
        for path in folder.glob(pattern):
            if path.is_file():
                path.unlink()


def read_state(path: Path) -> TrainingState:
    """Read a checkpoint's header only.

    Raises:
        DamagedCheckpointError: the file is missing, damaged or not one of our checkpoints.
    """
    try:
        return TrainingState(**read_header(path).state)
    except TypeError as error:
        raise damaged(path, f"is not a checkpoint of this version of drcnn ({error})") from None


def restore(path: Path, detector: nn.Module, optimizer: torch.optim.Optimizer) -> TrainingState:
    """Load model and momentum in place to resume training, on a CPU exactly.

    Raises:
        CheckpointError: the file is damaged, no checkpoint, or of another model.
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
        CheckpointError: the file is damaged or no checkpoint, or ``config`` describes another architecture.
    """
    state = read_state(path)
    config = config or Config.from_yaml(state.config).detector
    detector = build_detector(config, len(state.classes), pretrained=False)
    _load_model(path, detector, _read_tensors(path))
    return move_detector(detector, device).eval(), state


def read_model(path: Path) -> dict[str, Tensor]:
    """Read the detector's tensors by the names of its state dict.

    Raises:
        DamagedCheckpointError: the file is missing, damaged or not one of our checkpoints.
    """
    return _model_of(_read_tensors(path))


def _model_of(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")}


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors, and verify them."""
    header = read_header(path)
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except SafetensorError as error:
        raise damaged(path, f"is damaged ({error})") from None
    if header.tensors and header.tensors != _checksum(tensors):
        raise damaged(path, "is damaged: its tensors do not match their checksum")
    return tensors


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    """CRC-32 over names, types, shapes and bytes: 600 MB take 0.4 s, a third of SHA-256."""
    value = 0
    for name, tensor in sorted(tensors.items()):
        value = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), value)
        # Flat first: a tensor without dimensions cannot be seen as bytes.
        value = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, value)
    return f"crc32:{value:08x}"


def put_aside_if_damaged(path: Path) -> str:
    """Rename a damaged checkpoint to ``<name>.damaged``.

    Returns:
        A line about it; empty for one that is whole or not there.
    """
    if not path.exists():
        return ""
    try:
        _read_tensors(path)
        read_state(path)
    except DamagedCheckpointError as error:
        aside = put_aside(path)
        return f"{str(error).partition(';')[0]}; kept as {aside.name}"
    return ""


def _load_model(path: Path, detector: nn.Module, tensors: dict[str, Tensor]) -> None:
    try:
        detector.load_state_dict(_model_of(tensors))
    except RuntimeError as error:
        raise CheckpointError(
            f"{path} does not fit the model: {' '.join(str(error).split())[:300]}"
        ) from None
