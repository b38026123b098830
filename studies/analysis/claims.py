"""What may be said about a study's settings, and how far it agrees with the paper.

Figures of trained detectors are fractions of 1, the paper's are points (× 100), as in its tables.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from studies.analysis.precision import METRICS
from studies.analysis.replicates import Setting, setting_labels
from studies.analysis.statistics import (
    LEVEL,
    Agreement,
    Comparison,
    Difference,
    compare_with,
    holm,
    kendall,
    paired_bootstrap,
    winner,
)
from studies.definition.paper_tables import PaperRow, paper_rows, row_of
from studies.definition.plan import Plan

__all__ = [
    "PAPER_NOISE",
    "Effect",
    "Joined",
    "against",
    "agreement_claim",
    "agreements",
    "best_claim",
    "contrasts",
    "effects",
    "effects_claim",
    "join",
    "ranking",
    "seeds_claim",
]

# Points. Tables V and VI both hold three stages, NMS_reg 0.85, λ = 1: trained twice, the figures differ by up
# to this much.
PAPER_NOISE = 0.7


@dataclass(frozen=True)
class Joined:
    """A table of the paper with those of its rows that were trained here, in the paper's order."""

    table: str
    data: str
    note: str
    rows: tuple[tuple[PaperRow, Setting], ...]

    @property
    def best(self) -> tuple[tuple[PaperRow, Setting], ...]:
        """The rows with the paper's highest AP: several where it prints the same figure for them."""
        highest = max(row.figures["AP"] for row, _ in self.rows)
        return tuple(pair for pair in self.rows if pair[0].figures["AP"] == highest)


@dataclass(frozen=True)
class Effect:
    """The change of one metric from a row of the paper to another, there and here.

    Attributes:
        name: of the second row's setting; ``baseline`` of the first's.
        paper: the change there, in points.
        ours: the change here, as a fraction.
        p_holm: corrected for the effects it was asked for with.
    """

    name: str
    baseline: str
    metric: str
    paper: float
    ours: Difference
    p_holm: float

    @property
    def is_significant(self) -> bool:
        """Whether a change was shown here."""
        return self.p_holm < 1 - LEVEL

    @property
    def verdict(self) -> str:
        """Whether the paper's effect is seen here."""
        shown = self.is_significant
        if abs(self.paper) <= PAPER_NOISE + 1e-9:
            return (
                "a change is shown; the paper has about none"
                if shown
                else "none shown; the paper has about none"
            )
        if (self.ours.value > 0) == (self.paper > 0):
            return "seen" if shown else "same direction, not shown"
        return "the opposite is shown" if shown else "not seen"


def join(plan: Plan, settings: Sequence[Setting]) -> list[Joined]:
    """Find the setting of every row of the study's tables; tables without any are left out."""
    joined = []
    for table in plan.study.paper:
        rows = paper_rows([table], plan.overrides.changes)
        # From the setting to its row: a row that says less may be for other settings as well.
        own = [(row_of(rows, setting.first.config), setting) for setting in settings]
        found = [
            (row, setting)
            for row in rows
            if (setting := next((setting for its, setting in own if its is row), None))
        ]
        if found:
            joined.append(Joined(rows[0].table, rows[0].data, table.note, tuple(found)))
    return joined


def ranking(settings: Sequence[Setting], metric: str) -> list[Comparison]:
    """The setting of the highest mean against every other one, nearest first; see ``statistics.winner``."""
    known = {setting.name: setting.resampled for setting in settings if setting.resampled}
    return winner(known, metric) if len(known) > 1 else []


def against(reference: Setting, settings: Sequence[Setting], metric: str) -> list[Comparison]:
    """Every other setting against one that was chosen before the results were seen."""
    known = {setting.name: setting.resampled for setting in settings if setting.resampled}
    return compare_with(reference.name, known, metric) if reference.resampled and len(known) > 1 else []


def best_claim(comparisons: Sequence[Comparison], settings: Sequence[Setting]) -> str:
    """Say whether the setting of the highest mean is the best."""
    nearest = comparisons[0]
    top = next(setting for setting in settings if setting.name == nearest.name)
    metric = nearest.metric
    figure = 100 * sum(each.whole[metric] for each in top.resampled) / len(top.resampled)
    open_ones = [found for found in comparisons if not found.is_significant]
    if open_ones:
        others = (
            "any other setting"
            if len(open_ones) == len(comparisons)
            else f"{len(open_ones)} of {len(comparisons)} other settings"
        )
        return (
            f"{top.name} has the highest {metric}, {figure:.1f}, but **no winner can be named**: "
            f"no difference is shown between it and {others}."
        )
    what = "setting" if len(top.resampled) > 1 else "trained detector"
    count = len(comparisons)
    others = "the only other one" if count == 1 else f"each of the {count} others"
    return f"**{top.name} is the best {what}**: {metric} {figure:.1f}, shown to be better than {others}."


def seeds_claim(settings: Sequence[Setting]) -> str:
    """Say what the intervals are about."""
    seeds = sorted({len(setting.resampled) for setting in settings if setting.resampled})
    if seeds == [1]:
        return (
            "Each setting was trained once, with one seed. The comparisons are therefore about **these "
            "trained detectors** on other test images, not about settings in general: another seed may order "
            "the settings otherwise. Several seeds (`--seeds 3`) would tell."
        )
    counts = str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    single = (
        " Comparisons with a setting that has one seed lean on the others' spread." if seeds[0] == 1 else ""
    )
    trainings = [{each.training for each in setting.resampled} for setting in settings]
    shared = (
        " Settings that are the same detectors, tested in two ways, are compared detector by detector."
        if any(one & other for one, other in itertools.combinations(trainings, 2))
        else ""
    )
    return (
        f"Each setting was trained with {counts} seeds. The comparisons allow for other test images and for "
        f"other seeds.{single}{shared}"
    )


def agreements(joined: Joined, metrics: Sequence[str]) -> dict[str, Agreement]:
    """Kendall's tau of our means and the paper's figures, with p corrected for the number of metrics.

    Left out are metrics of fewer than three rows, and those whose figures are all tied.
    """
    found = {metric: agreed for metric in metrics if (agreed := _agreement(joined, metric))}
    corrected = holm([each.p for each in found.values()])
    least = holm([each.least for each in found.values()])
    return {
        metric: Agreement(each.tau, p, at_least)
        for (metric, each), p, at_least in zip(found.items(), corrected, least, strict=True)
    }


def _agreement(joined: Joined, metric: str) -> Agreement | None:
    pairs = [
        (setting.mean(f"val/{metric}"), row.figures[metric])
        for row, setting in joined.rows
        if setting.values(f"val/{metric}") and metric in row.figures
    ]
    if len(pairs) < 3:
        return None
    ours, theirs = zip(*pairs, strict=True)
    found = kendall(ours, theirs)
    return None if math.isnan(found.tau) else found


def agreement_claim(found: Mapping[str, Agreement], settings: int) -> str:
    """Say for which metrics the order is the paper's beyond chance, or that so few settings cannot show it.

    Args:
        found: by metric, at least one; see ``agreements``.
        settings: how many were ranked.
    """
    level = 1 - LEVEL
    corrected = f", corrected for {len(found)} metrics" if len(found) > 1 else ""
    if all(each.least >= level for each in found.values()):
        least = min(each.least for each in found.values())
        return (
            f"With {settings} settings no agreement beyond chance could be shown: even the paper's very "
            f"order would have p = {least:.2f}{corrected}."
        )
    shown = [metric for metric, each in found.items() if each.p < level]
    return f"An agreement beyond chance (p below 0.05{corrected}) is shown for {', '.join(shown) or 'none'}."


def effects(joined: Joined, metric: str) -> list[Effect]:
    """The change of a metric from the table's first row to each other one, corrected for their number.

    Rows of another backbone are compared with the first row of their own: the paper's question is not
    whether ResNet-101 is better than ResNet-50.
    """
    rows = [pair for pair in joined.rows if pair[1].resampled and metric in pair[0].figures]
    pairs = [(first, each) for each in rows if (first := _first_of_backbone(rows, each)) is not each]
    names = dict(zip((id(pair) for pair in rows), setting_labels([pair[1] for pair in rows]), strict=True))
    found = [paired_bootstrap(each[1].resampled, first[1].resampled)[metric] for first, each in pairs]
    corrected = holm([difference.p for difference in found])
    return [
        Effect(
            names[id(each)],
            names[id(first)],
            metric,
            each[0].figures[metric] - first[0].figures[metric],
            difference,
            p_holm,
        )
        for (first, each), difference, p_holm in zip(pairs, found, corrected, strict=True)
    ]


def contrasts(joined: Joined) -> list[list[Effect]]:
    """The change of every metric from the first row to each of the paper's best, corrected for all these."""
    rows = [pair for pair in joined.rows if pair[1].resampled]
    pairs = [
        (first, best)
        for best in joined.best
        if best in rows and (first := _first_of_backbone(rows, best)) is not best
    ]
    made = []
    for first, best in pairs:
        before, after = setting_labels([first[1], best[1]])
        differences = paired_bootstrap(best[1].resampled, first[1].resampled)
        for metric in METRICS:
            if metric in best[0].figures and metric in first[0].figures:
                change = best[0].figures[metric] - first[0].figures[metric]
                made.append(Effect(after, before, metric, change, differences[metric], math.nan))
    corrected = holm([effect.ours.p for effect in made])
    made = [replace(effect, p_holm=p_holm) for effect, p_holm in zip(made, corrected, strict=True)]
    return [list(group) for _, group in itertools.groupby(made, key=lambda effect: effect.name)]


def effects_claim(found: Sequence[Effect]) -> str:
    """Say which of the paper's effects from one row to another are seen, metric by metric."""
    by_verdict: dict[str, list[str]] = {}
    for effect in found:
        by_verdict.setdefault(effect.verdict, []).append(effect.metric)
    listed = "; ".join(f"{', '.join(metrics)}: {verdict}" for verdict, metrics in by_verdict.items())
    return f"The paper's changes from {found[0].baseline} to {found[0].name}, metric by metric — {listed}."


def _first_of_backbone(
    rows: Sequence[tuple[PaperRow, Setting]], of: tuple[PaperRow, Setting]
) -> tuple[PaperRow, Setting]:
    return next(pair for pair in rows if _backbone(pair[0]) == _backbone(of[0]))


def _backbone(row: PaperRow) -> dict[str, Any]:
    """With its width: on a laptop one backbone stands for several of the paper's."""
    return {key: value for key, value in row.settings.items() if key.startswith("detector.backbone")}
