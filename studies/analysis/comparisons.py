"""Comparisons of settings of several seeds, corrected for their number, and the agreement of two rankings."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from drcnn.engine.bootstrap import Difference, mean_difference
from drcnn.report.blocks import escape
from studies.analysis.replicates import Setting
from studies.analysis.verdicts import Verdict, is_within, verdict
from studies.definition.metrics import points

__all__ = [
    "Agreement",
    "Comparison",
    "compare_best",
    "compare_pairs",
    "compare_with_baseline",
    "holm",
    "kendall",
    "probability",
]


@dataclass(frozen=True)
class Comparison:
    """One setting compared with a baseline, as one of several comparisons.

    Attributes:
        label: the setting's.
        baseline: the label of the setting it is compared with.
        metric: the name of the metric, such as AP50.
        difference: setting minus baseline; interval and p-value of this comparison alone.
        p_holm: the p-value corrected for all ``comparisons`` made together.
        comparisons: how many those are.
        margin: the difference, a fraction, up to which settings are equivalent.
    """

    label: str
    baseline: str
    metric: str
    difference: Difference
    p_holm: float
    comparisons: int
    margin: float

    def is_of(self, setting: Setting | None) -> bool:
        """Whether a setting is one of the two."""
        return setting is not None and setting.label in (self.label, self.baseline)

    @property
    def reversed(self) -> Comparison:
        """The baseline compared with the setting."""
        return replace(self, label=self.baseline, baseline=self.label, difference=self.difference.reversed)

    @property
    def verdict(self) -> Verdict:
        """What it shows."""
        return verdict(self.difference, self.p_holm, self.margin)

    @property
    def sentence(self) -> str:
        """The result in plain words, as Markdown."""
        difference, verdict = self.difference, self.verdict
        label, baseline = escape(self.label), escape(self.baseline)
        equivalent = f"equivalent within ±{100 * self.margin:g} {self.metric}"
        value = f"{points(difference.value, signed=True)} {self.metric} ({self._evidence})"
        if verdict is Verdict.UNDECIDED:
            return f"Undecided between {label} and {baseline}: {value}."
        if verdict is Verdict.EQUIVALENT:
            return f"{label} and {baseline} are {equivalent}: {value}."
        word = "better" if difference.value > 0 else "worse"
        is_small = is_within(difference, self.margin)
        small = f", below the margin of {100 * self.margin:g}," if is_small else ""
        size = f"{points(abs(difference.value))} {self.metric}{small}"
        return f"{label} is significantly {word} than {baseline} by {size} ({self._evidence})."

    @property
    def _evidence(self) -> str:
        difference, are_several = self.difference, self.comparisons > 1
        if math.isnan(difference.low):
            return "one image gives no interval"
        low, high = points(difference.low, signed=True), points(difference.high, signed=True)
        interval = f"95 % interval {low} to {high}{' by itself' if are_several else ''}"
        corrected = f" after correction for {self.comparisons} comparisons" if are_several else ""
        return f"{interval}; {_p_text(self.p_holm)}{corrected}; P(A > B) {probability(difference.p_above)}"


@dataclass(frozen=True)
class Agreement:
    """How far two rankings agree; nan where that is undefined.

    Attributes:
        tau: Kendall's tau-b, from -1 to 1.
        p: its two-sided p-value; nan also where there was no test.
        least: the p-value of complete agreement between as many values: no p-value can be lower.
    """

    tau: float
    p: float
    least: float


def compare_pairs(
    pairs: Sequence[tuple[Setting, Setting]],
    metric: str,
    margin: float,
    planned: Sequence[Comparison] = (),
) -> list[Comparison]:
    """Compare the first setting of each pair with the second, corrected for the number of comparisons.

    Args:
        pairs: of settings with the detections of two seeds or more each.
        metric: the name of the metric, such as AP50.
        margin: the difference, a fraction, up to which settings are equivalent.
        planned: comparisons of another family, made before. Such a pair is returned as it is there, and does
            not count here: no pair has two verdicts.
    """
    known = {(each.label, each.baseline): each for way in planned for each in (way, way.reversed)}
    labels = [(setting.label, baseline.label) for setting, baseline in pairs]
    new = [pair for pair, names in zip(pairs, labels, strict=True) if names not in known]
    differences = [mean_difference(a.resampled, b.resampled, metric) for a, b in new]
    corrected = holm([difference.p for difference in differences])
    known |= {
        (a.label, b.label): Comparison(a.label, b.label, metric, difference, p_holm, len(new), margin)
        for (a, b), difference, p_holm in zip(new, differences, corrected, strict=True)
    }
    return [known[names] for names in labels]


def compare_with_baseline(
    baseline: Setting,
    settings: Sequence[Setting],
    metric: str,
    margin: float,
    planned: Sequence[Comparison] = (),
) -> list[Comparison]:
    """Compare every other setting with the baseline, corrected for the number of comparisons.

    Args:
        baseline: chosen before the results are known (the paper's best, the study's first).
        settings: those to compare; the baseline may be among them.
        metric, margin, planned: as of ``compare_pairs``.

    Returns:
        A comparison for each other setting with the detections of two seeds or more; none if the baseline
        has not as many: of a single seed nothing is said about settings.
    """
    if not baseline.is_replicated:
        return []
    others = [setting for setting in settings if setting.is_replicated and setting.label != baseline.label]
    return compare_pairs([(setting, baseline) for setting in others], metric, margin, planned)


def compare_best(
    settings: Sequence[Setting], metric: str, margin: float, planned: Sequence[Comparison] = ()
) -> list[Comparison]:
    """Compare the setting of the highest mean with all others, nearest first.

    Call it the best only if every comparison is significant. It is chosen by the very values that are then
    compared, so it is probably lucky, and its difference from the last of many equals is the largest of all
    pairs. So the correction is for all k (k - 1) / 2 pairs of k settings, not for the k - 1 returned: those
    alone would make a false claim in 8 of 100 tables of 4 equal settings, and in 20 of 100 tables of 16.

    Args:
        settings: those to compare; settings with the detections of fewer than two seeds are left out.
        metric, margin, planned: as of ``compare_pairs``.

    Returns:
        The best setting compared with each other one; empty for a single setting.
    """
    ranked = sorted(
        (setting for setting in settings if setting.is_replicated),
        key=lambda setting: -float(np.mean([detector.whole[metric] for detector in setting.resampled])),
    )
    # The pairs of the best setting come first.
    pairs = list(itertools.combinations(ranked, 2))
    return compare_pairs(pairs, metric, margin, planned)[: max(0, len(ranked) - 1)]


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's corrected p-values: any is below 0.05 in at most 5 % of families of true null hypotheses.

    A p-value of nan is that of no test: it stays, and does not count.

    Source: S. Holm, A simple sequentially rejective multiple test procedure, 1979.
    """
    tests = [index for index, p in enumerate(p_values) if not math.isnan(p)]
    corrected = [math.nan] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(tests, key=lambda index: p_values[index])):
        highest = max(highest, min(1.0, (len(tests) - rank) * p_values[index]))
        corrected[index] = highest
    return corrected


def kendall(ours: Sequence[float], theirs: Sequence[float]) -> Agreement:
    """Return how far two lists of values rank the same settings alike; ties are allowed.

    Raises:
        ValueError: the lists have different lengths.
    """
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} of our figures cannot be ranked beside {len(theirs)} of theirs")
    if len(set(ours)) < 2 or len(set(theirs)) < 2:
        return Agreement(math.nan, math.nan, math.nan)
    result = stats.kendalltau(ours, theirs)
    # Complete agreement with the same ties and without ties: scipy may compute either p as the lower one.
    complete = (theirs, np.argsort(np.argsort(theirs, kind="stable")))
    least = min(float(stats.kendalltau(order, theirs).pvalue) for order in complete)
    return Agreement(float(result.statistic), float(result.pvalue), least)


def _p_text(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def probability(value: float) -> str:
    """A probability in percent.

    >>> probability(0.934), probability(0.9999), probability(0.0)
    ('93 %', '> 99 %', '< 1 %')
    """
    return "> 99 %" if value > 0.99 else "< 1 %" if value < 0.01 else f"{100 * value:.0f} %"
