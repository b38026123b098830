"""What a study can show, before it runs: the smallest difference of AP, and the seeds that another takes.

The half-width of the interval of ``bootstrap.mean_difference`` between two settings, in expectation::

    >>> spread = Spread(sd_seeds=0.5, sd_both=0.4, sd_images=0.5, images=300, source="a pilot")
    >>> round(half_width(spread, seeds=3, images=300), 1)
    1.3
    >>> seeds_for(spread, 1.2, images=300)
    5
    >>> round(half_width(spread, seeds=3, images=1200), 1)
    0.8

A difference that comes out larger than this is significant by itself. A true difference of just this size
comes out larger in about half of all studies.

AP is in points (× 100) here. Of one setting's AP the variance over seeds is s²; so that of a difference of
two means of n seeds is 2 s² / n, plus what the choice of images adds to all seeds alike. More images make
that part smaller, and the part of s² that is each detector's own luck with these images.
"""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from drcnn.engine.bootstrap import LEVEL, Resampled

__all__ = ["MOST_SEEDS", "Spread", "half_width", "known_spread", "measured_spread", "seeds_for", "sentence"]

SPREADS = Path(__file__).with_name("spreads.csv")
# More than anybody trains: beyond it, it is said that no number of seeds is enough.
MOST_SEEDS = 200


@dataclass(frozen=True)
class Spread:
    """How much AP varies, in points.

    Attributes:
        sd_seeds: standard deviation of one setting's AP over seeds, on the same images.
        sd_both: of it, what differs from seed to seed over draws of ``images`` images.
        sd_images: standard deviation over draws of ``images`` images of the difference between two settings,
            without the part that differs from seed to seed, which ``sd_seeds`` holds.
        images: how many these are of; ``sd_both`` and ``sd_images`` fall with their square root.
        source: where this is from, in words.
    """

    sd_seeds: float
    sd_both: float
    sd_images: float
    images: int
    source: str

    def seeds_variance(self, images: int) -> float:
        """Points², over seeds, on another number of images."""
        return self.sd_seeds**2 + self.sd_both**2 * (self.images / images - 1)

    def images_variance(self, images: int) -> float:
        """Points², over draws of another number of images."""
        return self.sd_images**2 * self.images / images


def half_width(spread: Spread, seeds: int, images: int, comparisons: int = 1) -> float:
    """Half of the 95 % interval of the difference between two settings, in points.

    The largest of several differences is called significant from that of ``comparisons`` on (Holm).

    Args:
        spread: how much AP varies.
        seeds: of each setting, at least two: one seed tells nothing of other seeds.
        images: that the settings are judged on.
        comparisons: that its p is corrected for.

    Raises:
        ValueError: there is one seed only.
    """
    if seeds < 2:
        raise ValueError(f"{seeds} seed a setting shows nothing about settings; at least 2 are needed")
    over_seeds, over_images = 2 * spread.seeds_variance(images) / seeds, spread.images_variance(images)
    variance = over_seeds + over_images
    if not variance:
        return 0.0
    # Satterthwaite's degrees of freedom, as in ``bootstrap.mean_difference``.
    seeds_freedom = 2 * (seeds - 1)
    uncertainty = over_seeds**2 / seeds_freedom + over_images**2 / max(1, images - 1)
    freedom = max(float(seeds_freedom), variance**2 / uncertainty)
    return float(stats.t.isf((1 - LEVEL) / 2 / comparisons, freedom)) * math.sqrt(variance)


def seeds_for(spread: Spread, difference: float, images: int) -> int | None:
    """The fewest seeds of each setting that show a difference; none if not even ``MOST_SEEDS`` do.

    Args:
        spread: how much AP varies.
        difference: in points.
        images: that the settings are judged on.
    """
    numbers = range(2, MOST_SEEDS + 1)
    return next((seeds for seeds in numbers if half_width(spread, seeds, images) <= difference), None)


def measured_spread(settings: Sequence[Sequence[Resampled]], metric: str = "AP") -> Spread | None:
    """The spread of detectors that are trained already, pooled over settings.

    Args:
        settings: the detectors of each, one a seed, resampled alike.
        metric: its name.

    Returns:
        None unless at least two settings have two seeds.
    """
    several = [detectors for detectors in settings if len(detectors) > 1]
    if len(several) < 2:
        return None
    freedom = sum(len(detectors) - 1 for detectors in several)
    between = sum(_squares(np.array([one.whole[metric] for one in detectors])) for detectors in several)
    draws = [np.stack([one.draws[metric] for one in detectors]) for detectors in several]
    # Of each setting: what differs from seed to seed in how the draws come out.
    within = [
        float(np.nanvar(draw - draw.mean(axis=0), axis=1, ddof=1).sum()) / (len(draw) - 1) for draw in draws
    ]
    pairs = [
        float(np.nanvar(draws[a].mean(axis=0) - draws[b].mean(axis=0), ddof=1))
        - within[a] / len(draws[a])
        - within[b] / len(draws[b])
        for a, b in itertools.combinations(range(len(draws)), 2)
    ]
    trials = sum(map(len, several))
    source = f"{trials} finished trials of {len(several)} settings of this study"
    own = sum((len(draw) - 1) * variance for draw, variance in zip(draws, within, strict=True)) / freedom
    variances = (between / freedom, min(own, between / freedom), max(0.0, float(np.mean(pairs))))
    over_seeds, over_both, over_images = (100 * math.sqrt(variance) for variance in variances)
    return Spread(over_seeds, over_both, over_images, several[0][0].images, source)


def _squares(values: np.ndarray) -> float:
    return float(((values - values.mean()) ** 2).sum())


def known_spread(profile: str, source: str, study: str, path: Path = SPREADS) -> Spread | None:
    """The spread that was measured for a profile, a kind of data and a study.

    Args:
        profile: ``laptop`` or ``paper``.
        source: the data, as ``--data`` takes them; all but the digits count as photographs.
        study: its name; for one that nobody has measured, the widest spread of the others is taken.
        path: the table of spreads.

    Returns:
        None if nobody has measured any study of the profile on such data.
    """
    kind = "digits" if source == "digits" else "photographs"
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if (row["profile"], row["data"]) == (profile, kind)]
    if not rows:
        return None
    row = max(rows, key=lambda row: (row["study"] == study, float(row["sd_seeds"])))
    where = f"{row['study']} with the {profile} profile on {row['of']} (studies/analysis/{path.name})"
    over_seeds, over_both, over_images = (float(row[name]) for name in ("sd_seeds", "sd_both", "sd_images"))
    return Spread(over_seeds, over_both, over_images, int(row["images"]), where)


def sentence(spread: Spread | None, seeds: int, images: int, metric: str = "AP", comparisons: int = 1) -> str:
    """What a study can show, for people.

    Args:
        spread: none if nothing is known.
        seeds: planned for each setting.
        images: that the settings are judged on.
        metric: its name.
        comparisons: of all other settings with the baseline.
    """
    if seeds < 2:
        text = "One seed a setting can show nothing about settings: another seed may order them differently"
        if spread is None:
            return f"{text}. Give --seeds 3 or more."
        return f"{text}. --seeds 3 would show differences above {half_width(spread, 3, images):.1f} {metric}."
    if spread is None:
        return (
            f"How small a difference {seeds} seeds a setting can show is not known here: it takes two "
            "settings of this study with two finished seeds each, or a line in studies/analysis/spreads.csv."
        )
    needed = seeds_for(spread, 1.0, images)
    one = f"{needed} seeds" if needed else "Only more images, not more seeds,"
    alone, first = (half_width(spread, seeds, images, number) for number in (1, comparisons))
    among = f", {first:.1f} for the first of {comparisons} comparisons" if comparisons > 1 else ""
    return (
        f"Smallest difference that {seeds} seeds a setting can show: {alone:.1f} {metric} between two "
        f"settings{among} (half of the 95 % interval, {images:,} images; a true difference of that size "
        f"is found in half of such studies). {one} would show 1.0 between two. From {spread.source}: "
        f"standard deviation {spread.sd_seeds:.2f} over seeds on {spread.images:,} images, and "
        f"{spread.sd_images:.2f} over draws of images beyond that."
    )
