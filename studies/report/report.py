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
from studies.analysis import claims
from studies.analysis.paper import effects_of_best
from studies.analysis.replicates import load_annotations
from studies.definition.plan import Plan, Trial
from studies.definition.study import SearchStudy
from studies.report import result_charts
from studies.report.cost import cost_table
from studies.report.deviations import deviations
from studies.report.facts import ReportFacts, gather_facts
from studies.report.markdown import escape, render_markdown
from studies.report.origin import origin
from studies.report.page import page
from studies.report.paper_section import paper_section
from studies.report.picture import Picture
from studies.report.result_tables import comparison_table, settings_table
from studies.report.sample_images import LEAST_SCORE, MOST_IMAGES, samples
from studies.report.search_section import best_trials, search_section
from studies.report.table import Table

__all__ = ["write_report"]


def write_report(plan: Plan, trials: Sequence[Trial], folder: Path) -> list[Path]:
    """Write the report of a study's trials, whatever state they are in.

    Args:
        plan: the study.
        trials: all of it, with those of a search's confirmation.
        folder: where to write.

    Returns:
        The files written; the report's own first.
    """
    facts = gather_facts(plan, trials)
    pictures: list[Picture] = []

    def show(picture: Picture) -> Markup:
        pictures.append(picture)
        return Markup(f"![{escape(picture.alt)}]({picture.file})\n\n{escape(picture.caption)}")

    sections = _sections(facts) if facts.settings else {}
    text = render_markdown("report.md.j2", facts=facts, claims=claims, show=show, **sections)
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / "report.md", folder / "report.html"]
    write_text(files[0], text)
    write_text(files[1], page(text, pictures))
    for picture in pictures:
        files.append(folder / picture.file)
        with replacing(files[-1]) as draft:
            draft.write_bytes(picture.light)
    return files


def _sections(facts: ReportFacts) -> dict[str, object]:
    """What the templates tell, by the names that they use."""
    plan, data = facts.plan, _data(facts.settings[0].first)
    return {
        "data": data,
        "front": best_trials(facts) if facts.cost_key else [],
        "effects_of_best": effects_of_best(facts.tables[0]) if facts.tables else [],
        "result_tables": _result_tables(facts),
        "papers": [paper_section(table) for table in facts.tables],
        "curves": _curves(facts),
        "search": search_section(facts) if isinstance(plan.study, SearchStudy) else None,
        "samples": _samples(facts),
        "cost": cost_table([*facts.models, *facts.replicates]),
        "deviations": deviations(plan, data, facts.tables[0].data if facts.tables else ""),
        "origin": origin(plan, facts.replicates),
    }


def _data(trial: Trial) -> str:
    """The data of a study and how much of it, in words."""
    source = trial.config.data.source
    name = "handwritten digits on cluttered canvases (digits)" if source == "digits" else source
    train, val = load_annotations(trial.data.train), load_annotations(trial.data.val)
    if train is None or val is None:
        return name
    return f"{name}: {len(train):,} training images, {len(val):,} test images, {len(val.classes)} classes"


def _result_tables(facts: ReportFacts) -> list[Table]:
    """The figures, the best setting with each other one, and each other one with the baseline."""
    best = facts.best.label if facts.best else ""
    tables = [settings_table(facts.finished or facts.compared, facts.tables, best)]
    if facts.best_comparisons:
        tables.append(comparison_table(facts.best_comparisons, of_best=True))
        is_best = facts.baseline is not None and facts.baseline.label == facts.best_comparisons[0].label
        if facts.baseline_comparisons and not is_best:
            tables.append(comparison_table(facts.baseline_comparisons, of_best=False))
    return tables


def _curves(facts: ReportFacts) -> list[Picture]:
    """AP over IoU thresholds and by epoch."""
    charts = []
    resampled = [setting for setting in facts.compared if setting.resampled]
    if resampled:
        baseline = facts.baseline if facts.baseline and facts.baseline.resampled else resampled[0]
        charts.append(result_charts.ap_over_iou(facts.compared, baseline))
    histories = [replicate.record.history for setting in facts.compared for replicate in setting.replicates]
    key = facts.metric_key
    if any(sum(not math.isnan(epoch.get(key, math.nan)) for epoch in history) > 1 for history in histories):
        charts.append(result_charts.ap_by_epoch(facts.compared, key))
    return charts


def _samples(facts: ReportFacts) -> dict[str, object]:
    """Images that the best setting's detector did best, and worst, on; none without its detections."""
    replicates = facts.best.replicates if facts.best else ()
    replicate = next((replicate for replicate in replicates if replicate.resampled), None)
    annotations = load_annotations(replicate.trial.data.val) if replicate else None
    if replicate is None or annotations is None:
        return {}
    best, worst = samples(replicate, annotations)
    drawn = MOST_IMAGES if len(annotations) > MOST_IMAGES else 0
    name, score = replicate.trial.name, LEAST_SCORE
    return {"trial": name, "min_score": score, "drawn": drawn, "best": best, "worst": worst}
