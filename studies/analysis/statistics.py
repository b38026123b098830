"""How sure one may be that a setting is better: intervals, comparisons, and agreement with the paper.

Two things make a figure of average precision (AP) uncertain: the test images might have been others, and the
training's seed might have been another. ``resample`` measures the first, once for each trained detector;
``paired_bootstrap`` sets two settings against each other with both.

    >>> ours = [resample(split) for split in splits_at_085]  # one of each seed
    >>> theirs = [resample(split) for split in splits_at_070]
    >>> paired_bootstrap(ours, theirs)["AP80"]
    Difference(value=0.031, low=0.012, high=0.05, p=0.0021)

Figures are fractions of 1; sentences say them times 100, as the paper does.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from studies.analysis.precision import METRICS, ScoredSplit, figures

__all__ = [
    "Agreement",
    "Comparison",
    "Difference",
    "Interval",
    "Resampled",
    "compare_with",
    "holm",
    "kendall",
    "mean_interval",
    "paired_bootstrap",
    "resample",
    "winner",
]

LEVEL = 0.95
# Figures that differ by less are the same: sums of the same numbers in another order.
ROUNDING = 1e-12


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval; the interval is nan where one value is all there is."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Resampled:
    """The figures of one trained detector, by the names of ``studies.analysis.precision.METRICS``.

    Attributes:
        images: how many the test set has.
        seed: of the resamples; the same seed draws the same images for every detector.
        whole: on all images.
        resampled: float[B], on each of B resamples of the images.
        training: says which training made the detector; "" if that is not known.
    """

    images: int
    seed: int
    whole: dict[str, float]
    resampled: dict[str, NDArray[np.float64]]
    training: str = ""


@dataclass(frozen=True)
class Difference:
    """First setting minus second: its value, 95 % interval and two-sided p-value, which agree.

    Where nothing is known of other images, as there is one only, the interval is nan and p is 1.
    """

    value: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Comparison:
    """One setting against a reference, as one of several comparisons.

    Attributes:
        name: of the setting.
        reference: name of what it is compared with.
        metric: of ``studies.analysis.precision.METRICS``.
        difference: setting minus reference; interval and p-value of this comparison alone.
        p_holm: the p-value corrected for all ``comparisons`` made together.
        comparisons: how many those are.
    """

    name: str
    reference: str
    metric: str
    difference: Difference
    p_holm: float
    comparisons: int

    @property
    def is_significant(self) -> bool:
        """Whether a difference was shown: the chance of a false claim among all comparisons is below 5 %."""
        return self.p_holm < 1 - LEVEL

    @property
    def sentence(self) -> str:
        """The result in plain words."""
        found = self.difference
        size = f"{100 * abs(found.value):.1f} {self.metric}"
        several = self.comparisons > 1
        interval = f"95 % interval {100 * found.low:+.1f} to {100 * found.high:+.1f}"
        interval += " by itself" if several else ""
        if math.isnan(found.low):
            interval = "one test image gives no interval"
        corrected = f" after correction for {self.comparisons} comparisons" if several else ""
        chance = f"{_p(self.p_holm)}{corrected}"
        if self.is_significant:
            word = "better" if found.value > 0 else "worse"
            return f"{self.name} is {word} than {self.reference} by {size} ({interval}; {chance})."
        return (
            f"No difference shown between {self.name} and {self.reference}: "
            f"{100 * found.value:+.1f} {self.metric} ({interval}; {chance})."
        )


@dataclass(frozen=True)
class Agreement:
    """How far two rankings agree; nan where that is undefined.

    Attributes:
        tau: Kendall's tau-b, from -1 to 1.
        p: its two-sided p-value.
        least: the p-value that so many figures would have if they agreed wholly.
    """

    tau: float
    p: float
    least: float


def mean_interval(values: Sequence[float]) -> Interval:
    """Return the mean of independent values, one a seed, and its 95 % interval by Student's t.

    Raises:
        ValueError: there is no value.
    """
    if not values:
        raise ValueError("the mean of no values is not defined")
    mean = float(np.mean(values))
    if len(values) == 1:
        return Interval(mean, math.nan, math.nan)
    half = _t(len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half)


def resample(split: ScoredSplit, resamples: int = 1000, seed: int = 0) -> Resampled:
    """Measure a trained detector on ``resamples`` draws of its test images, with replacement.

    Splits of the same number of images are drawn alike for the same ``seed``: that is what pairs them.
    """
    chances = np.full(split.images, 1 / split.images)
    counts = np.random.default_rng(seed).multinomial(split.images, chances, size=resamples)
    whole = {name: float(value) for name, value in figures(split.ap()).items()}
    return Resampled(split.images, seed, whole, figures(split.ap(counts)))


def paired_bootstrap(a: Sequence[Resampled], b: Sequence[Resampled]) -> dict[str, Difference]:
    """Compare two settings on the same test images, each trained with one seed or several.

    The variance of the difference of the mean figures is the sum of two:

    - that of the images, from the paired resamples of the means over seeds;
    - that of the seeds, the settings pooled. Detectors of two seeds also differ because each does better on
      other images; the first variance has that part already, so it is taken out of the second.

    The interval is Student's t with Satterthwaite's degrees of freedom: many where the images decide, few
    where the seeds do. To draw seeds with replacement as well, and to take percentiles, would tell equal
    settings apart far too often where there are 3 seeds (measured by
    ``benchmarks.calibration``), as 3 values drawn with replacement vary too little.

    Seeds are not paired: the same seed hardly makes two settings alike, and pairing halves the degrees of
    freedom. If it does make them alike, the interval is wider than it need be. But where both settings are
    of the very same trainings (two ways to test each detector), what one detector is better by is common to
    both; then the differences of the single detectors take the place of the pooled figures. Two seeds are few
    for that: where they matter far more than the images, their interval holds the true value in 87 %.

    With one seed a setting, the interval is about these trained detectors, not about their settings.

    Args:
        a: the first setting's detectors; ``b`` those of the second.

    Returns:
        By metric, the difference a - b.

    Raises:
        ValueError: a setting has no detector, or they were not resampled alike.
    """
    _refuse_unlike(a, b)
    return {metric: _difference(a, b, metric) for metric in METRICS}


def _refuse_unlike(a: Sequence[Resampled], b: Sequence[Resampled]) -> None:
    if not a or not b:
        raise ValueError("each of the two settings needs at least one trained detector")
    if len({(each.images, each.seed, len(each.resampled["AP"])) for each in (*a, *b)}) > 1:
        raise ValueError(
            "the detectors must be resampled on the same images, equally often, with the same seed"
        )


def _difference(a: Sequence[Resampled], b: Sequence[Resampled], metric: str) -> Difference:
    are_same = _are_same_detectors(a, b)
    if are_same:
        a, b = (sorted(setting, key=lambda each: each.training) for setting in (a, b))
    wholes = [np.array([each.whole[metric] for each in setting]) for setting in (a, b)]
    # [seeds, B] of each setting.
    draws = [np.stack([each.resampled[metric] for each in setting]) for setting in (a, b)]
    value = float(wholes[0].mean() - wholes[1].mean())
    images_freedom = a[0].images - 1
    if not images_freedom:
        return Difference(value, math.nan, math.nan, 1.0)
    # A resample may hold no object at all where the images are few: nan, and left out.
    by_images = float(np.nanvar(draws[0].mean(axis=0) - draws[1].mean(axis=0), ddof=1))
    if are_same:
        # From here on one sample, of each detector's difference.
        wholes, draws = [wholes[0] - wholes[1]], [draws[0] - draws[1]]
    shares = sum(1 / len(whole) for whole in wholes)
    freedom = sum(len(whole) - 1 for whole in wholes)
    if not freedom:
        return _student(value, by_images, images_freedom)
    between = sum(float(((whole - whole.mean()) ** 2).sum()) for whole in wholes) / freedom
    within = sum(float(np.nanvar(draw - draw.mean(axis=0), axis=1, ddof=1).sum()) for draw in draws) / freedom
    variance = by_images + shares * max(0.0, between - within)
    # All of ``between`` is uncertain, also the part that ``within`` takes away: few seeds may have shown too
    # little of it. Counting only what remains would find 9 % false differences in 3 seeds, instead of 5.
    uncertainty = (shares * between) ** 2 / freedom + by_images**2 / images_freedom
    if not uncertainty:
        return _student(value, variance, images_freedom)
    # Never fewer than the seeds': where detectors are nearly equal, the formula would go to 0, the interval
    # to infinity.
    return _student(value, variance, max(float(freedom), variance**2 / uncertainty))


def _are_same_detectors(a: Sequence[Resampled], b: Sequence[Resampled]) -> bool:
    """Whether both settings are the same trained detectors, tested in two ways."""
    ours, theirs = (sorted(each.training for each in setting) for setting in (a, b))
    return ours == theirs and len(set(ours)) == len(ours) and "" not in ours


def _student(value: float, variance: float, freedom: float) -> Difference:
    if variance < ROUNDING**2:  # the same detections, or figures that no image could change
        return Difference(value, value, value, 1.0 if abs(value) < ROUNDING else 0.0)
    error = math.sqrt(variance)
    half = _t(freedom) * error
    return Difference(value, value - half, value + half, float(2 * stats.t.sf(abs(value) / error, freedom)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's corrected p-values: below 0.05 in one of 20 families of true null hypotheses at most.

    Source: S. Holm, A simple sequentially rejective multiple test procedure, 1979.
    """
    corrected = [1.0] * len(p_values)
    highest = 0.0
    for rank, place in enumerate(np.argsort(p_values, kind="stable")):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = highest
    return corrected


def compare_with(
    reference: str, settings: Mapping[str, Sequence[Resampled]], metric: str = "AP"
) -> list[Comparison]:
    """Compare every other setting with the reference, corrected for as many comparisons.

    Args:
        reference: a key of ``settings``, chosen before looking at the results (the paper's best, a baseline).
        settings: the trained detectors of each setting, by name.
        metric: of ``studies.analysis.precision.METRICS``.
    """
    pairs = [(name, reference) for name in settings if name != reference]
    return _compare(pairs, settings, metric)


def winner(settings: Mapping[str, Sequence[Resampled]], metric: str = "AP") -> list[Comparison]:
    """Compare the setting of the highest mean with all others, nearest rival first.

    Call it the best only if every comparison is ``shown``. As it is chosen by the very figures that are then
    compared, it is likely to be lucky, and its difference from the last of many equals is the largest of all
    pairs'. So the correction is for all pairs, k (k - 1) / 2 for k settings, not for the k - 1 that are
    returned: those alone would make a false claim in 8 of 100 tables of 4 equal settings, in 20 of 16.

    Returns:
        The best setting against each other one; empty for a single setting.
    """
    means = {name: float(np.mean([each.whole[metric] for each in found])) for name, found in settings.items()}
    order = sorted(settings, key=lambda name: -means[name])
    # The pairs of the first come first.
    return _compare(list(itertools.combinations(order, 2)), settings, metric)[: len(order) - 1]


def _compare(
    pairs: Sequence[tuple[str, str]], settings: Mapping[str, Sequence[Resampled]], metric: str
) -> list[Comparison]:
    found = []
    for name, reference in pairs:
        _refuse_unlike(settings[name], settings[reference])
        found.append(_difference(settings[name], settings[reference], metric))
    corrected = holm([difference.p for difference in found])
    return [
        Comparison(*pair, metric, difference, p_holm, len(pairs))
        for pair, difference, p_holm in zip(pairs, found, corrected, strict=True)
    ]


def kendall(ours: Sequence[float], theirs: Sequence[float]) -> Agreement:
    """Return how far two lists of figures rank the same settings alike; ties are allowed.

    Raises:
        ValueError: the lists have different lengths.
    """
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} of our figures cannot be ranked beside {len(theirs)} of theirs")
    if len(set(ours)) < 2 or len(set(theirs)) < 2:
        return Agreement(math.nan, math.nan, math.nan)
    found = stats.kendalltau(ours, theirs)
    # In their order, with their ties and without: which of the two is less depends on how p is computed.
    whole = (theirs, np.argsort(np.argsort(theirs, kind="stable")))
    least = min(float(stats.kendalltau(order, theirs).pvalue) for order in whole)
    return Agreement(float(found.statistic), float(found.pvalue), least)


def _t(freedom: float) -> float:
    return float(stats.t.ppf((1 + LEVEL) / 2, freedom))


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}" if value < 0.1 else f"p = {value:.2f}"
