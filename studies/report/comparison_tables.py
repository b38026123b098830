"""Tables of comparisons: of settings, of changes with the paper's changes, of the order with the paper's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from drcnn.engine.bootstrap import Difference
from drcnn.report.blocks import Table
from studies.analysis.claims import agreement_claim
from studies.analysis.comparisons import Agreement, Comparison, probability
from studies.analysis.paper import Effect
from studies.analysis.verdicts import Verdict
from studies.definition.metrics import MISSING, points

__all__ = ["agreement_table", "baseline_table", "best_table", "effects_table"]

# The p-value beside it is corrected for all comparisons of its table.
INTERVAL = "95 % interval, uncorrected"


def baseline_table(comparisons: Sequence[Comparison]) -> Table:
    """A row a comparison: of each other setting with the baseline."""
    first = comparisons[0]
    caption = f"Each setting (A) against {first.baseline} (B): difference of {first.metric} × 100."
    return _comparison_table(caption, [each.label for each in comparisons], comparisons)


def best_table(comparisons: Sequence[Comparison], *, has_baseline: bool) -> Table:
    """A row a comparison: of the best setting with each other one.

    Args:
        comparisons: without that with the baseline.
        has_baseline: whether there are comparisons with one.
    """
    first, but = comparisons[0], " but the baseline" if has_baseline else ""
    caption = f"{first.label}, the highest (A), against each other setting{but} (B): {first.metric} × 100."
    # One that the paper's tables ask for belongs to a family of its own, of fewer.
    number = max(each.comparisons for each in comparisons)
    if number > 1:
        pairs = f"all {number} pairs{but}'s" if but else f"all {number} pairs"
        caption += f" As it was chosen by its figure, p is corrected for {pairs}."
    return _comparison_table(caption, [each.baseline for each in comparisons], comparisons)


def _comparison_table(caption: str, names: Sequence[str], comparisons: Sequence[Comparison]) -> Table:
    rows = [
        (
            name,
            *_difference(each.difference, each.p_holm),
            probability(each.difference.p_above),
            _verdict(each),
        )
        for name, each in zip(names, comparisons, strict=True)
    ]
    columns = ("setting", "difference", INTERVAL, "p, corrected", "P(A > B)", "verdict")
    return Table(caption, columns, rows, words=("verdict",))


def _verdict(comparison: Comparison) -> str:
    match comparison.verdict:
        case Verdict.SIGNIFICANT:
            return f"significantly {'better' if comparison.difference.value > 0 else 'worse'}"
        case Verdict.EQUIVALENT:
            return f"equivalent within ±{100 * comparison.margin:g}"
        case Verdict.UNDECIDED:
            return "undecided"


def effects_table(effects: Sequence[Effect]) -> Table:
    """A row a metric: the paper's change from one setting to another, and ours; of single seeds no more."""
    first, rows = effects[0], []
    for effect in effects:
        ours = _difference(effect.ours, effect.p_holm)
        rows.append((effect.metric, f"{effect.paper:+.1f}", *ours, effect.verdict))
    caption = f"From {first.baseline} to {first.label}, the paper's best: change × 100 of each metric."
    columns = ("metric", "paper", "here", INTERVAL, "p, corrected", "the paper's change")
    return Table(caption, columns, rows, words=("the paper's change",)).without_empty_columns()


def _difference(difference: Difference, p: float) -> tuple[str, str, str]:
    low, high = (points(end, signed=True) for end in (difference.low, difference.high))
    interval = MISSING if math.isnan(difference.low) else f"{low} to {high}"
    p_text = MISSING if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"
    return points(difference.value, signed=True), interval, p_text


def agreement_table(agreements: Mapping[str, Agreement], settings: int) -> Table:
    """Whether the settings come in the paper's order, by metric.

    Args:
        agreements: by the name of the metric, at least one.
        settings: how many are ranked.
    """
    corrected = "p, corrected" if len(agreements) > 1 else "p"
    rows = [("τ", *(f"{agreement.tau:+.2f}" for agreement in agreements.values()))]
    if not any(math.isnan(agreement.p) for agreement in agreements.values()):
        rows.append((corrected, *(f"{agreement.p:.3f}" for agreement in agreements.values())))
    caption = (
        "Do the settings come in the paper's order? Kendall's τ is 1 for the same order, -1 for the reverse. "
        f"{agreement_claim(agreements, settings)}"
    )
    return Table(caption, ("order", *agreements), rows)
