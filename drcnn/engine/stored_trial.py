"""A finished trial as its folder has it: settings, detections, and the data that it was judged by."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from drcnn.config import Config, ConfigError
from drcnn.data.annotations import Annotations, DataError
from drcnn.engine.checkpoint import read_state
from drcnn.engine.detections_file import DETECTIONS, read_detections
from drcnn.engine.judged_detections import JudgedDetections, judge
from drcnn.engine.record import read_record
from drcnn.sealed import DamagedFileError
from drcnn.trained_model import CHECKPOINT

__all__ = ["StoredTrial", "judge_trial", "read_trial", "require_same_data"]

# Of a metric computed again: sums of the same numbers in another order.
ROUNDING = 1e-6


@dataclass(frozen=True)
class StoredTrial:
    """A trial that has finished.

    Attributes:
        folder: of the trial, or of an evaluation of another trial's detector.
        config: its settings.
        metrics: of its last epoch, such as ``test/AP``.
        detections: on the split that it was judged by.
        checkpoint: the trained detector's file, which may not be here.
        content: digests of that split's images and annotations; empty if the folder does not tell.
    """

    folder: Path
    config: Config
    metrics: Mapping[str, float]
    detections: pa.Table
    checkpoint: Path
    content: Mapping[str, str]

    @property
    def judged(self) -> str:
        """The split that it was judged by."""
        return "test" if "test/AP" in self.metrics else "val"


def read_trial(path: Path) -> StoredTrial:
    """Read a trial's folder.

    Args:
        path: the folder, or the checkpoint in it.

    Raises:
        ConfigError: there is no such folder, it is no trial's, the trial has not finished, or its settings or
            detections are damaged.
        CheckpointError: its checkpoint is damaged.
    """
    folder = path.parent if path.is_file() else path
    if not folder.is_dir():
        raise ConfigError(f"{path}: no such file or folder; expected the folder of a finished trial")
    missing = [name for name in ("config.yaml", DETECTIONS) if not (folder / name).is_file()]
    if missing:
        raise ConfigError(
            f"{folder}: has no {' and no '.join(missing)}; expected the folder of a finished trial, "
            "as drcnn train --output makes it or as it lies in a study's trials/"
        )
    record = read_record(folder)
    if not record.is_finished:
        raise ConfigError(f"{folder}: the trial is {record.status}; only finished trials can be compared")
    # An evaluation lies in the folder of the trial that trained its detector.
    places = (folder / CHECKPOINT, folder.parent.parent / CHECKPOINT)
    checkpoint = next((place for place in places if place.is_file()), places[0])
    data = read_state(checkpoint).data if checkpoint.is_file() else {}
    return StoredTrial(
        folder,
        _config(folder / "config.yaml"),
        record.metrics,
        _detections(folder),
        checkpoint,
        data.get("test", data.get("val", {})),
    )


def _config(path: Path) -> Config:
    try:
        return Config.from_yaml(path.read_text(encoding="utf-8"))
    except (ConfigError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} is damaged ({' '.join(str(error).split())[:150]}); run the command that made it again: "
            "it writes the file anew"
        ) from None


def _detections(folder: Path) -> pa.Table:
    try:
        return read_detections(folder)
    except DamagedFileError as error:
        raise ConfigError(str(error)) from None


def require_same_data(trials: Sequence[StoredTrial]) -> None:
    """Check that trials were judged by the same split of the same data, with the same metric.

    Raises:
        DataError: they were not, as far as their folders tell.
        ConfigError: they were judged with different metrics.
    """
    first = trials[0]
    for trial in trials[1:]:
        both = f"{first.folder} and {trial.folder}"
        if first.judged != trial.judged:
            raise DataError(
                f"{both} were judged by different splits, {first.judged} and {trial.judged}: "
                "their detections cannot be compared"
            )
        if first.content and trial.content and first.content != trial.content:
            changed = [part for part in first.content if first.content[part] != trial.content.get(part)]
            raise DataError(
                f"{both} were judged on different data ({' and '.join(changed)} of {first.judged} differ): "
                "their detections cannot be compared; drcnn evaluate --data judges each on the same data"
            )
        metrics = [one.config.evaluation.metric for one in (first, trial)]
        if metrics[0] != metrics[1]:
            raise ConfigError(f"{both} were judged with different metrics, {' and '.join(metrics)}")


def judge_trial(trial: StoredTrial, annotations: Annotations) -> JudgedDetections:
    """Match a trial's detections to the objects of its split.

    Raises:
        DataError: the split is not the one that the trial was judged by: other images, or another AP.
    """
    if trial.content and dict(trial.content) != annotations.content:
        raise DataError(
            f"{trial.folder}: the {trial.judged} split of {trial.config.data.source} has changed since this "
            "trial was judged by it; put the old data back, or give its place with --data"
        )
    try:
        judged = judge(annotations, trial.detections, trial.config.evaluation.metric)
    except ValueError as error:
        raise DataError(f"{trial.folder}: {error}") from None
    ap, before = float(judged.split.ap().mean()), trial.metrics.get(f"{trial.judged}/AP", math.nan)
    if abs(ap - before) > ROUNDING:
        raise DataError(
            f"{trial.folder}: its detections have an AP of {100 * ap:.2f} on {trial.config.data.source}, but "
            f"{100 * before:.2f} in its record: the data has changed since, or the detections are another's"
        )
    return judged
