"""What is wrong with the published detector: classes, errors by type, confusions and sample images."""

from __future__ import annotations

from drcnn.engine.detections_file import read_detections
from drcnn.engine.diagnosis import MOST_IMAGES, diagnose
from drcnn.engine.judged_detections import judge
from drcnn.report.diagnosis_charts import confusion_chart, precision_recall_chart
from drcnn.report.diagnosis_tables import classes_table, errors_table
from drcnn.report.samples import best_and_worst, how_drawn
from studies.analysis.replicates import Replicate, load_annotations
from studies.report.facts import ReportFacts

__all__ = ["diagnosis_section"]


def diagnosis_section(facts: ReportFacts) -> dict[str, object]:
    """Return what the templates tell of one detector; nothing without its detections."""
    replicate = _examined(facts)
    annotations = load_annotations(replicate.trial.data.judged_table) if replicate else None
    if replicate is None or annotations is None:
        return {}
    detections = read_detections(replicate.trial.folder)
    judged = judge(annotations, detections, replicate.trial.config.evaluation.metric)
    diagnosis = diagnose(annotations, judged)
    best, worst = best_and_worst(annotations, judged, diagnosis.score)
    return {
        "trial": replicate.trial.name,
        "is_published": facts.published is not None and facts.published.trial.id == replicate.trial.id,
        "tables": [errors_table(diagnosis), classes_table(diagnosis)],
        "charts": [precision_recall_chart(diagnosis), confusion_chart(diagnosis)],
        "how_drawn": how_drawn(annotations.classes),
        "min_score": f"{diagnosis.score:.2f}",
        "drawn": MOST_IMAGES if len(annotations) > MOST_IMAGES else 0,
        "best": best,
        "worst": worst,
    }


def _examined(facts: ReportFacts) -> Replicate | None:
    """The published detector; where none is, or its detections are not here, one of the best setting."""
    published = facts.published.trial.id if facts.published else ""
    of_best = facts.best.replicates if facts.best else ()
    candidates = [each for each in facts.replicates if each.trial.id == published]
    return next((each for each in (*candidates, *of_best) if each.resampled), None)
