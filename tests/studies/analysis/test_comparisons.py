from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from drcnn.engine.bootstrap import Difference, Resampled, paired_bootstrap
from studies.analysis.claims import best_claim, seeds_claim
from studies.analysis.comparisons import (
    Comparison,
    compare_best,
    compare_pairs,
    compare_with_baseline,
    holm,
    kendall,
)
from studies.analysis.verdicts import Verdict, is_within
from tests.engine.bootstrap_helpers import CURVE, IMAGES, detector, setting

ASKED = {"a": 0.50, "b": 0.504, "c": 0.51, "d": 0.506}


def test_holm_as_in_the_textbook() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
    # What is no test does not count.
    assert holm([0.01, math.nan, 0.04]) == pytest.approx([0.02, math.nan, 0.04], nan_ok=True)


def test_kendall_by_hand() -> None:
    assert kendall([1, 2, 3, 4, 5], [10, 20, 30, 40, 50]).p == pytest.approx(2 / 120)  # of all orders of 5
    assert kendall([1, 2, 3], [3, 2, 1]).tau == -1
    # 4 pairs agree, 1 is tied in each list: tau-b = 4 / 5.
    assert kendall([1, 2, 2, 4], [1, 2, 3, 3]).tau == pytest.approx(4 / 5)
    # Four have 24 orders: one is theirs, one the reverse.
    assert kendall([1, 3, 2, 4], [1, 2, 3, 4]).least == pytest.approx(2 / 24)
    assert math.isnan(kendall([1, 1, 1], [1, 2, 3]).tau)
    assert math.isnan(kendall([1], [1]).p)
    with pytest.raises(ValueError, match=r"2 of our figures.*3 of theirs"):
        kendall([1, 2], [1, 2, 3])


def test_the_baseline_is_compared_with_all_others_and_corrected() -> None:
    settings = [
        setting("0.7", [detector(0.50, 0.0, 1)] * 2),
        setting("0.8", [detector(0.53, 0.01, 2)] * 2),
        setting("unfinished", []),
        setting("one seed", [detector(0.60, 0.01, 4)]),
        setting("0.85", [detector(0.522, 0.01, 3)] * 2),
    ]
    comparisons = compare_with_baseline(settings[0], settings, "AP", 0.005)
    assert [comparison.label for comparison in comparisons] == ["0.8", "0.85"]
    p_values = [comparison.difference.p for comparison in comparisons]
    assert [comparison.p_holm for comparison in comparisons] == holm(p_values)
    assert comparisons[0].verdict is Verdict.SIGNIFICANT
    assert comparisons[0].sentence.startswith(
        "0.8 is significantly better than 0.7 by 3.0 AP (95 % interval +1.0 to +5.0 by itself; p = 0.00"
    )
    assert comparisons[0].sentence.endswith("after correction for 2 comparisons; P(A > B) > 99 %).")
    assert compare_with_baseline(settings[2], settings, "AP", 0.005) == []


def test_one_seed_says_nothing_about_a_setting() -> None:
    """However large the difference and however narrow its interval."""
    single = [setting("a", [detector(0.9, 0.001, 1)]), setting("b", [detector(0.1, 0.001, 2)])]
    several = setting("c", [detector(0.5, 0.001, 3), detector(0.5, 0.001, 4)])
    assert compare_best([*single, several], "AP", 0.005) == []
    assert compare_with_baseline(several, [*single, several], "AP", 0.005) == []
    assert compare_with_baseline(single[0], [*single, several], "AP", 0.005) == []
    assert "**Nothing can be said about settings**" in seeds_claim(single)
    assert "one seed are not compared" in seeds_claim([*single, several])


def test_the_best_is_compared_with_all_others_nearest_first() -> None:
    settings = [
        setting("a", [detector(0.40, 0.01, 1)] * 2),
        setting("b", [detector(0.50, 0.01, 2)] * 2),
        setting("c", [detector(0.49, 0.01, 3)] * 2),
        setting("unfinished", []),
    ]
    nearest, farthest = compare_best(settings, "AP50", 0.005)
    assert (nearest.label, nearest.baseline, nearest.verdict) == ("b", "c", Verdict.UNDECIDED)
    assert (farthest.label, farthest.baseline, farthest.verdict) == ("b", "a", Verdict.SIGNIFICANT)
    assert nearest.sentence.startswith("Undecided between b and c: +1.0 AP50 (95 % interval -1.")
    assert "of 2 other settings it is significantly better than 1 and undecided against 1" in best_claim(
        [nearest, farthest], settings
    )
    assert "be named**: it is undecided against the only other one." in best_claim([nearest], settings)
    assert nearest.comparisons == farthest.comparisons == 3  # with that of the two rivals
    assert compare_best(settings[:1], "AP50", 0.005) == []
    assert compare_best([], "AP50", 0.005) == []


def test_a_pair_has_one_verdict() -> None:
    """That of the best setting with the baseline is the planned one, and counts in no other family."""
    settings = [
        setting("a", [detector(0.40, 0.01, 1)] * 2),
        setting("b", [detector(0.50, 0.01, 2)] * 2),
        setting("c", [detector(0.49, 0.01, 3)] * 2),
        setting("d", [detector(0.48, 0.01, 4)] * 2),
    ]
    planned = compare_with_baseline(settings[0], settings, "AP", 0.005)
    of_best = compare_best(settings, "AP", 0.005, planned)
    assert [(each.baseline, each.comparisons) for each in of_best] == [("c", 3), ("d", 3), ("a", 3)]
    with_baseline = planned[0]
    assert of_best[-1].p_holm == with_baseline.p_holm
    assert of_best[-1].difference == with_baseline.difference  # b is the best, a the baseline
    (planned_one,) = compare_best(settings[:1] + settings[3:], "AP", 0.005, planned[-1:])
    assert planned_one == planned[-1]
    planned = compare_with_baseline(settings[1], settings, "AP", 0.005)
    assert compare_best(settings, "AP", 0.005, planned) == [
        planned[index].reversed
        for index in (1, 2, 0)  # all are planned where the baseline is the best
    ]
    assert planned[1].reversed.difference.value == -planned[1].difference.value
    assert planned[1].reversed.difference.p_above == pytest.approx(1 - planned[1].difference.p_above)


def test_what_was_asked_before_is_a_family_of_its_own() -> None:
    settings = [setting(name, [detector(value, 0.01, 1)] * 2) for name, value in ASKED.items()]
    asked = compare_pairs([(settings[2], settings[0])], "AP", 0.005)
    compared = compare_with_baseline(settings[2], settings, "AP", 0.005, asked)
    assert [(each.label, each.baseline, each.comparisons) for each in compared] == [
        ("a", "c", 1),
        ("b", "c", 2),
        ("d", "c", 2),
    ]
    assert compared[0] == asked[0].reversed
    p_values = [each.difference.p for each in compared[1:]]
    assert [each.p_holm for each in compared[1:]] == holm(p_values)


@pytest.mark.parametrize(("seeds", "by_images"), [(2, 0.02), (3, 0.005)])
def test_of_equal_settings_none_is_significantly_better(seeds: int, by_images: float) -> None:
    """The highest of eight equals is lucky: corrected for 7 comparisons only, 9 % would beat another."""
    rng = np.random.default_rng(0)
    tables, false = 300, 0
    for _ in range(tables):
        settings = [setting(str(n), [equal(rng, by_images) for _ in range(seeds)]) for n in range(8)]
        comparisons = compare_best(settings, "AP", 0.001)
        false += any(comparison.verdict is Verdict.SIGNIFICANT for comparison in comparisons)
    assert false / tables <= 0.06


@pytest.mark.parametrize("by_images", [0.02, 0.005])
@pytest.mark.parametrize("seeds", [2, 3])
def test_settings_that_differ_by_the_margin_are_seldom_equivalent(seeds: int, by_images: float) -> None:
    """At most 2.5 % are, by the level of the interval; of equal ones many are within so wide a margin."""
    rng = np.random.default_rng(0)
    pairs, margin = 400, 0.08
    counts = []
    for shift in (margin, 0.0):
        verdicts = []
        for _ in range(pairs):
            a, b = ([equal(rng, by_images, better) for _ in range(seeds)] for better in (shift, 0.0))
            (comparison,) = compare_with_baseline(setting("b", b), [setting("a", a)], "AP", margin)
            verdicts.append(is_within(comparison.difference, margin))
        counts.append(sum(verdicts))
    assert counts[0] / pairs <= 0.045
    assert counts[1] / pairs > (0.3 if seeds == 2 else 0.9)


def equal(rng: np.random.Generator, by_images: float, better: float = 0.0) -> Resampled:
    """A detector as good as all others but for chance; the share of the images in that is given."""
    whole = 0.4 + better + 0.02 * rng.normal()
    draws = whole + by_images * rng.normal(size=200)
    return Resampled(IMAGES, 0, {"AP": whole}, {"AP": draws}, CURVE)


def compared(difference: Difference, p_holm: float, comparisons: int) -> Comparison:
    return Comparison("a", "b", "AP", difference, p_holm, comparisons, 0.005)


def test_a_difference_may_lose_its_significance_to_the_correction() -> None:
    corrected = compared(Difference(0.02, 0.001, 0.039, 0.04), 0.2, 5)
    assert corrected.verdict is Verdict.UNDECIDED
    assert corrected.sentence == (
        "Undecided between a and b: +2.0 AP (95 % interval +0.1 to +3.9 by itself; "
        "p = 0.20 after correction for 5 comparisons; P(A > B) 98 %)."
    )
    worse = compared(Difference(-0.02, -0.03, -0.01, 0.0001), 0.0001, 1)
    assert worse.sentence == (
        "a is significantly worse than b by 2.0 AP (95 % interval -3.0 to -1.0; p < 0.001; P(A > B) < 1 %)."
    )


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-0.0049, 0.0049, Verdict.EQUIVALENT),
        (-0.0049, 0.005, Verdict.UNDECIDED),
        (-0.0051, 0.001, Verdict.UNDECIDED),
        (-math.inf, math.inf, Verdict.UNDECIDED),
        (math.nan, math.nan, Verdict.UNDECIDED),
    ],
)
def test_equivalent_is_an_interval_within_the_margin(low: float, high: float, expected: Verdict) -> None:
    comparison = compared(Difference(0.0002, low, high, 0.9), 0.9, 1)
    assert comparison.verdict is expected
    assert ("a and b are equivalent within ±0.5 AP: +0.0" in comparison.sentence) == (
        expected is Verdict.EQUIVALENT
    )


def test_a_significant_difference_may_be_too_small_to_matter() -> None:
    small = compared(Difference(0.002, 0.001, 0.003, 0.001), 0.001, 1)
    assert small.verdict is Verdict.SIGNIFICANT
    assert small.sentence.startswith("a is significantly better than b by 0.2 AP, below the margin of 0.5, (")


def test_names_of_settings_are_no_markup() -> None:
    made = replace(
        compared(Difference(0.02, 0.01, 0.03, 0.001), 0.001, 1), label="a_<b>", baseline="[x](y) *z*"
    )
    assert made.sentence.startswith(r"a\_&lt;b> is significantly better than \[x\](y) \*z\* by ")


def test_probability_that_the_first_is_above() -> None:
    """That of Student's t around the difference: one-sided, so half of the two-sided p on the far side."""
    up = paired_bootstrap(
        [detector(v, 0.0, 1) for v in (0.50, 0.52, 0.54)], [detector(v, 0.0, 1) for v in (0.44, 0.46, 0.48)]
    )["AP"]
    assert up.p_above == pytest.approx(float(stats.t.cdf(0.06 / (0.02 * math.sqrt(2 / 3)), 4)))
    down = Difference(-up.value, -up.high, -up.low, up.p)
    assert down.p_above == pytest.approx(1 - up.p_above)
    assert Difference(0.0, 0.0, 0.0, 1.0).p_above == 0.5
