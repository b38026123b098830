"""The study's settings beside the same settings in the paper's tables.

Metrics of trained detectors are fractions of 1; the paper's are points (× 100), as in its tables.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from drcnn.engine.average_precision import METRICS
from studies.analysis.bootstrap import LEVEL, Difference, paired_bootstrap
from studies.analysis.comparisons import Agreement, holm, kendall
from studies.analysis.replicates import Setting, setting_labels
from studies.definition.paper_tables import PaperRow, paper_rows, row_of
from studies.definition.plan import Plan

__all__ = [
    "PAPER_NOISE",
    "Effect",
    "PaperComparison",
    "agreements",
    "effects",
    "effects_of_best",
    "join_paper",
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
        ours: the change here, as a fraction.
        p_holm: the p-value of ours, corrected for the effects computed together.
    """

    label: str
    baseline: str
    metric: str
    paper: float
    ours: Difference
    p_holm: float

    @property
    def is_significant(self) -> bool:
        """Whether the change here is significant."""
        return self.p_holm < 1 - LEVEL

    @property
    def verdict(self) -> str:
        """Whether the paper's effect is seen here."""
        if abs(self.paper) <= PAPER_NOISE + 1e-9:
            ours = "significant change" if self.is_significant else "no significant change"
            return f"{ours}; the paper has about none"
        if (self.ours.value > 0) == (self.paper > 0):
            return "seen" if self.is_significant else "same direction, not significant"
        return "opposite direction, significant" if self.is_significant else "not seen"


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

    Metrics with fewer than three rows, or with all values tied, are left out.
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
    return None if math.isnan(agreement.tau) else agreement


def effects(comparison: PaperComparison, metric: str) -> list[Effect]:
    """The change of a metric from the table's first row to each other row, corrected for their number.

    A row of another backbone is compared with the first row of its own backbone: the paper does not ask
    whether ResNet-101 is better than ResNet-50.
    """
    rows = [pair for pair in comparison.rows if pair[1].resampled and metric in pair[0].figures]
    label_of = dict(zip(map(id, rows), setting_labels([setting for _, setting in rows]), strict=True))
    changes = []
    for pair in rows:
        first = _first_of_backbone(rows, pair)
        if first is not pair:
            ours = paired_bootstrap(pair[1].resampled, first[1].resampled)[metric]
            paper = pair[0].figures[metric] - first[0].figures[metric]
            changes.append(Effect(label_of[id(pair)], label_of[id(first)], metric, paper, ours, math.nan))
    return _corrected(changes)


def effects_of_best(comparison: PaperComparison) -> list[list[Effect]]:
    """The change of every metric from the first row to each of the paper's best rows.

    Returns:
        One list for each best row; p is corrected for all effects of all lists.
    """
    rows = [pair for pair in comparison.rows if pair[1].resampled]
    changes = []
    for best in comparison.best:
        if best not in rows or (first := _first_of_backbone(rows, best)) is best:
            continue
        baseline, label = setting_labels([first[1], best[1]])
        differences = paired_bootstrap(best[1].resampled, first[1].resampled)
        for metric in METRICS:
            if metric in best[0].figures and metric in first[0].figures:
                paper = best[0].figures[metric] - first[0].figures[metric]
                changes.append(Effect(label, baseline, metric, paper, differences[metric], math.nan))
    return [
        list(group) for _, group in itertools.groupby(_corrected(changes), key=lambda effect: effect.label)
    ]


def _corrected(changes: Sequence[Effect]) -> list[Effect]:
    p_values = holm([effect.ours.p for effect in changes])
    return [replace(effect, p_holm=p) for effect, p in zip(changes, p_values, strict=True)]


def _first_of_backbone(rows: Sequence[RowAndSetting], pair: RowAndSetting) -> RowAndSetting:
    return next(row for row in rows if _backbone(row[0]) == _backbone(pair[0]))


def _backbone(row: PaperRow) -> dict[str, Any]:
    """The backbone and its width: on a laptop one backbone, in several widths, replaces the paper's."""
    return {key: value for key, value in row.settings.items() if key.startswith("detector.backbone")}
