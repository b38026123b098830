"""The results of a study's trials so far, grouped by setting.

Resampling a trial's detections takes seconds, so the result is cached beside them (``.resamples.npz``; a dot
file, which no store uploads) and computed again when it is damaged, or when the detections, the judged images
or the code that evaluates them change.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from drcnn.data.annotations import Annotations, DataError
from drcnn.engine import ap_matching, ap_ties, average_precision, bootstrap, metrics
from drcnn.engine.average_precision import METRICS, score_split
from drcnn.engine.bootstrap import Resampled, resample
from drcnn.engine.detections_file import DETECTIONS, read_detections
from drcnn.engine.record import TrialRecord, read_record
from drcnn.files import replacing
from drcnn.sealed import DamagedFileError
from studies.definition.labels import labels
from studies.definition.metrics import key_of
from studies.definition.plan import Trial

__all__ = ["Replicate", "Setting", "group_by_setting", "load_annotations", "setting_labels"]

logger = logging.getLogger(__name__)

RESAMPLES = 1000


@dataclass(frozen=True)
class Replicate:
    """A trial, its record, and its resampled metrics if it finished and its detections can be read."""

    trial: Trial
    record: TrialRecord
    resampled: Resampled | None

    @property
    def is_finished(self) -> bool:
        """Whether the trial was trained to its end."""
        return self.record.is_finished

    def figure(self, name: str) -> float:
        """A metric of the last epoch, nan if it has none; ``AP50`` is of the split that is judged."""
        return self.record.metric(name if "/" in name else key_of(name, self.trial.data.judged))


@dataclass(frozen=True)
class Setting:
    """A configuration without its seed, and its replicates, one for each seed."""

    label: str
    replicates: tuple[Replicate, ...]

    @property
    def first(self) -> Trial:
        """A trial of this setting; the others differ from it in their seed only."""
        return self.replicates[0].trial

    @property
    def resampled(self) -> list[Resampled]:
        """The resampled metrics of the replicates that have them."""
        return [replicate.resampled for replicate in self.replicates if replicate.resampled is not None]

    @property
    def is_replicated(self) -> bool:
        """Whether two seeds or more can be compared: of a single one nothing is said about the setting."""
        return len(self.resampled) > 1

    def values(self, name: str) -> list[float]:
        """A metric's ``Replicate.figure`` of each finished replicate that has it."""
        values = [replicate.figure(name) for replicate in self.replicates if replicate.is_finished]
        return [value for value in values if not math.isnan(value)]

    def mean(self, name: str) -> float:
        """The mean of ``values``; nan if there are none."""
        values = self.values(name)
        return float(np.mean(values)) if values else math.nan


def group_by_setting(trials: Sequence[Trial]) -> list[Setting]:
    """Read the folder of every trial and group trials that differ only in their seed, in order."""
    # Only detectors that were evaluated on the same images can be compared.
    split = trials[0].data.judged_table if trials else ""
    annotations = load_annotations(split)
    groups: dict[str, list[Replicate]] = {}
    for trial in {trial.id: trial for trial in trials}.values():
        record = read_record(trial.folder)
        resampled = None
        if record.is_finished and trial.data.judged_table == split and annotations is not None:
            resampled = _resample_detections(trial, annotations)
        groups.setdefault(trial.setting_key, []).append(Replicate(trial, record, resampled))
    group_labels = _labels([replicates[0].trial for replicates in groups.values()])
    return [Setting(label, tuple(group)) for label, group in zip(group_labels, groups.values(), strict=True)]


def load_annotations(path: str) -> Annotations | None:
    """The annotations of a split; none if the data was moved: then nothing can be compared."""
    try:
        return Annotations.load(path)
    except DataError:
        return None


def setting_labels(settings: Sequence[Setting]) -> list[str]:
    """Labels that are distinct among these settings, shorter than those distinct in the whole study."""
    return _labels([setting.first for setting in settings])


def _labels(trials: Sequence[Trial]) -> list[str]:
    varied = list(dict.fromkeys(key for trial in trials for key in trial.varied))
    return labels([dict(trial.config.flat()) for trial in trials], varied)


def _resample_detections(trial: Trial, annotations: Annotations) -> Resampled | None:
    try:
        detections = read_detections(trial.folder)
    except FileNotFoundError:
        return None
    except DamagedFileError as error:
        logger.warning("left out of all comparisons: %s", error)
        return None
    cache = trial.folder / ".resamples.npz"
    stamp = _stamp(trial.folder / DETECTIONS, annotations, trial.config.evaluation.metric)
    resampled = _load(cache, stamp, len(annotations))
    if resampled is None:
        resampled = resample(score_split(annotations, detections, trial.config.evaluation.metric), RESAMPLES)
        _save(cache, stamp, resampled)
    # The AP of images without objects is undefined: there is nothing to compare.
    if math.isnan(resampled.whole["AP"]):
        return None
    return replace(resampled, training=(trial.model or trial).id)


def _stamp(detections: Path, annotations: Annotations, protocol: str) -> str:
    """A hash of all that the resamples depend on."""
    digest = hashlib.sha256(f"{annotations.fingerprint} {protocol} {RESAMPLES}".encode())
    code = (
        ap_matching.__file__,
        ap_ties.__file__,
        average_precision.__file__,
        metrics.__file__,
        bootstrap.__file__,
    )
    for path in (detections, *map(Path, code)):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _save(path: Path, stamp: str, resampled: Resampled) -> None:
    with replacing(path) as draft, draft.open("wb") as file:
        np.savez(
            file,
            stamp=np.array(stamp),
            seed=np.array(resampled.seed),
            whole=np.array([resampled.whole[metric] for metric in METRICS]),
            draws=np.stack([resampled.draws[metric] for metric in METRICS]),
            curve=resampled.curve,
        )


def _load(path: Path, stamp: str, images: int) -> Resampled | None:
    """The cached resamples; none if they are missing or damaged, or if what they depend on has changed."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            if str(stored["stamp"]) != stamp:
                return None
            whole = dict(zip(METRICS, stored["whole"].tolist(), strict=True))
            draws = dict(zip(METRICS, stored["draws"], strict=True))
            return Resampled(images, int(stored["seed"]), whole, draws, stored["curve"])
    # A zip file, whose checksums are verified; damage raises whatever zipfile and numpy stumble over first.
    except Exception:
        return None
