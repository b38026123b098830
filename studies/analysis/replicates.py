"""What a study's trials have shown so far: by trial, and by setting over its seeds.

The resamples of a trial's detections take seconds, so they are kept beside the detections
(``resamples.npz``) and made anew when the detections, the test images or the code that judges them change.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from drcnn.data.annotations import Annotations, DataError
from drcnn.engine.record import TrialRecord, read_record
from drcnn.files import replacing
from studies.analysis import precision, statistics
from studies.analysis.precision import METRICS, score_split
from studies.analysis.statistics import Resampled, resample
from studies.definition.labels import labels
from studies.definition.plan import Trial

__all__ = [
    "Measured",
    "Replicate",
    "Setting",
    "group_by_setting",
    "load_annotations",
    "setting_labels",
]

RESAMPLES = 1000


@dataclass(frozen=True)
class Measured:
    """What the stored detections of a finished trial say.

    Attributes:
        replicate: figures on all test images and on resamples of them.
        curve: float[10], AP at each IoU threshold.
    """

    replicate: Resampled
    curve: NDArray[np.float64]


@dataclass(frozen=True)
class Replicate:
    """A trial and what is known of it; ``measured`` only if it finished and its detections can be read."""

    trial: Trial
    record: TrialRecord
    measured: Measured | None

    @property
    def is_finished(self) -> bool:
        """Trained to its end."""
        return self.record.is_finished


@dataclass(frozen=True)
class Setting:
    """One configuration and its runs, one a seed."""

    name: str
    runs: tuple[Replicate, ...]

    @property
    def first(self) -> Trial:
        """A trial of this setting; the others differ from it in their seed only."""
        return self.runs[0].trial

    @property
    def measured(self) -> list[Measured]:
        """Of its finished runs."""
        return [run.measured for run in self.runs if run.measured is not None]

    @property
    def resampled(self) -> list[Resampled]:
        """For ``studies.analysis.statistics``."""
        return [each.replicate for each in self.measured]

    def values(self, key: str) -> list[float]:
        """A figure of the last epoch, such as 'val/AP', of each finished run that has it."""
        found = [run.record.metrics.get(key, math.nan) for run in self.runs if run.is_finished]
        return [value for value in found if not math.isnan(value)]

    def mean(self, key: str) -> float:
        """The mean of ``values``; nan if there are none."""
        values = self.values(key)
        return float(np.mean(values)) if values else math.nan


def group_by_setting(trials: Sequence[Trial]) -> list[Setting]:
    """Read every trial's folder; trials that differ only in their seed are one setting, in order."""
    # Only detectors that were tried on the same images can be compared.
    val = trials[0].data.val if trials else ""
    annotations = load_annotations(val)
    groups: dict[str, list[Replicate]] = {}
    for trial in {trial.id: trial for trial in trials}.values():
        found = read_record(trial.folder)
        measured = None
        if found.is_finished and trial.data.val == val and annotations is not None:
            measured = _measure(trial, annotations)
        key = trial.config.model_copy(update={"seed": 0}).to_yaml()
        groups.setdefault(key, []).append(Replicate(trial, found, measured))
    names = _labels([runs[0].trial for runs in groups.values()])
    return [Setting(name, tuple(runs)) for name, runs in zip(names, groups.values(), strict=True)]


def load_annotations(path: str) -> Annotations | None:
    """The test images' objects; none if the data was moved away: figures are left, comparisons are not."""
    try:
        return Annotations.load(path)
    except DataError:
        return None


def setting_labels(settings: Sequence[Setting]) -> list[str]:
    """Labels that tell these settings apart, shorter than those that tell all of the study's apart."""
    return _labels([setting.first for setting in settings])


def _labels(trials: Sequence[Trial]) -> list[str]:
    varied = list(dict.fromkeys(key for trial in trials for key in trial.varied))
    return labels([dict(trial.config.flat()) for trial in trials], varied)


def _measure(trial: Trial, annotations: Annotations) -> Measured | None:
    detections = trial.folder / "detections.parquet"
    if not detections.exists():
        return None
    cache = trial.folder / "resamples.npz"
    stamp = _stamp(detections, annotations, trial.config.evaluation.metric)
    known = _load(cache, stamp, len(annotations))
    if known is None:
        split = score_split(annotations, pq.read_table(detections), trial.config.evaluation.metric)
        known = Measured(resample(split, RESAMPLES), split.ap())
        _save(cache, stamp, known)
    # No object of any class, or of no class a number: there is nothing to compare.
    if math.isnan(known.replicate.whole["AP"]):
        return None
    return replace(known, replicate=replace(known.replicate, training=(trial.model or trial).id))


def _stamp(detections: Path, annotations: Annotations, protocol: str) -> str:
    digest = hashlib.sha256(f"{annotations.fingerprint} {protocol} {RESAMPLES}".encode())
    for path in (detections, Path(precision.__file__), Path(statistics.__file__)):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _save(path: Path, stamp: str, measured: Measured) -> None:
    found = measured.replicate
    with replacing(path) as draft, draft.open("wb") as file:
        np.savez(
            file,
            stamp=np.array(stamp),
            seed=np.array(found.seed),
            whole=np.array([found.whole[name] for name in METRICS]),
            resampled=np.stack([found.resampled[name] for name in METRICS]),
            curve=measured.curve,
        )


def _load(path: Path, stamp: str, images: int) -> Measured | None:
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as stored:
        if str(stored["stamp"]) != stamp:
            return None
        whole = dict(zip(METRICS, stored["whole"].tolist(), strict=True))
        resampled = dict(zip(METRICS, stored["resampled"], strict=True))
        return Measured(Resampled(images, int(stored["seed"]), whole, resampled), stored["curve"])
