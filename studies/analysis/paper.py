"""The study's settings beside the same settings in the paper's tables.

Metrics of trained detectors are fractions of 1; the paper's are points (× 100), as in its tables.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from drcnn.engine.average_precision import METRICS
from drcnn.engine.bootstrap import Difference, mean_difference
from studies.analysis.comparisons import Agreement, Comparison, holm, kendall
from studies.analysis.replicates import Setting, setting_labels
from studies.analysis.verdicts import Verdict, verdict
from studies.definition.paper_tables import PaperRow, paper_rows, row_of
from studies.definition.plan import Plan

__all__ = [
    "PAPER_NOISE",
    "Effect",
    "PaperComparison",
    "agreements",
    "effects_of_best",
    "join_paper",
    "questions",
]

# Points. Tables V and VI both hold the setting of three stages, NMS_reg 0.85, λ = 1, trained twice: its
# metrics differ by up to this much.
PAPER_NOISE = 0.7

RowAndSetting = tuple[PaperRow, Setting]


@dataclass(frozen=True)
class PaperComparison:
    """A table of the paper and the setting of each row that was trained here, in the paper's order.

    Attributes:
        table: its name, such as 'Table III'.
        data: what the paper trained on.
        note: what the study's author says about the table.
        rows: each row with its setting.
    """

    table: str
    data: str
    note: str
    rows: tuple[RowAndSetting, ...]

    @property
    def best(self) -> tuple[RowAndSetting, ...]:
        """The rows with the paper's highest AP; several if the paper prints the same AP for them."""
        highest = max(row.figures["AP"] for row, _ in self.rows)
        return tuple(pair for pair in self.rows if pair[0].figures["AP"] == highest)


@dataclass(frozen=True)
class Effect:
    """The change of one metric from one row of the paper to another, in the paper and here.

    Attributes:
        label: the label of the second row's setting.
        baseline: the label of the first row's setting.
        metric: the name of the metric, such as AP50.
        paper: the change in the paper, in points.
        ours: the change here, as a fraction; with one seed a setting its value alone, all else nan.
        p_holm: the p-value of ours, corrected for the effects computed together.
        margin: the change, a fraction, up to which settings are equivalent.
    """

    label: str
    baseline: str
    metric: str
    paper: float
    ours: Difference
    p_holm: float
    margin: float

    @property
    def is_claim(self) -> bool:
        """Whether more than the figures can be told: both settings have several seeds."""
        return not math.isnan(self.p_holm)

    @property
    def is_none_in_paper(self) -> bool:
        """Whether the paper's change is no larger than that between two of its own trainings."""
        return abs(self.paper) <= PAPER_NOISE + 1e-9

    @property
    def is_outside(self) -> bool:
        """Whether the paper's change, a single training's, is not within the interval of ours."""
        return not self.ours.low <= self.paper / 100 <= self.ours.high

    @property
    def verdict(self) -> str:
        """Whether the paper's change is seen here; empty where that cannot be told."""
        if not self.is_claim:
            return ""
        ours = verdict(self.ours, self.p_holm, self.margin)
        if ours is Verdict.UNDECIDED:
            return "undecided"
        equivalent = f"equivalent within ±{100 * self.margin:g}"
        if self.is_none_in_paper:
            shown = "significant change" if ours is Verdict.SIGNIFICANT else equivalent
            return f"{shown}; the paper has about none"
        if ours is Verdict.EQUIVALENT:
            return f"not seen: {equivalent}"
        return (
            "seen" if (self.ours.value > 0) == (self.paper > 0) else "not seen: the opposite is significant"
        )


def join_paper(plan: Plan, settings: Sequence[Setting]) -> list[PaperComparison]:
    """Find the setting of every row of the study's tables; tables without any are left out."""
    comparisons = []
    for table in plan.study.paper:
        rows = paper_rows([table], plan.overrides.changes)
        # From each setting to its row, not the other way: a row that fixes less may match further settings.
        row_of_setting = [(row_of(rows, setting.first.config), setting) for setting in settings]
        pairs = []
        for row in rows:
            setting = next((setting for own_row, setting in row_of_setting if own_row is row), None)
            if setting is not None:
                pairs.append((row, setting))
        if pairs:
            comparisons.append(PaperComparison(rows[0].table, rows[0].data, table.note, tuple(pairs)))
    return comparisons


def agreements(comparison: PaperComparison, metrics: Sequence[str]) -> dict[str, Agreement]:
    """Kendall's tau of our means and the paper's values, with p corrected for the number of metrics.

    Metrics with fewer than three rows, or with all values tied, are left out. Where a setting has one seed,
    p is nan: the order of single trainings says nothing about settings.
    """
    single = {metric: _agreement(comparison, metric) for metric in metrics}
    defined = {metric: agreement for metric, agreement in single.items() if agreement is not None}
    corrected = holm([agreement.p for agreement in defined.values()])
    least = holm([agreement.least for agreement in defined.values()])
    return {
        metric: Agreement(agreement.tau, p, p_least)
        for (metric, agreement), p, p_least in zip(defined.items(), corrected, least, strict=True)
    }


def _agreement(comparison: PaperComparison, metric: str) -> Agreement | None:
    pairs = [
        (setting.mean(metric), row.figures[metric])
        for row, setting in comparison.rows
        if setting.values(metric) and metric in row.figures
    ]
    if len(pairs) < 3:
        return None
    ours, theirs = zip(*pairs, strict=True)
    agreement = kendall(ours, theirs)
    if math.isnan(agreement.tau):
        return None
    seeds = min(len(setting.values(metric)) for row, setting in comparison.rows if setting.values(metric))
    return agreement if seeds > 1 else replace(agreement, p=math.nan, least=math.nan)


def questions(tables: Sequence[PaperComparison]) -> list[tuple[Setting, Setting]]:
    """Each of the paper's best settings with the first of its table: the changes that a study asks about.

    A row of another backbone is compared with the first row of its own backbone: the paper does not ask
    whether ResNet-101 is better than ResNet-50.
    """
    pairs = [(best[1], first[1]) for table in tables for first, best in _question_rows(table)]
    return list({(best.label, first.label): (best, first) for best, first in pairs}.values())


def effects_of_best(
    table: PaperComparison, margin: float, planned: Sequence[Comparison]
) -> list[list[Effect]]:
    """The change of every metric from the first row to each of the paper's best rows.

    Args:
        table: of the paper.
        margin: the change, a fraction, up to which settings are equivalent.
        planned: the comparisons of ``questions``; what they are about has their p.

    Returns:
        One list for each best row. The p of the other metrics is corrected for all of them.
    """
    asked = {(each.label, each.baseline): each for each in planned}
    of_rows = [
        _changes(first, best, margin, asked.get((best[1].label, first[1].label)))
        for first, best in _question_rows(table)
    ]
    others = [effect.ours.p for effects in of_rows for effect in effects if math.isnan(effect.p_holm)]
    corrected = iter(holm(others))
    return [
        [
            replace(effect, p_holm=next(corrected)) if math.isnan(effect.p_holm) else effect
            for effect in effects
        ]
        for effects in of_rows
    ]


def _question_rows(table: PaperComparison) -> list[tuple[RowAndSetting, RowAndSetting]]:
    """The first row of the same backbone, and each of the best rows; those with detections."""
    rows = [pair for pair in table.rows if pair[1].resampled]
    pairs = [(_first_of_backbone(rows, best), best) for best in table.best if best in rows]
    return [(first, best) for first, best in pairs if first is not best]


def _changes(
    first: RowAndSetting, second: RowAndSetting, margin: float, asked: Comparison | None
) -> list[Effect]:
    """The change of each metric that the paper has of both rows; p of what was asked, else not known yet."""
    baseline, label = setting_labels([first[1], second[1]])
    figures, others = second[0].figures, first[0].figures
    return [
        Effect(
            label,
            baseline,
            metric,
            figures[metric] - others[metric],
            _change(first[1], second[1], metric),
            asked.p_holm if asked is not None and asked.metric == metric else math.nan,
            margin,
        )
        for metric in METRICS
        if metric in figures and metric in others
    ]


def _change(first: Setting, second: Setting, metric: str) -> Difference:
    """The change from one setting to another; of single seeds its value alone."""
    difference = mean_difference(second.resampled, first.resampled, metric)
    if first.is_replicated and second.is_replicated:
        return difference
    return Difference(difference.value, math.nan, math.nan, math.nan)


def _first_of_backbone(rows: Sequence[RowAndSetting], pair: RowAndSetting) -> RowAndSetting:
    return next(row for row in rows if _backbone(row[0]) == _backbone(pair[0]))


def _backbone(row: PaperRow) -> dict[str, Any]:
    """The backbone and its width: on a laptop one backbone, in several widths, replaces the paper's."""
    return {key: value for key, value in row.settings.items() if key.startswith("detector.backbone")}
