"""Which checkpoint a command's MODEL means: a file, a trial's or a study's folder, or a run in MLflow."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from drcnn.config import ConfigError
from drcnn.file_names import is_possible, typed_path
from drcnn.plain_text import printable
from drcnn.sealed import read_sealed

__all__ = ["CHECKPOINT", "PUBLISHED", "TrainedModel", "find_model"]

# In the folder of a trial.
CHECKPOINT = "last.safetensors"
# In the folder of a study: the trial whose model it publishes. Its keys: ``trial`` and ``name``,
# ``checkpoint``, a path relative to this file, and ``changes``, the settings of inference and evaluation in
# which an evaluation differs from the training of that checkpoint.
PUBLISHED = "published.json"


@dataclass(frozen=True)
class TrainedModel:
    """A checkpoint, and how it is to be used.

    Attributes:
        checkpoint: path of the file.
        changes: dotted settings of inference and evaluation that replace those of its training.
    """

    checkpoint: Path
    changes: Mapping[str, Any] = field(default_factory=dict)


def find_model(text: str) -> TrainedModel:
    """Return what MODEL names.

    Args:
        text: path of a checkpoint, of a trial's folder, or of a study's folder, whose best trial is meant;
            or ``SCHEME:NAME``, which another package finds: its entry point in the group ``drcnn.models`` has
            the scheme's name. ``mlflow:RUN`` is the studies'.

    Raises:
        ConfigError: there is no such file, or the folder holds no trained model.
    """
    path = typed_path(text)
    if path.is_file():
        return TrainedModel(path)
    scheme, _, name = text.partition(":")
    if name and not path.exists():
        for elsewhere in entry_points(group="drcnn.models", name=scheme):
            return _loaded(elsewhere, text)(name)
    if not path.is_dir():
        raise ConfigError(
            f"{text}: no such file or folder; expected a checkpoint ({CHECKPOINT}), or the folder of a trial "
            "or of a study"
        )
    if (path / CHECKPOINT).is_file():
        return TrainedModel(path / CHECKPOINT)
    if (path / PUBLISHED).is_file():
        return _published(path / PUBLISHED)
    raise ConfigError(f"{text}: no trained model; {_hint(path)}")


def _loaded(elsewhere: EntryPoint, text: str) -> Callable[[str], TrainedModel]:
    try:
        found: Callable[[str], TrainedModel] = elsewhere.load()
    except ImportError as error:
        raise ConfigError(f"{text}: needs the package {error.name}, which is not installed") from None
    return found


def _published(path: Path) -> TrainedModel:
    try:
        content = read_sealed(path)
        checkpoint, changes = path.parent / content["checkpoint"], dict(content["changes"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path}: cannot be read ({type(error).__name__}: {error}); the study's command writes it anew"
        ) from None
    if not is_possible(checkpoint) or not checkpoint.is_file():
        place = printable(os.path.normpath(checkpoint)[-300:])
        raise ConfigError(
            f"{path}: the best trial's {place} is not here; where the study has a --storage, "
            "download it from there, or give the path of a checkpoint"
        )
    return TrainedModel(checkpoint, changes)


def _hint(path: Path) -> str:
    studies = sorted(file.parent.name for file in path.glob(f"*/{PUBLISHED}"))
    if studies:
        return f"it holds the studies {', '.join(studies)}: give {path / studies[0]}"
    if (path / "config.yaml").is_file():
        return "its training has not ended an epoch yet"
    if (path / "request.json").is_file():
        return "no trial of this study has finished yet, or it is older than published models: run it again"
    return f"expected a folder with {CHECKPOINT}, as of a trial, or {PUBLISHED}, as of a study"
