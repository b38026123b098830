from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from drcnn.engine.average_precision import ScoredClass, ScoredSplit
from drcnn.engine.bootstrap import Difference, Resampled, mean_interval, paired_bootstrap, resample
from studies.analysis.comparisons import compare_best, compare_with_baseline

from .bootstrap_helpers import CURVE, IMAGES, detector, setting


def test_mean_interval_is_students() -> None:
    interval = mean_interval([1.0, 2.0, 3.0])
    half = 4.302653 / math.sqrt(3)  # t of 2 degrees of freedom, from a table
    assert (interval.mean, interval.low, interval.high) == pytest.approx((2, 2 - half, 2 + half))


def test_one_value_has_no_interval() -> None:
    interval = mean_interval([0.5])
    assert interval.mean == 0.5
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)
    with pytest.raises(ValueError, match="no values"):
        mean_interval([])


def split_of(correct: list[bool], images: list[int]) -> ScoredSplit:
    """One class and as many objects as detections, each right at all thresholds or wrong at all."""
    flags = np.tile(np.array(correct), (10, 1))
    rows = np.arange(len(images))
    scored = ScoredClass(
        np.array(images), flags, np.zeros_like(flags), np.array(images), -rows, rows, np.full_like(rows, -1)
    )
    return ScoredSplit(max(images) + 1, np.linspace(0, 1, 101), (scored,))


def test_resamples_are_draws_of_as_many_images() -> None:
    half_right = split_of([True, False] * 50, list(range(100)))
    resampled = resample(half_right, resamples=400, seed=3)
    assert resampled.whole["AP"] == pytest.approx(float(half_right.ap().mean()))
    assert resampled.draws["AP90"].shape == (400,)
    assert resampled.draws["AP"].mean() == pytest.approx(resampled.whole["AP"], abs=0.02)
    np.testing.assert_array_equal(
        resampled.draws["AP"], resample(half_right, resamples=400, seed=3).draws["AP"]
    )


def test_the_same_detections_do_not_differ() -> None:
    both = [resample(split_of([True, False] * 20, list(range(40))), resamples=50)]
    assert paired_bootstrap(both, both)["AP"] == Difference(0, 0, 0, 1)


def test_images_are_paired() -> None:
    """One detection more is right in 20 of 100 images that otherwise agree."""
    rng = np.random.default_rng(0)
    right = rng.random(100) < 0.5
    more = right | (rng.random(100) < 0.2)
    a, b = (
        [resample(split_of(flags.tolist(), list(range(100))), resamples=300, seed=1)]
        for flags in (more, right)
    )
    elsewhere = [resample(split_of(right[::-1].tolist(), list(range(100))), resamples=300, seed=1)]
    paired, unpaired = paired_bootstrap(a, b)["AP"], paired_bootstrap(a, elsewhere)["AP"]
    assert paired.high - paired.low < 0.75 * (unpaired.high - unpaired.low)
    assert paired.low > 0


def test_with_one_seed_the_interval_is_that_of_the_images() -> None:
    difference = paired_bootstrap([detector(0.5, 0.0, 1)], [detector(0.4, 0.03, 2)])["AP80"]
    assert difference.value == pytest.approx(0.1)
    assert (difference.high - difference.low) / 2 == pytest.approx(1.96593 * 0.03, rel=1e-4)  # t of 399
    assert difference.p == pytest.approx(0.00094, rel=0.02)


def test_with_several_seeds_few_degrees_of_freedom_are_left() -> None:
    """Images that change nothing: Student's two-sample test, 4 degrees of freedom for 2 times 3 seeds."""
    a = [detector(value, 0.0, 1) for value in (0.50, 0.52, 0.54)]
    b = [detector(value, 0.0, 1) for value in (0.44, 0.46, 0.48)]
    difference = paired_bootstrap(a, b)["AP"]
    error = 0.02 * math.sqrt(2 / 3)
    assert (difference.high - difference.low) / 2 == pytest.approx(2.776445 * error)
    assert difference.p == pytest.approx(0.0214, abs=1e-4)  # t = 3.674
    opposite = paired_bootstrap(b, a)["AP"]
    assert (opposite.value, opposite.low, opposite.high) == pytest.approx(
        (-0.06, -difference.high, -difference.low)
    )


def test_variance_of_the_images_is_not_counted_again_as_variance_of_the_seeds() -> None:
    """Three equally good detectors, each better on other images by chance."""
    a = [detector(value, 0.02, number) for number, value in enumerate((0.50, 0.52, 0.54))]
    b = [detector(value, 0.02, number) for number, value in enumerate((0.50, 0.52, 0.54), start=3)]
    difference = paired_bootstrap(a, b)["AP"]
    draws = np.mean([x.draws["AP"] - y.draws["AP"] for x, y in zip(a, b, strict=True)], axis=0)
    assert difference.value == pytest.approx(0)
    by_images, by_seeds = float(draws.std(ddof=1)), 0.02 * math.sqrt(2 / 3)
    assert by_images < (difference.high - difference.low) / 2 / 2.776 < 0.85 * math.hypot(by_images, by_seeds)


def test_nearly_equal_detectors_keep_a_finite_interval() -> None:
    """The same detectors tested in two ways: seeds vary much, the difference does not."""
    a = [detector(value, 0.02, number) for number, value in enumerate((0.500, 0.510, 0.520))]
    b = [detector(value + 1e-4, 0.02, number) for number, value in enumerate((0.500, 0.510, 0.520))]
    difference = paired_bootstrap(a, b)["AP"]
    assert difference.value == pytest.approx(-1e-4)
    assert difference.high - difference.low < 0.1


def test_settings_may_have_different_numbers_of_seeds() -> None:
    difference = paired_bootstrap([detector(v, 0.0, 1) for v in (0.50, 0.52, 0.54)], [detector(0.5, 0.0, 1)])[
        "AP"
    ]
    assert (difference.high - difference.low) / 2 == pytest.approx(4.302653 * 0.02 * math.sqrt(1 + 1 / 3))


@pytest.mark.parametrize("few", [[0.50, 0.58, 0.54], [0.50, 0.58], [0.5, 0.5]])
def test_unequal_numbers_of_seeds_are_compared_by_welchs_test(few: list[float]) -> None:
    many = [0.52, 0.53, 0.525, 0.535, 0.53, 0.52]
    settings = ([detector(value, 0.0, 1) for value in values] for values in (few, many))
    welch = stats.ttest_ind(few, many, equal_var=False)
    assert paired_bootstrap(*settings)["AP"].p == pytest.approx(welch.pvalue, rel=1e-6)


def retested(
    rng: np.random.Generator, seeds: int, shift: float, by_seed: float
) -> tuple[list[Resampled], list[Resampled]]:
    """Detectors that were tested in two ways: the first is better by ``shift``, and varies by ``by_seed``."""
    settings: tuple[list[Resampled], list[Resampled]] = ([], [])
    common = 0.005 * rng.normal(size=(2, 201))
    for seed in range(seeds):
        level = 0.4 + 0.03 * rng.normal() + 0.02 * rng.normal(size=201)
        for number, detectors in enumerate(settings):
            better = shift + by_seed * rng.normal() if number == 0 else 0.0
            luck = level + common[number] + 0.003 * rng.normal(size=201)
            whole, draws = {"AP": luck[0] + better}, {"AP": luck[1:] + better}
            detectors.append(Resampled(IMAGES, 0, whole, draws, CURVE, f"training {seed}"))
    return settings


@pytest.mark.parametrize("by_seed", [0.0, 0.01], ids=["alike for all", "varies by detector"])
@pytest.mark.parametrize("shift", [0.0, 0.03], ids=["equal", "shifted"])
def test_two_ways_to_test_the_same_detectors_are_paired(shift: float, by_seed: float) -> None:
    rng = np.random.default_rng(0)
    held, significant, pairs = 0, 0, 400
    for _ in range(pairs):
        a, b = retested(rng, 3, shift, by_seed)
        (comparison,) = compare_with_baseline(setting("b", b), [setting("a", a[::-1])], "AP", 0.005)
        difference = comparison.difference
        held += difference.low <= shift <= difference.high
        significant += difference.p < 0.05
    assert 0.92 <= held / pairs <= 0.985
    # The detectors' own levels differ by 3 AP: unpaired, 30 % would be significant.
    assert significant / pairs > 0.7 if shift else significant / pairs < 0.08


def test_only_the_very_same_detectors_are_paired() -> None:
    def tested(shift: float, *trainings: str) -> list[Resampled]:
        levels = zip((0.40, 0.43, 0.46), trainings, strict=False)
        return [
            replace(detector(level + shift, 0.002, 9 + int(100 * shift)), training=training)
            for level, training in levels
        ]

    a, b = tested(0.02, "x", "y", "z"), tested(0.0, "x", "y", "z")
    assert paired_bootstrap(a, b)["AP"].p < 0.001
    for other in (tested(0.0, "x", "y"), tested(0.0, "x", "y", "u"), tested(0.0, "", "", "")):
        assert paired_bootstrap(a, other)["AP"].p > 0.2
    # One detector: about it, as ever.
    one = paired_bootstrap(a[:1], b[:1])["AP"]
    assert one == paired_bootstrap([replace(a[0], training="")], b[:1])["AP"]


@pytest.mark.parametrize("seeds", [1, 2])
def test_one_test_image_says_nothing_of_others(seeds: int) -> None:
    a, b = ([detector(value, 0.0, 1, images=1)] * seeds for value in (0.5, 0.4))
    difference = paired_bootstrap(a, b)["AP"]
    assert (difference.value, difference.p) == (pytest.approx(0.1), 1)
    assert math.isnan(difference.low)
    assert math.isnan(difference.high)
    sentences = [
        comparison.sentence for comparison in compare_best([setting("a", a), setting("b", b)], "AP", 1)
    ]
    assert sentences == ["Undecided between a and b: +10.0 AP (one image gives no interval)."] * (seeds - 1)


def test_detectors_resampled_otherwise_are_refused() -> None:
    with pytest.raises(ValueError, match="resampled on the same images"):
        paired_bootstrap([detector(0.5, 0.1, 1)], [detector(0.5, 0.1, 1, images=7)])
    with pytest.raises(ValueError, match="at least one"):
        paired_bootstrap([], [detector(0.5, 0.1, 1)])
