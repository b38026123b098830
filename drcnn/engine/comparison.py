"""Two detectors, or two settings with several seeds each, on the same images: which is better, and where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drcnn.config import ConfigError
from drcnn.data.annotations import Annotations
from drcnn.engine.bootstrap import Difference, Resampled, paired_bootstrap, resample
from drcnn.engine.diagnosis import best_score, image_curves, images_to_rank
from drcnn.engine.error_types import ERROR_TYPES, ErrorType, find_errors
from drcnn.engine.judged_detections import JudgedDetections
from drcnn.engine.metrics import mean_of_present
from drcnn.engine.stored_trial import StoredTrial, judge_trial, require_same_data
from drcnn.identity import effective_settings

__all__ = ["Comparison", "Side", "Win", "compare_trials"]


@dataclass(frozen=True)
class Side:
    """One of the two: trials that differ in their seed only.

    Attributes:
        trials: at least one.
        judged: the detections of each.
        resampled: the metrics of each, also on resamples of the images.
        lost: the AP50 that each type of error costs, mean over the trials.
        score: of the first trial's highest F1, from which its detections are drawn.
    """

    trials: Sequence[StoredTrial]
    judged: Sequence[JudgedDetections]
    resampled: Sequence[Resampled]
    lost: Mapping[ErrorType, float]
    score: float

    def mean(self, metric: str) -> float:
        """A metric's mean over the trials."""
        return float(np.mean([detector.whole[metric] for detector in self.resampled]))


@dataclass(frozen=True)
class Win:
    """An image on which one is better: its row, and the AP of both on it alone, mean over the trials."""

    row: int
    ap: tuple[float, float]


@dataclass(frozen=True)
class Comparison:
    """A compared with B.

    Attributes:
        annotations: the images that both are judged by.
        sides: A and B.
        settings: those that have an effect and differ, by dotted key: the values of A and of B; of the seed
            only where each has one.
        differences: A minus B, with paired intervals, by metric.
        wins: the images on which A is better by most, and those on which B is, greatest difference first.
    """

    annotations: Annotations
    sides: tuple[Side, Side]
    settings: Mapping[str, tuple[Any, Any]]
    differences: Mapping[str, Difference]
    wins: tuple[Sequence[Win], Sequence[Win]]

    @property
    def is_replicated(self) -> bool:
        """Whether both have two trials or more: else the intervals tell of detectors, not of settings."""
        return all(len(side.trials) > 1 for side in self.sides)

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON has it."""
        names = ("A", "B")
        differences = {
            name: {
                **{side: one.mean(name) for side, one in zip(names, self.sides, strict=True)},
                "difference": found.value,
                "low": None if np.isnan(found.low) else found.low,
                "high": None if np.isnan(found.high) else found.high,
                "p": found.p,
            }
            for name, found in self.differences.items()
        }
        return {
            **{
                side: [str(trial.folder) for trial in one.trials]
                for side, one in zip(names, self.sides, strict=True)
            },
            "split": self.sides[0].trials[0].judged,
            "images": len(self.annotations),
            "settings": {key: list(values) for key, values in self.settings.items()},
            "metrics": differences,
            "AP50_lost": {side: dict(one.lost) for side, one in zip(names, self.sides, strict=True)},
            "wins": {
                side: [
                    {"image": self.annotations.ids[win.row], "A": win.ap[0], "B": win.ap[1]} for win in wins
                ]
                for side, wins in zip(names, self.wins, strict=True)
            },
        }


def compare_trials(
    a: Sequence[StoredTrial], b: Sequence[StoredTrial], annotations: Annotations, count: int = 4
) -> Comparison:
    """Compare trials by their stored detections.

    Args:
        a: of one setting, one for each seed.
        b: likewise.
        annotations: the split that all were judged by.
        count: how many images to name on which one is better.

    Raises:
        ConfigError: the trials of one side differ in more than their seed, or in the metric.
        DataError: they were judged by other data than ``annotations``, or by different splits.
    """
    for trials in (a, b):
        _require_replicates(trials)
    require_same_data([*a, *b])
    left, right = _side(a, annotations), _side(b, annotations)
    return Comparison(
        annotations,
        (left, right),
        _differing(a, b),
        paired_bootstrap(left.resampled, right.resampled),
        _wins(left, right, annotations, count),
    )


def _side(trials: Sequence[StoredTrial], annotations: Annotations) -> Side:
    judged = [judge_trial(trial, annotations) for trial in trials]
    resampled = [
        replace(resample(one.split), training=str(trial.checkpoint.resolve()))
        for trial, one in zip(trials, judged, strict=True)
    ]
    lost = [find_errors(one).lost() for one in judged]
    means = {kind: mean_of_present(np.array([one[kind] for one in lost])) for kind in ERROR_TYPES}
    return Side(trials, judged, resampled, means, best_score(judged[0])[0])


def _require_replicates(trials: Sequence[StoredTrial]) -> None:
    """Check that trials are of one setting, each with a seed of its own."""
    first = trials[0]
    for trial in trials[1:]:
        differing = _differing([first], [trial])
        if others := [key for key in differing if key != "seed"]:
            raise ConfigError(
                f"{first.folder} and {trial.folder} differ in {', '.join(others)}: trials joined by a comma "
                "are of one setting and differ in their seed only"
            )
        if not differing:
            raise ConfigError(f"{first.folder} and {trial.folder} are the same trial: give it once")


def _differing(a: Sequence[StoredTrial], b: Sequence[StoredTrial]) -> dict[str, tuple[Any, Any]]:
    left, right = (effective_settings(trials[0].config) for trials in (a, b))
    keys = [key for key in {**left, **right} if left.get(key) != right.get(key)]
    if len(a) > 1 or len(b) > 1:
        keys = [key for key in keys if key != "seed"]
    return {key: (left.get(key), right.get(key)) for key in keys}


def _wins(left: Side, right: Side, annotations: Annotations, count: int) -> tuple[list[Win], list[Win]]:
    rows = images_to_rank(annotations)
    ap: list[NDArray[np.float64]] = [
        np.mean([image_curves(judged.split, rows).mean(axis=1) for judged in side.judged], axis=0)
        for side in (left, right)
    ]
    difference = np.nan_to_num(ap[0] - ap[1])
    order = np.argsort(-difference, kind="stable")
    first = [at for at in order[:count] if difference[at] > 0]
    second = [at for at in order[::-1][:count] if difference[at] < 0]
    return (
        [Win(int(rows[at]), (float(ap[0][at]), float(ap[1][at]))) for at in first],
        [Win(int(rows[at]), (float(ap[0][at]), float(ap[1][at]))) for at in second],
    )
