"""Calibration of the statistics: how often two settings are called different or equivalent, equal or not.

Simulates pairs of settings on a small test set: objects differ in difficulty, some images suit one setting
better, seeds differ, and each detector varies at random on each object. If the settings are equal, 5 % of the
pairs should differ significantly; if they differ by δ, at most 2.5 % should be called equivalent within ±δ.
Takes minutes on one core::

    python -m benchmarks.calibration [--json]
    python -m benchmarks.calibration --output runs [--study mine]  # on real trainings, see ``seed_splits``

The column "percentile" is the two-level bootstrap that draws images and seeds with replacement and takes
percentiles: ``paired_bootstrap`` does not, because that is wrong for 3 seeds. "Equivalent" is within ±0.5 AP,
or within ±δ where settings differ by δ: there it is an error. Measured, 300 pairs each:

====================================  ===========================  ==========  ==========
pairs of settings                     significant (95 % interval)  equivalent  percentile
====================================  ===========================  ==========  ==========
equal, 1 seed, seeds do not matter     5.7 % (3.3 to  8.9)          0.0 %       7.7 %
equal, 3 seeds, seeds matter little    4.0 % (2.1 to  6.9)          0.0 %       3.7 %
equal, 3 seeds, seeds matter much      4.3 % (2.3 to  7.3)          0.0 %      10.0 %
equal, 1 seed, seeds matter much      38.7 % (33.1 to 44.4)         0.0 %      42.3 %
4.4 AP better, 1 seed                 78.7 % (73.6 to 83.2)         2.0 %      79.7 %
4.3 AP better, 3 seeds                90.7 % (86.8 to 93.7)         2.0 %      87.7 %
11.3 AP better, 3 seeds that matter   98.0 % (95.7 to 99.3)         2.3 %     100.0 %
====================================  ===========================  ==========  ==========

One seed is there to show why a report compares no such settings.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks.seed_splits import MIN_SEEDS, calibrate_on_seeds, replicated_settings
from drcnn.engine.average_precision import RECALL_POINTS, ScoredClass, ScoredSplit
from drcnn.engine.bootstrap import Resampled, paired_bootstrap, resample
from drcnn.engine.metrics import IOU_THRESHOLDS
from studies.analysis.verdicts import is_within
from studies.definition.errors import StudyError
from studies.definition.metrics import MARGIN

__all__ = ["SCENARIOS", "Outcome", "Scenario", "calibrate"]

IMAGES = 200
CLASSES = 4
OBJECTS = 3.0  # an image, on average; false detections likewise
PAIRS = 300
RESAMPLES = 200


@dataclass(frozen=True)
class Scenario:
    """Two settings to compare. Quality is the logit of a detection's IoU with its object.

    Attributes:
        name: what it simulates.
        seeds: the number of trained detectors of each setting.
        seed_deviation: the standard deviation of quality between seeds; 0.1 is about 2.8 AP.
        shift: the quality of the first setting minus that of the second.
    """

    name: str
    seeds: int
    seed_deviation: float
    shift: float = 0.0


SCENARIOS = (
    Scenario("equal, 1 seed, seeds do not matter", 1, 0.0),
    Scenario("equal, 3 seeds, seeds matter little", 3, 0.02),
    Scenario("equal, 3 seeds, seeds matter much", 3, 0.08),
    # With one seed the interval is about two detectors: it is too narrow for a claim about settings.
    Scenario("equal, 1 seed, seeds matter much", 1, 0.08),
    Scenario("shifted, 1 seed, seeds do not matter", 1, 0.0, shift=0.15),
    Scenario("shifted, 3 seeds, seeds matter little", 3, 0.02, shift=0.15),
    Scenario("shifted, 3 seeds, seeds matter much", 3, 0.08, shift=0.4),
)


@dataclass(frozen=True)
class Outcome:
    """The results of a scenario; rates and AP are fractions of 1.

    Attributes:
        scenario: its name.
        pairs: the number of pairs simulated.
        difference: the mean difference of AP.
        rate: the share of pairs with p < 0.05 for AP; ``low`` and ``high`` are its binomial 95 % interval.
        rate_ap90: the same share for AP90, which depends on fewer detections.
        margin: δ: the mean difference of settings that differ, else ``MARGIN``.
        equivalent: the share of pairs called equivalent within ±δ; an error where settings differ by δ.
        percentile: the same share for AP by the two-level percentile bootstrap.
    """

    scenario: str
    pairs: int
    difference: float
    rate: float
    low: float
    high: float
    rate_ap90: float
    margin: float
    equivalent: float
    percentile: float


def calibrate(scenario: Scenario, pairs: int, resamples: int = RESAMPLES) -> Outcome:
    """Simulate ``pairs`` pairs of settings, each on its own test images, and compare every pair."""
    differences, ap90, percentile = [], 0, 0
    for pair in range(pairs):
        rng = np.random.default_rng(pair)
        a, b = (
            [resample(split, resamples, seed=pair) for split in setting]
            for setting in _settings(scenario, rng)
        )
        by_metric = paired_bootstrap(a, b)
        differences.append(by_metric["AP"])
        ap90 += by_metric["AP90"].p < 0.05
        percentile += _percentiles_exclude_zero(a, b, rng)
    significant = sum(difference.p < 0.05 for difference in differences)
    mean = float(np.mean([difference.value for difference in differences]))
    margin = abs(mean) if scenario.shift else MARGIN / 100
    equivalent = sum(is_within(difference, margin) for difference in differences)
    interval = stats.binomtest(significant, pairs).proportion_ci()
    return Outcome(
        scenario.name,
        pairs,
        mean,
        significant / pairs,
        float(interval.low),
        float(interval.high),
        ap90 / pairs,
        margin,
        equivalent / pairs,
        percentile / pairs,
    )


def _percentiles_exclude_zero(
    a: Sequence[Resampled], b: Sequence[Resampled], rng: np.random.Generator
) -> bool:
    differences = np.stack([x.draws["AP"] - y.draws["AP"] for x, y in zip(a, b, strict=True)])
    chosen = rng.integers(len(a), size=differences.shape)
    low, high = np.percentile(np.take_along_axis(differences, chosen, axis=0).mean(axis=0), [2.5, 97.5])
    return bool(low > 0 or high < 0)


def _settings(scenario: Scenario, rng: np.random.Generator) -> list[list[ScoredSplit]]:
    """The detectors of both settings on one set of test images."""
    image = np.sort(rng.integers(IMAGES, size=rng.poisson(OBJECTS * IMAGES)))
    label = rng.integers(CLASSES, size=len(image))
    # Quality differs more between images than between the objects of one image.
    quality = 1.0 + rng.normal(0, 0.8, IMAGES)[image] + rng.normal(0, 0.6, len(image))
    settings = []
    for shift in (scenario.shift, 0.0):
        setting_quality = quality + shift + rng.normal(0, 0.3, IMAGES)[image]
        detectors = []
        for seed_quality in rng.normal(0, scenario.seed_deviation, scenario.seeds):
            noise = rng.normal(0, 0.5, len(image))
            detectors.append(_detector(image, label, setting_quality + seed_quality + noise, rng))
        settings.append(detectors)
    return settings


def _detector(
    image: NDArray[np.intp], label: NDArray[np.intp], quality: NDArray[np.float64], rng: np.random.Generator
) -> ScoredSplit:
    """One detection for each object, of this quality, and false detections of lower scores."""
    false = rng.poisson(OBJECTS * IMAGES)
    all_images = np.concatenate([image, rng.integers(IMAGES, size=false)])
    all_labels = np.concatenate([label, rng.integers(CLASSES, size=false)])
    overlap = np.concatenate([1 / (1 + np.exp(-quality)), np.zeros(false)])
    score = np.concatenate([0.7 * quality + rng.normal(0, 0.7, len(image)), rng.normal(-0.5, 0.8, false)])
    order = np.argsort(-score)
    classes = []
    for number in range(CLASSES):
        rows = order[all_labels[order] == number]
        correct = overlap[rows] >= IOU_THRESHOLDS[:, None]
        ignored = np.zeros_like(correct)
        objects = image[label == number]
        # Which object each one finds is nowhere asked for.
        nothing = np.full(len(rows), -1)
        classes.append(ScoredClass(all_images[rows], correct, ignored, objects, score[rows], rows, nothing))
    return ScoredSplit(IMAGES, RECALL_POINTS["coco"], tuple(classes))


def main() -> None:
    """Print the rates of all scenarios, or those of real trainings."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calibration", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--output", type=Path, help="a folder of run_study.py with trainings of many seeds")
    parser.add_argument("--study", help="only this study of that folder")
    options = parser.parse_args()
    if options.output is not None:
        try:
            _print_real(options.output, options.study, as_json=options.json)
        except StudyError as error:
            raise SystemExit(f"calibration: {error}") from None
        return
    outcomes = [calibrate(scenario, PAIRS) for scenario in SCENARIOS]
    if options.json:
        print(json.dumps([asdict(outcome) for outcome in outcomes], indent=2))
        return
    print(
        f"{'pairs of settings':38}  mean ΔAP  significant (95 % interval)   AP90  equivalent within ±δ  "
        "percentile"
    )
    for outcome in outcomes:
        interval = f"({outcome.low:6.1%} to {outcome.high:6.1%})"
        print(
            f"{outcome.scenario:38}  {100 * outcome.difference:+8.2f}  {outcome.rate:6.1%} {interval}  "
            f"{outcome.rate_ap90:9.1%}  {outcome.equivalent:11.1%} (δ {100 * outcome.margin:3.1f})  "
            f"{outcome.percentile:10.1%}"
        )


def _print_real(output: Path, study: str | None, *, as_json: bool) -> None:
    settings = replicated_settings(output, study)
    if not settings:
        raise StudyError(
            f"--output {output}: holds no setting of {MIN_SEEDS} finished trainings or more; train one with "
            "run_study.py --seeds 10"
        )
    outcomes = {name: calibrate_on_seeds(setting.resampled, MARGIN / 100) for name, setting in settings}
    if as_json:
        print(json.dumps({name: [asdict(row) for row in rows] for name, rows in outcomes.items()}, indent=2))
        return
    for name, rows in outcomes.items():
        print(f"{name}: {rows[0].trainings} trainings")
        print(
            f"{'split':>6}  {'splits':>6}  {'metric':6}  significant (calibrated)    equivalent ±{MARGIN:g}"
        )
        for row in rows:
            expected = f"({row.low:5.1%} to {row.high:5.1%})"
            sizes = f"{row.size:>4}:{row.size}  {row.splits:>6}  {row.metric:6}"
            print(f"{sizes}  {row.significant:11.1%} {expected}  {row.equivalent:14.1%}")
    print(
        "All splits are of one setting, so 'significant' is false. They share their trainings and are not "
        "independent:\n'calibrated' is where the share lies for 95 of 100 such sets if the test is right."
    )


if __name__ == "__main__":
    main()
