"""How far a table of the paper is confirmed: its best row, its ranking, and its effects."""

from __future__ import annotations

from studies.analysis.paper import PaperComparison, agreements, effects, effects_of_best
from studies.analysis.replicates import setting_labels
from studies.definition.metrics import AP_KEY
from studies.report import result_charts
from studies.report.result_tables import QUALITY, agreement_table, effects_table

__all__ = ["paper_section"]


def paper_section(comparison: PaperComparison) -> dict[str, object]:
    """What ``results.md.j2`` tells of a table of the paper beside the same settings here."""
    settings = [setting for _, setting in comparison.rows]
    # Labels that tell these settings apart are shorter than those that tell all of the study's apart.
    labels = dict(zip((setting.label for setting in settings), setting_labels(settings), strict=True))
    best = [labels[setting.label] for _, setting in comparison.best]
    scored = [setting for setting in settings if setting.values(AP_KEY)]
    scored.sort(key=lambda setting: -setting.mean(AP_KEY))
    ranked = [(labels[setting.label], setting.mean(AP_KEY)) for setting in scored]
    by_metric = agreements(comparison, QUALITY)
    tables = [agreement_table(by_metric, len(ranked))] if by_metric else []
    panels = {name: changes for name in ("AP", "AP90") if (changes := effects(comparison, name))}
    has_chart = len(panels.get("AP", ())) > 1
    return {
        "comparison": comparison,
        "best": best,
        "ranked": ranked,  # label and mean AP here, highest first
        "place": next((place for place, (label, _) in enumerate(ranked, 1) if label in best), 0),
        "tables": tables + [effects_table(changes) for changes in effects_of_best(comparison)],
        "chart": result_charts.effects_chart(comparison.table, panels) if has_chart else None,
    }
