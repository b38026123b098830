"""The report of a study: ``report.md``, ``report.html`` and figures, for readers who have seen nothing else.

It is written from what the trials' folders hold, finished or not, and can be written again at any time::

    python studies/run_study.py report nms_sweep

The Markdown is the report, made from ``templates/report.md.j2``; the page is the same Markdown, rendered.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from drcnn.files import replacing, write_text
from drcnn.report.blocks import Picture, Table
from drcnn.report.page import render_page
from studies.analysis import claims
from studies.analysis.paper import Effect, PaperComparison, agreements
from studies.analysis.replicates import load_annotations, setting_labels
from studies.analysis.search_summary import importances
from studies.definition.labels import value_text
from studies.definition.metrics import SPLITS
from studies.definition.plan import Trial
from studies.definition.study import SearchStudy
from studies.report import comparison_tables, result_tables
from studies.report.answer import answer
from studies.report.charts import forest
from studies.report.charts import results as result_charts
from studies.report.charts import search as search_charts
from studies.report.deviations import deviations
from studies.report.diagnosis import diagnosis_section
from studies.report.facts import ReportFacts
from studies.report.origin import mixture, origin
from studies.report.rendering import render_markdown

__all__ = ["write_report"]

# The share of training images with too few RoIs above which the report says so.
MOST_UNFILLED = 0.05


def write_report(facts: ReportFacts, folder: Path) -> list[Path]:
    """Write the report of a study's trials, whatever state they are in.

    Args:
        facts: what it tells of.
        folder: where to write.

    Returns:
        The files written; the report's own first.
    """
    pictures: list[Picture] = []

    def show(picture: Picture) -> Markup:
        pictures.append(picture)
        return picture.to_markdown()

    sections = _sections(facts) if facts.settings else {}
    first = {"answer": answer(facts), "first_picture": _first_picture(facts)}
    text = render_markdown("report.md.j2", facts=facts, claims=claims, show=show, **first, **sections)
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / "report.md", folder / "report.html"]
    write_text(files[0], text)
    write_text(files[1], render_page(text, pictures))
    for picture in pictures:
        files.append(folder / picture.file)
        with replacing(files[-1]) as draft:
            draft.write_bytes(picture.light)
    return files


def _first_picture(facts: ReportFacts) -> Picture | None:
    """Every setting against the baseline; of a search that is not confirmed its course, or its front."""
    if _begins_with_front(facts):
        assert facts.cost_key
        return search_charts.front_chart(facts.searched, facts.best_trials, facts.chosen_by, facts.cost_key)
    if _begins_with_course(facts):
        return search_charts.history_chart(facts.searched, facts.chosen_by)
    rows = forest.forest_rows(facts)
    if not rows or facts.baseline is None:
        return None
    return forest.forest_chart(rows, facts.baseline.label, facts.metric, facts.margin)


def _begins_with_front(facts: ReportFacts) -> bool:
    study = facts.plan.study
    confirms = isinstance(study, SearchStudy) and study.confirm is not None
    return facts.cost_key is not None and not confirms and bool(facts.best_trials)


def _begins_with_course(facts: ReportFacts) -> bool:
    return facts.is_unconfirmed and bool(facts.scored_trials) and not _begins_with_front(facts)


def _sections(facts: ReportFacts) -> dict[str, object]:
    """What the templates tell, by the names that they use."""
    plan, data = facts.plan, _data(facts.settings[0].first)
    return {
        "data": data,
        "mixture": mixture([*facts.models, *facts.replicates]),
        "result_tables": _result_tables(facts),
        "unfilled": _unfilled(facts),
        "papers": list(map(_paper, facts.tables, facts.paper_effects)),
        "curves": _curves(facts),
        "search": _search(facts) if isinstance(plan.study, SearchStudy) else None,
        "diagnosis": diagnosis_section(facts),
        "cost": result_tables.cost_table([*facts.models, *facts.replicates], plan.price),
        "deviations": deviations(plan, data, facts.tables[0].data if facts.tables else ""),
        "origin": origin(plan, facts.replicates),
    }


def _data(trial: Trial) -> str:
    """The data of a study and how much of it, in words."""
    source = trial.config.data.source
    name = "handwritten digits on cluttered canvases (digits)" if source == "digits" else source
    tables = {split: load_annotations(path) for split, path in trial.data.tables.items()}
    counts = [
        f"{len(table):,} {SPLITS.get(split, 'training images')}" for split, table in tables.items() if table
    ]
    return f"{name}: {', '.join([*counts, f'{len(trial.data.classes)} classes'])}"


def _result_tables(facts: ReportFacts) -> list[Table]:
    """The figures, each setting with the baseline, and the best setting with each other one."""
    # Of single runs none stands out.
    best = facts.best_comparisons[0].label if facts.best_comparisons else ""
    settings = facts.finished or facts.compared
    tables = [result_tables.settings_table(settings, facts.tables, facts.shown, best)]
    if facts.baseline_comparisons:
        tables.append(comparison_tables.baseline_table(facts.baseline_comparisons))
    of_best = [each for each in facts.best_comparisons if not each.is_of(facts.baseline)]
    if of_best:
        tables.append(comparison_tables.best_table(of_best, has_baseline=bool(facts.baseline_comparisons)))
    return tables


def _unfilled(facts: ReportFacts) -> list[str]:
    """Settings whose samplers often found too few RoIs in the last epoch, each in words."""
    told = []
    for setting in facts.finished or facts.compared:
        for name, branch in (("cls", "classifier"), ("reg", "regressor")):
            share = setting.mean(f"train/unfilled_{name}")
            if share > MOST_UNFILLED:
                told.append(f"{setting.label} ({branch}: {100 * share:.0f} %)")
    return told


def _paper(comparison: PaperComparison, changes: Sequence[Sequence[Effect]]) -> dict[str, object]:
    """How far a table of the paper is confirmed: its best row, its ranking, and its changes."""
    settings = [setting for _, setting in comparison.rows]
    # Labels that tell these settings apart are shorter than those that tell all of the study's apart.
    labels = dict(zip((setting.label for setting in settings), setting_labels(settings), strict=True))
    best = [labels[setting.label] for _, setting in comparison.best]
    scored = [setting for setting in settings if setting.values("AP")]
    scored.sort(key=lambda setting: -setting.mean("AP"))
    ranked = [(labels[setting.label], setting.mean("AP")) for setting in scored]
    by_metric = agreements(comparison, result_tables.QUALITY)
    tables = [comparison_tables.agreement_table(by_metric, len(ranked))] if by_metric else []
    times = result_tables.times_table(comparison)
    return {
        "comparison": comparison,
        "best": best,
        "ranked": ranked,  # label and mean AP here, highest first
        "are_single": any(len(setting.values("AP")) == 1 for setting in scored),
        "place": next((place for place, (label, _) in enumerate(ranked, 1) if label in best), 0),
        "tables": [
            *tables,
            *(comparison_tables.effects_table(effects) for effects in changes),
            *([times] if times else []),
        ],
    }


def _curves(facts: ReportFacts) -> list[Picture]:
    """AP over IoU thresholds and by epoch."""
    charts = []
    resampled = [setting for setting in facts.compared if setting.resampled]
    if resampled and not facts.is_unconfirmed:
        baseline = facts.baseline if facts.baseline and facts.baseline.resampled else resampled[0]
        charts.append(result_charts.ap_over_iou(facts.compared, baseline))
    histories = [replicate.record.history for replicate in facts.compared_replicates]
    key = facts.chosen_by
    if any(sum(not math.isnan(epoch.get(key, math.nan)) for epoch in history) > 1 for history in histories):
        charts.append(result_charts.ap_by_epoch(facts.compared, key))
    return charts


def _search(facts: ReportFacts) -> dict[str, object]:
    """How a search went; without a finished trial there is nothing to draw."""
    metric, finished, best = facts.chosen_by, facts.scored_trials, facts.best_trials
    if not finished:
        return {}
    keys = [key for key in finished[0].trial.varied if key != "seed"]
    varied = [key for key in keys if len({value_text(trial.trial.varied[key]) for trial in finished}) > 1]
    shares = importances(finished, keys, metric)
    charts = [] if _begins_with_course(facts) else [search_charts.history_chart(facts.searched, metric)]
    if len(finished) > 1 and varied:
        charts.append(search_charts.parallel_chart(finished, varied, metric))
    if shares:
        charts.append(search_charts.importance_chart(shares, len(finished)))
    front = None
    if facts.cost_key and best and not _begins_with_front(facts):
        front = search_charts.front_chart(facts.searched, best, metric, facts.cost_key)
    return {
        "best": result_tables.best_trials_table(facts) if best else None,
        "charts": charts,
        "has_importance": bool(shares),
        "front": front,
    }
