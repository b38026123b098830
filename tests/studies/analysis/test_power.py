"""The predicted interval is the one that the statistics give, and that simulated studies have."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from drcnn.engine.average_precision import METRICS
from drcnn.engine.bootstrap import Resampled, mean_difference
from studies.analysis.power import (
    MOST_SEEDS,
    Spread,
    half_width,
    known_spread,
    measured_spread,
    seeds_for,
    sentence,
)
from tests.engine.bootstrap_helpers import CURVE

IMAGES = 300
DRAWS = 300


def study(
    generator: np.random.Generator, seeds: int, over_seeds: float, over_images: float, own: float = 0.0
) -> list[list[Resampled]]:
    """Two equal settings, in points: detectors vary over seeds, settings over images, each detector too.

    A detector's own luck with these images (``own``) is part of how its value varies over seeds.
    """
    settings = []
    for _ in range(2):
        shared = over_images / math.sqrt(2) * generator.normal(size=DRAWS)
        detectors = []
        for _ in range(seeds):
            whole = 0.4 + math.hypot(over_seeds, own) * generator.normal() / 100
            draws = whole + (shared + own * generator.normal(size=DRAWS)) / 100
            values = dict.fromkeys(METRICS, whole)
            detectors.append(Resampled(IMAGES, 0, values, dict.fromkeys(METRICS, draws), CURVE))
        settings.append(detectors)
    return settings


@pytest.mark.parametrize("seeds", [2, 3, 10])
@pytest.mark.parametrize(("over_seeds", "over_images"), [(0.5, 0.5), (1.0, 0.2), (0.1, 0.8)])
def test_the_interval_is_that_of_a_comparison_with_this_very_spread(
    seeds: int, over_seeds: float, over_images: float
) -> None:
    generator = np.random.default_rng(0)
    a, b = study(generator, seeds, over_seeds, over_images)
    spread = measured_spread([a, b])
    assert spread is not None
    difference = mean_difference(a, b, "AP")
    measured = 100 * (difference.high - difference.low) / 2
    assert half_width(spread, seeds, IMAGES) == pytest.approx(measured, rel=0.01)


def test_simulated_studies_have_the_predicted_interval_on_average() -> None:
    generator = np.random.default_rng(1)
    spread = Spread(sd_seeds=math.hypot(0.5, 0.4), sd_both=0.4, sd_images=0.6, images=IMAGES, source="")
    widths = []
    for _ in range(300):
        difference = mean_difference(*study(generator, 5, 0.5, 0.6, own=0.4), "AP")
        widths.append(50 * (difference.high - difference.low))
    assert np.mean(widths) == pytest.approx(half_width(spread, 5, IMAGES), rel=0.06)


def test_the_spread_of_simulated_studies_is_found_again() -> None:
    generator = np.random.default_rng(2)
    found = [measured_spread(study(generator, 4, 0.5, 0.6, own=0.4)) for _ in range(200)]
    seeds = np.mean([spread.sd_seeds**2 for spread in found if spread])
    images = np.mean([spread.sd_images**2 for spread in found if spread])
    assert seeds == pytest.approx(0.5**2 + 0.4**2, rel=0.1)
    assert images == pytest.approx(0.6**2, rel=0.1)
    # Clipped at what seeds make in all, it is a little low.
    both = np.mean([spread.sd_both**2 for spread in found if spread])
    assert 0.8 * 0.4**2 < both < 1.02 * 0.4**2


def test_more_seeds_and_more_images_show_smaller_differences() -> None:
    spread = Spread(0.5, 0.0, 0.5, IMAGES, "")
    widths = [half_width(spread, seeds, IMAGES) for seeds in (2, 3, 5, 10)]
    assert widths == sorted(widths, reverse=True)
    assert half_width(spread, 3, 4 * IMAGES) < half_width(spread, 3, IMAGES)
    only_images = Spread(0.0, 0.0, 0.5, IMAGES, "")
    assert half_width(only_images, 3, 4 * IMAGES) == pytest.approx(
        half_width(only_images, 3, IMAGES) / 2, rel=0.01
    )
    # A detector's own luck with these images is less on more of them; what training makes is not.
    luck, training = Spread(0.5, 0.5, 0.0, IMAGES, ""), Spread(0.5, 0.0, 0.0, IMAGES, "")
    assert half_width(luck, 3, IMAGES) == half_width(training, 3, IMAGES)
    assert half_width(luck, 3, 4 * IMAGES) == pytest.approx(half_width(luck, 3, IMAGES) / 2)
    assert half_width(training, 3, 4 * IMAGES) == half_width(training, 3, IMAGES)


def test_the_seeds_for_a_difference_are_the_fewest() -> None:
    spread = Spread(1.0, 0.0, 0.2, IMAGES, "")
    seeds = seeds_for(spread, 1.0, IMAGES)
    assert seeds is not None
    assert half_width(spread, seeds, IMAGES) <= 1.0 < half_width(spread, seeds - 1, IMAGES)
    assert seeds_for(Spread(0.5, 0.0, 1.0, IMAGES, ""), 1.0, IMAGES) is None, (
        "the images alone are not enough"
    )
    assert seeds < MOST_SEEDS


def test_two_settings_with_two_seeds_are_needed() -> None:
    generator = np.random.default_rng(3)
    a, b = study(generator, 2, 0.5, 0.5)
    assert measured_spread([a, b[:1]]) is None
    assert measured_spread([a, b, b[:1]]) is not None
    with pytest.raises(ValueError, match="at least 2"):
        half_width(Spread(1.0, 0.0, 1.0, IMAGES, ""), 1, IMAGES)


def test_the_table_is_asked_by_profile_kind_of_data_and_study(tmp_path: Path) -> None:
    table = tmp_path / "spreads.csv"
    table.write_text(
        "profile,data,of,study,images,sd_seeds,sd_both,sd_images,command\n"
        "laptop,photographs,50 cats,a,300,0.9,0.5,0.4,x\n"
        "laptop,digits,digits,a,100,0.3,0.2,0.6,y\n"
        "laptop,digits,digits,b,100,0.5,0.2,0.6,y\n"
    )
    assert known_spread("laptop", "digits", "a", table) == Spread(
        0.3, 0.2, 0.6, 100, "a with the laptop profile on digits (studies/analysis/spreads.csv)"
    )
    other = known_spread("laptop", "digits", "another", table)
    assert other is not None
    assert other.sd_seeds == 0.5, "the widest"
    for source in ("yolo:somewhere", "folder"):
        own = known_spread("laptop", source, "another", table)
        assert own is not None
        assert own.source == "a with the laptop profile on 50 cats (studies/analysis/spreads.csv)"
    assert known_spread("paper", "coco:somewhere", "a", table) is None
    assert known_spread("laptop", "digits", "nms_sweep") is not None


def test_what_is_not_known_has_no_number() -> None:
    spread = Spread(0.5, 0.0, 0.5, IMAGES, "a pilot")
    assert " AP" not in sentence(None, 3, IMAGES)
    assert "not known" in sentence(None, 3, IMAGES)
    assert "can show nothing about settings" in sentence(None, 1, IMAGES)
    assert f"{half_width(spread, 3, IMAGES):.1f} AP" in sentence(spread, 1, IMAGES)
    text = sentence(spread, 3, IMAGES)
    assert f"{half_width(spread, 3, IMAGES):.1f} AP" in text
    assert f"{seeds_for(spread, 1.0, IMAGES)} seeds would show 1.0 between two" in text
    assert "more images" in sentence(Spread(0.5, 0.0, 1.0, IMAGES, ""), 3, IMAGES)
