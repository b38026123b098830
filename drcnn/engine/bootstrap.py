"""How uncertain a difference of average precision (AP) is: the bootstrap over images and over seeds.

Two things make the AP of a detector uncertain: the images that it is judged by are a sample, and so is the
seed of its training. ``resample`` measures the first, once for each trained detector; ``paired_bootstrap``
combines both when it compares two settings::

    a = [resample(split) for split in splits_at_085]  # one for each seed
    b = [resample(split) for split in splits_at_070]
    paired_bootstrap(a, b)["AP80"]  # Difference(value=0.031, low=0.012, high=0.05, p=0.0021)

AP is a fraction of 1 here. Shape shorthand: S seeds, B resamples of the images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from drcnn.engine.average_precision import METRICS, ScoredSplit, figures

__all__ = [
    "LEVEL",
    "Difference",
    "Interval",
    "Resampled",
    "mean_difference",
    "mean_interval",
    "paired_bootstrap",
    "resample",
]

LEVEL = 0.95
# Values closer than this are equal: they are sums of the same numbers in another order.
ROUNDING = 1e-12


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval; the limits are nan if there is only one value."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Resampled:
    """The metrics of one trained detector on the judged images and on resamples of them.

    Attributes:
        images: their number.
        seed: the seed of the resampling; the same seed draws the same images for every detector.
        whole: each metric on all images.
        draws: float[B] for each metric, its value on each of B resamples.
        curve: float[10], AP at each IoU threshold on all images.
        training: identifies the training that produced the detector; "" if that is unknown.
    """

    images: int
    seed: int
    whole: dict[str, float]
    draws: dict[str, NDArray[np.float64]]
    curve: NDArray[np.float64]
    training: str = ""


@dataclass(frozen=True)
class Difference:
    """First setting minus second: its value, 95 % interval and the two-sided p-value of the same test.

    With a single image nothing is known about other images: the limits are nan and p is 1.
    """

    value: float
    low: float
    high: float
    p: float

    @property
    def reversed(self) -> Difference:
        """Second setting minus first."""
        return Difference(-self.value, -self.high, -self.low, self.p)

    @property
    def p_above(self) -> float:
        """P(A > B): the probability, by the same Student's t, that the first setting's true mean is higher.

        The true mean is that over all seeds and all images; nothing is assumed about it beforehand.
        """
        return 1 - self.p / 2 if self.value > 0 else self.p / 2


def mean_interval(values: Sequence[float]) -> Interval:
    """Return the mean of independent values, one for each seed, and its 95 % interval by Student's t.

    Raises:
        ValueError: there is no value.
    """
    if not values:
        raise ValueError("the mean of no values is not defined")
    mean = float(np.mean(values))
    if len(values) == 1:
        return Interval(mean, math.nan, math.nan)
    half_width = _t(len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return Interval(mean, mean - half_width, mean + half_width)


def resample(split: ScoredSplit, resamples: int = 1000, seed: int = 0) -> Resampled:
    """Evaluate a trained detector on ``resamples`` draws of its images, with replacement.

    Splits with the same number of images get the same draws for the same ``seed``: this pairs them.
    """
    probabilities = np.full(split.images, 1 / split.images)
    counts = np.random.default_rng(seed).multinomial(split.images, probabilities, size=resamples)
    curve = split.ap()
    whole = {metric: float(value) for metric, value in figures(curve).items()}
    return Resampled(split.images, seed, whole, figures(split.ap(counts)), curve)


def paired_bootstrap(a: Sequence[Resampled], b: Sequence[Resampled]) -> dict[str, Difference]:
    """Compare two settings on the same images, each trained with one seed or several.

    The variance of the difference of the means over seeds is the sum of two parts:

    - the variance over images, from the paired resamples of the means over seeds;
    - the variance over seeds, pooled over the two settings. Detectors of two seeds also differ because each
      is better on other images; the first part holds that already, so it is subtracted from the second.

    The interval is Student's t with Satterthwaite's degrees of freedom: many if the images dominate, few if
    the seeds do. A percentile bootstrap that also draws seeds with replacement would find equal settings
    different far too often with 3 seeds (measured by ``benchmarks.calibration``), because 3 values drawn with
    replacement vary too little.

    Seeds are not paired: the same seed hardly makes two settings alike, and pairing halves the degrees of
    freedom. If it does make them alike, the interval is wider than necessary. The exception is two settings
    that evaluate the very same trained detectors in two ways: both share how good a detector is, so the
    differences of the single detectors replace the pooled values. Two seeds are few for that: if seeds matter
    far more than images, such an interval holds the true value in 87 % of cases.

    With one seed for each setting, the interval is about these trained detectors, not about their settings:
    reports make no such comparison (``Setting.is_replicated``).

    Args:
        a: the detectors of the first setting.
        b: the detectors of the second setting.

    Returns:
        For each metric, the difference a - b.

    Raises:
        ValueError: a setting has no detector, or they were not resampled alike.
    """
    return {metric: mean_difference(a, b, metric) for metric in METRICS}


def mean_difference(a: Sequence[Resampled], b: Sequence[Resampled], metric: str) -> Difference:
    """``paired_bootstrap`` for one metric."""
    if not a or not b:
        raise ValueError("each of the two settings needs at least one trained detector")
    if len({(detector.images, detector.seed, len(detector.draws["AP"])) for detector in (*a, *b)}) > 1:
        raise ValueError(
            "the detectors must be resampled on the same images, equally often, with the same seed"
        )
    are_same = _are_same_detectors(a, b)
    if are_same:
        a, b = (sorted(detectors, key=lambda detector: detector.training) for detectors in (a, b))
    # float[S] and float[S, B] of each setting.
    wholes = [np.array([detector.whole[metric] for detector in detectors]) for detectors in (a, b)]
    draws = [np.stack([detector.draws[metric] for detector in detectors]) for detectors in (a, b)]
    value = float(wholes[0].mean() - wholes[1].mean())
    images_freedom = a[0].images - 1
    if not images_freedom:
        return Difference(value, math.nan, math.nan, 1.0)
    # A resample of few images may hold no object: its AP is nan and is left out.
    images_variance = float(np.nanvar(draws[0].mean(axis=0) - draws[1].mean(axis=0), ddof=1))
    if are_same:
        # One sample from here on: the difference of each detector.
        wholes, draws = [wholes[0] - wholes[1]], [draws[0] - draws[1]]
    if all(len(whole) == 1 for whole in wholes):
        return _student(value, images_variance, images_freedom)
    between, within, seeds_freedom = _seeds_variance(wholes, draws)
    variance = images_variance + max(0.0, between - within)
    # Satterthwaite. All of ``between`` is uncertain, also the part that ``within`` cancels: few seeds may
    # have varied too little by chance. Counting only the rest gives 9 % false differences with 3 seeds
    # instead of 5 %.
    uncertainty = between**2 / seeds_freedom + images_variance**2 / images_freedom
    if not uncertainty:
        return _student(value, variance, images_freedom)
    # At least the degrees of freedom of the seeds: for nearly equal detectors the formula goes to 0 and the
    # interval to infinity.
    return _student(value, variance, max(seeds_freedom, variance**2 / uncertainty))


def _seeds_variance(
    wholes: Sequence[NDArray[np.float64]], draws: Sequence[NDArray[np.float64]]
) -> tuple[float, float, float]:
    """Variance over seeds of the difference of means, the part of it that images make, degrees of freedom.

    Settings that were trained equally often vary alike, as far as few seeds can tell: their variances are
    pooled, which also serves where they do not (``benchmarks.calibration``). With unequal counts a pooled
    variance would be mostly that of the setting with more seeds, while the other's mean is the less certain:
    equal settings would be found different in up to 20 % of cases. Welch's variances are each setting's own.
    """
    counts = np.array([len(whole) for whole in wholes])
    squares = np.array([((whole - whole.mean()) ** 2).sum() for whole in wholes])
    of_images = np.array([np.nanvar(draw - draw.mean(axis=0), axis=1, ddof=1).sum() for draw in draws])
    if len(set(counts)) == 1 or counts.min() == 1:
        freedom = float((counts - 1).sum())
        weight = float((1 / counts).sum()) / freedom
        return weight * float(squares.sum()), weight * float(of_images.sum()), freedom
    weights = 1 / (counts * (counts - 1))
    shares = weights * squares
    between = float(shares.sum())
    freedom = between**2 / float((shares**2 / (counts - 1)).sum()) if between else float(counts.min() - 1)
    return between, float((weights * of_images).sum()), freedom


def _are_same_detectors(a: Sequence[Resampled], b: Sequence[Resampled]) -> bool:
    """Whether both settings are the same trained detectors, evaluated in two ways."""
    trainings, others = (sorted(detector.training for detector in detectors) for detectors in (a, b))
    return trainings == others and len(set(trainings)) == len(trainings) and "" not in trainings


def _student(value: float, variance: float, freedom: float) -> Difference:
    if variance < ROUNDING**2:  # the same detections, or values that no choice of images changes
        return Difference(value, value, value, 1.0 if abs(value) < ROUNDING else 0.0)
    error = math.sqrt(variance)
    half_width = _t(freedom) * error
    p = float(2 * stats.t.sf(abs(value) / error, freedom))
    return Difference(value, value - half_width, value + half_width, p)


def _t(freedom: float) -> float:
    return float(stats.t.ppf((1 + LEVEL) / 2, freedom))
