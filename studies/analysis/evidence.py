"""What a study's trials have shown so far: by trial, and by setting over its seeds.

The resamples of a trial's detections take seconds, so they are kept beside the detections
(``resamples.npz``) and made anew when the detections, the test images or the code that judges them change.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from drcnn.data.annotations import Annotations, DataError
from drcnn.engine.record import Outcome, outcome
from drcnn.files import replacing
from studies.analysis import precision, statistics
from studies.analysis.precision import METRICS, score_split
from studies.analysis.statistics import Replicate, resample
from studies.definition.plan import Trial

__all__ = ["Measured", "Run", "Setting", "display_name", "gather", "load_annotations", "names_of", "short"]

RESAMPLES = 1000
# Names of settings as the paper writes them.
NAMES = {"nms_cls": "NMS_cls", "nms_reg": "NMS_reg", "nms_test": "NMS_test", "lambda_reg": "λ"}


@dataclass(frozen=True)
class Measured:
    """What the stored detections of a finished trial say.

    Attributes:
        replicate: figures on all test images and on resamples of them.
        curve: float[10], AP at each IoU threshold.
    """

    replicate: Replicate
    curve: NDArray[np.float64]


@dataclass(frozen=True)
class Run:
    """A trial and what is known of it; ``measured`` only if it finished and its detections can be read."""

    trial: Trial
    outcome: Outcome
    measured: Measured | None

    @property
    def is_finished(self) -> bool:
        """Trained to its end."""
        return self.outcome.status == "finished"


@dataclass(frozen=True)
class Setting:
    """One configuration and its runs, one a seed."""

    name: str
    runs: tuple[Run, ...]

    @property
    def first(self) -> Trial:
        """A trial of this setting; the others differ from it in their seed only."""
        return self.runs[0].trial

    @property
    def measured(self) -> list[Measured]:
        """Of its finished runs."""
        return [run.measured for run in self.runs if run.measured is not None]

    @property
    def replicates(self) -> list[Replicate]:
        """For ``studies.analysis.statistics``."""
        return [each.replicate for each in self.measured]

    def values(self, key: str) -> list[float]:
        """A figure of the last epoch, such as 'val/AP', of each finished run that has it."""
        found = [run.outcome.metrics.get(key, math.nan) for run in self.runs if run.is_finished]
        return [value for value in found if not math.isnan(value)]

    def mean(self, key: str) -> float:
        """The mean of ``values``; nan if there are none."""
        values = self.values(key)
        return float(np.mean(values)) if values else math.nan


def gather(trials: Sequence[Trial]) -> list[Setting]:
    """Read every trial's folder; trials that differ only in their seed are one setting, in order."""
    # Only detectors that were tried on the same images can be compared.
    val = trials[0].data.val if trials else ""
    annotations = load_annotations(val)
    groups: dict[str, list[Run]] = {}
    for trial in {trial.id: trial for trial in trials}.values():
        found = outcome(trial.folder)
        measured = None
        if found.status == "finished" and trial.data.val == val and annotations is not None:
            measured = _measure(trial, annotations)
        key = trial.config.model_copy(update={"seed": 0}).to_yaml()
        groups.setdefault(key, []).append(Run(trial, found, measured))
    names = _names([runs[0].trial for runs in groups.values()])
    return [Setting(name, tuple(runs)) for name, runs in zip(names, groups.values(), strict=True)]


def load_annotations(path: str) -> Annotations | None:
    """The test images' objects; none if the data was moved away: figures are left, comparisons are not."""
    try:
        return Annotations.load(path)
    except DataError:
        return None


def names_of(settings: Sequence[Setting]) -> list[str]:
    """Names that tell these settings apart, shorter than those that tell all of the study's apart."""
    return _names([setting.first for setting in settings])


def display_name(key: str) -> str:
    """A dotted key as a reader of the paper knows it: 'detector.nms_reg' is NMS_reg."""
    leaf = key.rpartition(".")[2]
    return NAMES.get(leaf, leaf)


def short(value: Any) -> str:
    """A setting's value in a word."""
    if value is None:
        return "none"
    if isinstance(value, list | tuple):
        return ", ".join(short(each) for each in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _names(trials: Sequence[Trial]) -> list[str]:
    """A name for each: the settings in which they differ."""
    varied = _differing(trials, list(dict.fromkeys(key for trial in trials for key in trial.varied)))
    names = [_name(trial, varied) for trial in trials]
    if len(set(names)) == len(names):
        return names
    # A named variant brings settings that its study does not name.
    everything = [key for key, _ in trials[0].config.flat() if key not in varied]
    return [_name(trial, [*varied, *_differing(trials, everything)]) for trial in trials]


def _differing(trials: Sequence[Trial], keys: Iterable[str]) -> list[str]:
    flat = [dict(trial.config.flat()) for trial in trials]
    return [key for key in keys if key != "seed" and len({short(each[key]) for each in flat}) > 1]


def _name(trial: Trial, keys: Sequence[str]) -> str:
    settings = dict(trial.config.flat())
    # A word says what it is of; a number does not.
    parts = [
        settings[key] if isinstance(settings[key], str) else f"{display_name(key)}={short(settings[key])}"
        for key in keys
    ]
    return " ".join(parts) or "the one setting"


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
        return Measured(Replicate(images, int(stored["seed"]), whole, resampled), stored["curve"])
