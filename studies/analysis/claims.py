"""Sentences on what may be claimed about a study's settings and their agreement with the paper."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from drcnn.engine.bootstrap import LEVEL
from drcnn.report.blocks import escape
from studies.analysis.comparisons import Agreement, Comparison
from studies.analysis.paper import Effect
from studies.analysis.replicates import Setting
from studies.analysis.verdicts import Verdict
from studies.definition.metrics import points

__all__ = ["agreement_claim", "best_claim", "effects_claim", "seeds_claim"]


def best_claim(comparisons: Sequence[Comparison], settings: Sequence[Setting]) -> str:
    """Say whether the setting of the highest mean is the best.

    Args:
        comparisons: from ``compare_best``, at least one.
        settings: all settings compared.
    """
    label, metric = comparisons[0].label, comparisons[0].metric
    detectors = next(setting.resampled for setting in settings if setting.label == label)
    mean = points(float(np.mean([detector.whole[metric] for detector in detectors])))
    count = len(comparisons)
    has_single = any(len(setting.resampled) == 1 for setting in settings)
    single = " (settings of one seed left out)" if has_single else ""
    verdicts = [comparison.verdict for comparison in comparisons]
    others = "the only other one" if count == 1 else f"each of the {count} others"
    if all(verdict is Verdict.SIGNIFICANT for verdict in verdicts):
        return (
            f"**{escape(label)} is the best setting**: {metric} {mean}{single}, "
            f"significantly better than {others}."
        )
    rivals = []
    if significant := verdicts.count(Verdict.SIGNIFICANT):
        rivals.append(f"significantly better than {significant}")
    if equivalent := verdicts.count(Verdict.EQUIVALENT):
        whom = others if count == 1 else equivalent
        rivals.append(f"equivalent to {whom} within ±{100 * comparisons[0].margin:g} {metric}")
    if undecided := verdicts.count(Verdict.UNDECIDED):
        rivals.append(f"undecided against {others if count == 1 else undecided}")
    listed = " and ".join(filter(None, (", ".join(rivals[:-1]), rivals[-1])))
    of_others = "" if count == 1 else f"of {count} other settings "
    return (
        f"{escape(label)} has the highest {metric}, {mean}{single}, but **no winner can be named**: "
        f"{of_others}it is {listed}."
    )


def seeds_claim(settings: Sequence[Setting]) -> str:
    """Say what the intervals are about."""
    counts = sorted({len(setting.resampled) for setting in settings if setting.resampled})
    if not any(setting.is_replicated for setting in settings):
        return (
            "Each setting was trained with one seed. **Nothing can be said about settings**: the figures are "
            "those of single trained detectors, and another seed may order them differently."
        )
    seeds = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    single = " Settings of one seed are not compared." if counts[0] == 1 else ""
    trainings = [{detector.training for detector in setting.resampled} for setting in settings]
    same = [first for first, second in itertools.combinations(trainings, 2) if first and first == second]
    shared = ""
    if same:
        shared = (
            " Settings that are the same detectors, evaluated in two ways, are compared detector by detector."
        )
        if any(len(trained) == 2 for trained in same):  # see ``bootstrap.paired_bootstrap``
            shared += " With two seeds such an interval may hold the true value in 87 % of cases only."
    return (
        f"Each setting was trained with {seeds} seeds. The comparisons allow for other images and for other "
        f"seeds.{single}{shared}"
    )


def agreement_claim(agreements: Mapping[str, Agreement], settings: int) -> str:
    """Say for which metrics the agreement with the paper's order is significant, or that it cannot be.

    Args:
        agreements: by metric, at least one; see ``studies.analysis.paper.agreements``.
        settings: how many were ranked.
    """
    level = 1 - LEVEL
    if any(math.isnan(agreement.p) for agreement in agreements.values()):
        return "With one seed a setting nothing can be said about the settings' order."
    corrected = f", corrected for {len(agreements)} metrics" if len(agreements) > 1 else ""
    least = {agreement.least for agreement in agreements.values()}
    if min(least) >= level:
        # The paper's ties, which differ from metric to metric, change it.
        more = " or more" if len(least) > 1 else ""
        return (
            f"With {settings} settings no agreement can be significant: even the paper's own order would "
            f"have p = {min(least):.2f}{more}{corrected}."
        )
    significant = [metric for metric, agreement in agreements.items() if agreement.p < level]
    listed = ", ".join(significant) or "none"
    return f"The agreement is significant (p below 0.05{corrected}) for {listed}."


def effects_claim(effects: Sequence[Effect]) -> str:
    """Say which of the paper's changes from one row to another are seen; nothing where that is not known."""
    if not all(effect.is_claim for effect in effects):
        return ""
    metrics_of: dict[str, list[str]] = {}
    for effect in effects:
        metrics_of.setdefault(effect.verdict, []).append(effect.metric)
    listed = "; ".join(f"{', '.join(metrics)}: {verdict}" for verdict, metrics in metrics_of.items())
    first = effects[0]
    baseline, best = escape(first.baseline), escape(first.label)
    return f"The paper's changes from {baseline} to {best}, metric by metric — {listed}."
