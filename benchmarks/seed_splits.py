"""Calibration on real trainings: how often two halves of one setting's seeds are called different.

Ten trainings that differ in nothing but their seed can be divided into two times five in 126 ways. The halves
are of one setting, so every significant difference is a false claim: at most 5 % should be. Equivalence is no
error here, as they are equal; its share says how often so many seeds can show that.

The splits share their trainings, so 126 of them are far from 126 experiments. The column "calibrated" says
within which range the share lies for 95 of 100 sets of as many trainings if the test is right: by simulation
of Student's test on normal values. One set of ten trainings can refute the statistics, not prove them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from drcnn.engine.bootstrap import LEVEL, Resampled, mean_difference
from studies.analysis.replicates import Setting, group_by_setting
from studies.analysis.verdicts import Verdict, verdict
from studies.definition.plan import Plan, expand
from studies.definition.request import resolve
from studies.definition.study import SearchStudy
from studies.record.launch_request import load_request
from studies.record.output_folder import prepared_inputs

__all__ = ["MIN_SEEDS", "SplitOutcome", "calibrate_on_seeds", "replicated_settings", "splits"]

MIN_SEEDS = 6
MAX_SPLITS = 300  # of more, so many are drawn
METRICS = ("AP", "AP50", "AP80", "AP90")
SIMULATIONS = 1000

Split = tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class SplitOutcome:
    """What the statistics say of many splits of one setting's trainings; shares are fractions of 1.

    Attributes:
        metric: compared.
        trainings: their number.
        size: how many of them each side of a split has.
        splits: how many were compared.
        significant: the share of them that were called different, falsely.
        low: the lowest such share to expect of a calibrated test; ``high`` the highest.
        equivalent: the share that were called equivalent, rightly.
    """

    metric: str
    trainings: int
    size: int
    splits: int
    significant: float
    low: float
    high: float
    equivalent: float


def calibrate_on_seeds(detectors: Sequence[Resampled], margin: float) -> list[SplitOutcome]:
    """Compare halves of a setting's trainings, and threes.

    Args:
        detectors: of one setting, resampled alike, ``MIN_SEEDS`` or more.
        margin: the difference, a fraction, within which settings are equivalent.

    Raises:
        ValueError: there are too few.
    """
    count = len(detectors)
    if count < MIN_SEEDS:
        raise ValueError(f"{count} trainings of one setting are too few; give {MIN_SEEDS} or more")
    outcomes = []
    for size in dict.fromkeys((count // 2, 3)):
        chosen = splits(count, size)
        low, high = _expected(chosen, count)
        for metric in METRICS:
            differences = [
                mean_difference([detectors[i] for i in a], [detectors[i] for i in b], metric)
                for a, b in chosen
            ]
            verdicts = [verdict(difference, difference.p, margin) for difference in differences]
            significant, equivalent = (
                verdicts.count(kind) / len(chosen) for kind in (Verdict.SIGNIFICANT, Verdict.EQUIVALENT)
            )
            outcomes.append(
                SplitOutcome(metric, count, size, len(chosen), significant, low, high, equivalent)
            )
    return outcomes


def splits(count: int, size: int, seed: int = 0) -> list[Split]:
    """All ways to choose two groups of ``size`` from ``count``; of very many, ``MAX_SPLITS`` at random."""
    total = math.comb(count, size) * math.comb(count - size, size) // 2
    if total <= MAX_SPLITS:
        return list(_all_splits(count, size))
    rng = np.random.default_rng(seed)
    drawn: dict[Split, None] = {}
    while len(drawn) < MAX_SPLITS:
        order = [int(i) for i in rng.permutation(count)]
        first, second = sorted((tuple(sorted(order[:size])), tuple(sorted(order[size : 2 * size]))))
        drawn[first, second] = None
    return list(drawn)


def _all_splits(count: int, size: int) -> Iterator[Split]:
    for a in itertools.combinations(range(count), size):
        rest = [i for i in range(count) if i not in a]
        # Each pair once: that whose first group has the lowest number.
        yield from ((a, b) for b in itertools.combinations(rest, size) if a[0] < b[0])


def _expected(chosen: Sequence[Split], count: int) -> tuple[float, float]:
    """Between which shares of significant splits a right test lies, for 95 of 100 sets of trainings."""
    a, b = (np.array([split[side] for split in chosen]) for side in (0, 1))
    values = np.random.default_rng(0).normal(size=(SIMULATIONS, count))
    shares = (_student_p(values[:, a], values[:, b]) < 1 - LEVEL).mean(axis=1)
    low, high = np.quantile(shares, [0.025, 0.975])
    return float(low), float(high)


def _student_p(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    p: NDArray[np.float64] = stats.ttest_ind(a, b, axis=-1).pvalue
    return p


def replicated_settings(output: Path, study: str | None = None) -> list[tuple[str, Setting]]:
    """Read the settings with ``MIN_SEEDS`` finished trainings or more in an output folder.

    Args:
        output: of ``run_study.py``.
        study: only this one's.

    Returns:
        Each with its name: that of the study and its label.

    Raises:
        StudyError, ConfigError, DataError: there is no such launch, or its data are gone.
    """
    names = [study] if study else sorted(path.parent.name for path in output.glob("*/request.json"))
    found = []
    with prepared_inputs(output, is_kept=True) as inputs:
        for name in names:
            request = load_request(name, output.resolve())
            plan = Plan(*resolve(request), output.resolve(), inputs)
            if isinstance(plan.study, SearchStudy):
                continue  # one seed a setting, or few
            settings = group_by_setting(expand(plan, request.seeds))
            found += [
                (f"{name}: {setting.label}", setting)
                for setting in settings
                if len(setting.resampled) >= MIN_SEEDS
            ]
    return found
