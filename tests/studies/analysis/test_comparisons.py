from __future__ import annotations

import math

import numpy as np
import pytest
from bootstrap_helpers import CURVE, IMAGES, detector, setting

from studies.analysis.bootstrap import Difference, Resampled
from studies.analysis.comparisons import (
    Comparison,
    compare_best,
    compare_with_baseline,
    holm,
    kendall,
)


def test_holm_as_in_the_textbook() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


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
        setting("0.7", [detector(0.50, 0.0, 1)]),
        setting("0.8", [detector(0.53, 0.01, 2)]),
        setting("unfinished", []),
        setting("0.85", [detector(0.522, 0.01, 3)]),
    ]
    comparisons = compare_with_baseline(settings[0], settings, "AP")
    assert [comparison.label for comparison in comparisons] == ["0.8", "0.85"]
    p_values = [comparison.difference.p for comparison in comparisons]
    assert [comparison.p_holm for comparison in comparisons] == holm(p_values)
    assert comparisons[0].is_significant
    assert comparisons[0].sentence.startswith(
        "0.8 is better than 0.7 by 3.0 AP (significant; 95 % interval +1.0 to +5.0 by itself; p = 0.00"
    )
    assert comparisons[0].sentence.endswith("after correction for 2 comparisons).")
    assert compare_with_baseline(settings[2], settings, "AP") == []


def test_the_best_is_compared_with_all_others_nearest_first() -> None:
    settings = [
        setting("a", [detector(0.40, 0.01, 1)]),
        setting("b", [detector(0.50, 0.01, 2)]),
        setting("c", [detector(0.49, 0.01, 3)]),
        setting("unfinished", []),
    ]
    nearest, farthest = compare_best(settings, "AP50")
    assert (nearest.label, nearest.baseline, nearest.is_significant) == ("b", "c", False)
    assert (farthest.label, farthest.baseline, farthest.is_significant) == ("b", "a", True)
    assert nearest.sentence.startswith(
        "No significant difference between b and c: +1.0 AP50 (95 % interval -1."
    )
    assert nearest.comparisons == farthest.comparisons == 3  # with that of the two rivals
    assert compare_best(settings[:1], "AP50") == []
    assert compare_best([], "AP50") == []


@pytest.mark.parametrize(("seeds", "by_images"), [(1, 0.02), (3, 0.005)])
def test_of_equal_settings_none_is_significantly_better(seeds: int, by_images: float) -> None:
    """The highest of eight equals is lucky: corrected for 7 comparisons, 15 % and 9 % would beat another."""
    rng = np.random.default_rng(0)
    tables, false = 300, 0
    for _ in range(tables):
        settings = [setting(str(n), [equal(rng, by_images) for _ in range(seeds)]) for n in range(8)]
        false += any(comparison.is_significant for comparison in compare_best(settings, "AP"))
    assert false / tables <= 0.06


def equal(rng: np.random.Generator, by_images: float) -> Resampled:
    """A detector as good as all others but for chance; the share of the images in that is given."""
    whole = 0.4 + 0.02 * rng.normal()
    draws = whole + by_images * rng.normal(size=200)
    return Resampled(IMAGES, 0, {"AP": whole}, {"AP": draws}, CURVE)


def test_a_difference_may_lose_its_significance_to_the_correction() -> None:
    corrected = Comparison("a", "b", "AP", Difference(0.02, 0.001, 0.039, 0.04), 0.2, 5)
    assert not corrected.is_significant
    assert corrected.sentence == (
        "No significant difference between a and b: +2.0 AP "
        "(95 % interval +0.1 to +3.9 by itself; p = 0.20 after correction for 5 comparisons)."
    )
    worse = Comparison("a", "b", "AP", Difference(-0.02, -0.03, -0.01, 0.0001), 0.0001, 1)
    assert (
        worse.sentence == "a is worse than b by 2.0 AP (significant; 95 % interval -3.0 to -1.0; p < 0.001)."
    )
