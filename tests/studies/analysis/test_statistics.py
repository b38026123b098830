from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.calibration import SCENARIOS, Scenario, calibrate, main
from studies.analysis.precision import METRICS, ScoredClass, ScoredSplit
from studies.analysis.statistics import (
    Comparison,
    Difference,
    Resampled,
    compare_with,
    holm,
    kendall,
    mean_interval,
    paired_bootstrap,
    resample,
    winner,
)

IMAGES = 400


def replicate(whole: float, noise: float, number: int, images: int = IMAGES) -> Resampled:
    """A detector whose figure differs between resamples with the standard deviation ``noise``."""
    draws = np.random.default_rng(number).normal(size=500)
    resampled = whole + noise * (draws - draws.mean()) / draws.std(ddof=1)
    return Resampled(images, 0, dict.fromkeys(METRICS, whole), dict.fromkeys(METRICS, resampled))


def test_mean_interval_is_students() -> None:
    found = mean_interval([1.0, 2.0, 3.0])
    half = 4.302653 / math.sqrt(3)  # t of 2 degrees of freedom, from a table
    assert (found.mean, found.low, found.high) == pytest.approx((2, 2 - half, 2 + half))


def test_one_value_has_no_interval() -> None:
    found = mean_interval([0.5])
    assert found.mean == 0.5
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    with pytest.raises(ValueError, match="no values"):
        mean_interval([])


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


def split_of(correct: list[bool], images: list[int]) -> ScoredSplit:
    """One class and as many objects as detections, each right at all thresholds or wrong at all."""
    flags = np.tile(np.array(correct), (10, 1))
    scored = ScoredClass(np.array(images), flags, np.zeros_like(flags), np.array(images))
    return ScoredSplit(max(images) + 1, np.linspace(0, 1, 101), (scored,))


def test_resamples_are_draws_of_as_many_images() -> None:
    half_right = split_of([True, False] * 50, list(range(100)))
    found = resample(half_right, resamples=400, seed=3)
    assert found.whole["AP"] == pytest.approx(float(half_right.ap().mean()))
    assert found.resampled["AP90"].shape == (400,)
    assert found.resampled["AP"].mean() == pytest.approx(found.whole["AP"], abs=0.02)
    np.testing.assert_array_equal(
        found.resampled["AP"], resample(half_right, resamples=400, seed=3).resampled["AP"]
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
    found = paired_bootstrap([replicate(0.5, 0.0, 1)], [replicate(0.4, 0.03, 2)])["AP80"]
    assert found.value == pytest.approx(0.1)
    assert (found.high - found.low) / 2 == pytest.approx(1.96593 * 0.03, rel=1e-4)  # t of 399
    assert found.p == pytest.approx(0.00094, rel=0.02)


def test_with_several_seeds_few_degrees_of_freedom_are_left() -> None:
    """Images that change nothing: Student's two-sample test, 4 degrees of freedom for 2 times 3 seeds."""
    a = [replicate(value, 0.0, 1) for value in (0.50, 0.52, 0.54)]
    b = [replicate(value, 0.0, 1) for value in (0.44, 0.46, 0.48)]
    found = paired_bootstrap(a, b)["AP"]
    error = 0.02 * math.sqrt(2 / 3)
    assert (found.high - found.low) / 2 == pytest.approx(2.776445 * error)
    assert found.p == pytest.approx(0.0214, abs=1e-4)  # t = 3.674
    opposite = paired_bootstrap(b, a)["AP"]
    assert (opposite.value, opposite.low, opposite.high) == pytest.approx((-0.06, -found.high, -found.low))


def test_variance_of_the_images_is_not_counted_again_as_variance_of_the_seeds() -> None:
    """Three detectors that are equally good, each lucky with other images."""
    a = [replicate(value, 0.02, number) for number, value in enumerate((0.50, 0.52, 0.54))]
    b = [replicate(value, 0.02, number) for number, value in enumerate((0.50, 0.52, 0.54), start=3)]
    found = paired_bootstrap(a, b)["AP"]
    draws = np.mean([x.resampled["AP"] - y.resampled["AP"] for x, y in zip(a, b, strict=True)], axis=0)
    assert found.value == pytest.approx(0)
    by_images, by_seeds = float(draws.std(ddof=1)), 0.02 * math.sqrt(2 / 3)
    assert by_images < (found.high - found.low) / 2 / 2.776 < 0.85 * math.hypot(by_images, by_seeds)


def test_nearly_equal_detectors_keep_a_finite_interval() -> None:
    """The same detectors tested in two ways: seeds vary much, the difference does not."""
    a = [replicate(value, 0.02, number) for number, value in enumerate((0.500, 0.510, 0.520))]
    b = [replicate(value + 1e-4, 0.02, number) for number, value in enumerate((0.500, 0.510, 0.520))]
    found = paired_bootstrap(a, b)["AP"]
    assert found.value == pytest.approx(-1e-4)
    assert found.high - found.low < 0.1


def test_settings_may_have_different_numbers_of_seeds() -> None:
    found = paired_bootstrap([replicate(v, 0.0, 1) for v in (0.50, 0.52, 0.54)], [replicate(0.5, 0.0, 1)])[
        "AP"
    ]
    assert (found.high - found.low) / 2 == pytest.approx(4.302653 * 0.02 * math.sqrt(1 + 1 / 3))


def retested(
    rng: np.random.Generator, seeds: int, shift: float, by_seed: float
) -> tuple[list[Resampled], list[Resampled]]:
    """Detectors that were tested in two ways: the first is better by ``shift``, and varies by ``by_seed``."""
    settings: tuple[list[Resampled], list[Resampled]] = ([], [])
    common = 0.005 * rng.normal(size=(2, 201))
    for seed in range(seeds):
        level = 0.4 + 0.03 * rng.normal() + 0.02 * rng.normal(size=201)
        for number, setting in enumerate(settings):
            better = shift + by_seed * rng.normal() if number == 0 else 0.0
            luck = level + common[number] + 0.003 * rng.normal(size=201)
            setting.append(
                Resampled(IMAGES, 0, {"AP": luck[0] + better}, {"AP": luck[1:] + better}, f"training {seed}")
            )
    return settings


@pytest.mark.parametrize("by_seed", [0.0, 0.01], ids=["alike for all", "varies by detector"])
@pytest.mark.parametrize("shift", [0.0, 0.03], ids=["equal", "shifted"])
def test_two_ways_to_test_the_same_detectors_are_paired(shift: float, by_seed: float) -> None:
    rng = np.random.default_rng(0)
    held, shown, pairs = 0, 0, 400
    for _ in range(pairs):
        a, b = retested(rng, 3, shift, by_seed)
        found = compare_with("b", {"b": b, "a": a[::-1]})[0].difference
        held += found.low <= shift <= found.high
        shown += found.p < 0.05
    assert 0.92 <= held / pairs <= 0.985
    # The detectors' own levels differ by 3 AP: unpaired, 30 % would be shown.
    assert shown / pairs > 0.7 if shift else shown / pairs < 0.08


def test_only_the_very_same_detectors_are_paired() -> None:
    def tested(shift: float, *trainings: str) -> list[Resampled]:
        levels = zip((0.40, 0.43, 0.46), trainings, strict=False)
        return [
            replace(replicate(level + shift, 0.002, 9 + int(100 * shift)), training=training)
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
    a, b = ([replicate(value, 0.0, 1, images=1)] * seeds for value in (0.5, 0.4))
    found = paired_bootstrap(a, b)["AP"]
    assert (found.value, found.p) == (pytest.approx(0.1), 1)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert "+10.0 AP (one test image gives no interval; p = 1.00)" in winner({"a": a, "b": b})[0].sentence


def test_detectors_resampled_otherwise_are_refused() -> None:
    with pytest.raises(ValueError, match="resampled on the same images"):
        paired_bootstrap([replicate(0.5, 0.1, 1)], [replicate(0.5, 0.1, 1, images=7)])
    with pytest.raises(ValueError, match="at least one"):
        paired_bootstrap([], [replicate(0.5, 0.1, 1)])


def test_the_reference_is_compared_with_all_others_and_corrected() -> None:
    settings = {
        "0.7": [replicate(0.50, 0.0, 1)],
        "0.8": [replicate(0.53, 0.01, 2)],
        "0.85": [replicate(0.522, 0.01, 3)],
    }
    found = compare_with("0.7", settings)
    assert [each.name for each in found] == ["0.8", "0.85"]
    assert [each.p_holm for each in found] == holm([each.difference.p for each in found])
    assert found[0].is_significant
    assert found[0].sentence.startswith(
        "0.8 is better than 0.7 by 3.0 AP (95 % interval +1.0 to +5.0 by itself; p = 0.00"
    )
    assert found[0].sentence.endswith("after correction for 2 comparisons).")


def test_the_winner_is_named_only_against_all_rivals() -> None:
    settings = {
        "a": [replicate(0.40, 0.01, 1)],
        "b": [replicate(0.50, 0.01, 2)],
        "c": [replicate(0.49, 0.01, 3)],
    }
    found = winner(settings, "AP50")
    assert [(each.name, each.reference, each.is_significant) for each in found] == [
        ("b", "c", False),
        ("b", "a", True),
    ]
    assert found[0].sentence.startswith("No difference shown between b and c: +1.0 AP50 (95 % interval -1.")
    assert [each.comparisons for each in found] == [3, 3]  # with that of the two rivals
    assert winner({"a": settings["a"]}) == []


@pytest.mark.parametrize(("seeds", "by_images"), [(1, 0.02), (3, 0.005)])
def test_of_equal_settings_none_is_named_better_than_any(seeds: int, by_images: float) -> None:
    """The highest of eight equals is lucky: corrected for 7 comparisons, 15 % and 9 % would beat another."""
    rng = np.random.default_rng(0)
    tables, false = 300, 0
    for _ in range(tables):
        settings = {str(n): [equal(rng, by_images) for _ in range(seeds)] for n in range(8)}
        false += any(each.is_significant for each in winner(settings))
    assert false / tables <= 0.06


def equal(rng: np.random.Generator, by_images: float) -> Resampled:
    """A detector as good as all others, but for its luck; how much of that lies in the images is known."""
    whole = 0.4 + 0.02 * rng.normal()
    return Resampled(IMAGES, 0, {"AP": whole}, {"AP": whole + by_images * rng.normal(size=200)})


def test_a_difference_lost_to_correction_is_not_shown() -> None:
    found = Comparison("a", "b", "AP", Difference(0.02, 0.001, 0.039, 0.04), 0.2, 5)
    assert not found.is_significant
    assert found.sentence == (
        "No difference shown between a and b: +2.0 AP "
        "(95 % interval +0.1 to +3.9 by itself; p = 0.20 after correction for 5 comparisons)."
    )
    worse = Comparison("a", "b", "AP", Difference(-0.02, -0.03, -0.01, 0.0001), 0.0001, 1)
    assert worse.sentence == "a is worse than b by 2.0 AP (95 % interval -3.0 to -1.0; p < 0.001)."


@pytest.mark.parametrize("scenario", [SCENARIOS[0], SCENARIOS[2]], ids=["one seed", "three seeds"])
def test_equal_settings_are_seldom_told_apart(scenario: Scenario) -> None:
    found = calibrate(scenario, pairs=40, resamples=80)
    assert found.rate <= 0.15
    assert found.rate_ap90 <= 0.15


def test_the_benchmark_prints_every_scenario(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("benchmarks.calibration.PAIRS", 2)
    monkeypatch.setattr("benchmarks.calibration.SCENARIOS", SCENARIOS[:1])
    for arguments in ([], ["--json"]):
        monkeypatch.setattr("sys.argv", ["calibration", *arguments])
        main()
    text, _, printed = capsys.readouterr().out.partition("[")
    assert SCENARIOS[0].name in text
    assert json.loads("[" + printed)[0]["pairs"] == 2


def test_a_known_shift_is_found() -> None:
    found = calibrate(SCENARIOS[4], pairs=30, resamples=80)
    assert found.difference > 0.015
    assert found.rate >= 0.6
