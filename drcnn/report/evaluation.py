"""What ``drcnn evaluate --output`` leaves: a page, its Markdown and pictures, and all figures as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from drcnn.data.annotations import Annotations
from drcnn.engine.diagnosis import MOST_IMAGES, Diagnosis
from drcnn.engine.judged_detections import JudgedDetections
from drcnn.engine.metrics import Metrics
from drcnn.files import replacing, write_text
from drcnn.points import points
from drcnn.report.blocks import Picture, Table, escape
from drcnn.report.diagnosis_charts import confusion_chart, precision_recall_chart
from drcnn.report.diagnosis_tables import classes_table, errors_table
from drcnn.report.page import render_page
from drcnn.report.samples import best_and_worst, how_drawn

__all__ = ["metrics_table", "write_evaluation", "write_pages"]


def metrics_table(metrics: Metrics) -> Table:
    """The figures of a whole split."""
    cells = [points(value) for value in metrics.summary.values()]
    return Table("AP × 100 of all classes", ("", *metrics.summary), [("mean", *cells)])


def write_evaluation(
    folder: Path,
    title: str,
    annotations: Annotations,
    judged: JudgedDetections,
    metrics: Metrics,
    diagnosis: Diagnosis,
) -> list[Path]:
    """Write ``evaluation.html``, ``evaluation.md`` with its pictures, and ``evaluation.json``.

    Args:
        folder: where; made if it is not there.
        title: what was evaluated, on which data.
        annotations: the split.
        judged: the detections there.
        metrics: the figures of the metric.
        diagnosis: of the same detections.

    Returns:
        The files, the page first.
    """
    best, worst = best_and_worst(annotations, judged, diagnosis.score)
    charts = [precision_recall_chart(diagnosis), confusion_chart(diagnosis)]
    drawn = f" Chosen among {MOST_IMAGES} drawn at random." if len(annotations) > MOST_IMAGES else ""
    how = (
        f"{how_drawn(annotations.classes)} Only detections with a score from {diagnosis.score:.2f} are drawn "
        f"and counted, at which F1 is highest on all {len(annotations):,} images; AP counts weaker ones "
        f"too.{drawn}"
    )
    blocks = [
        f"# {escape(title)}",
        f"{len(annotations):,} images, {int(diagnosis.objects.sum()):,} objects to find.",
        "## Figures",
        metrics_table(metrics).to_markdown(),
        classes_table(diagnosis).to_markdown(),
        "## Errors by type",
        "Types as TIDE defines them (Bolya et al., ECCV 2020). AP50 lost is what AP50 would gain if only the "
        "errors of this type were corrected; the losses do not add up.",
        errors_table(diagnosis).to_markdown(),
        "## Curves and confusions",
        *(chart.to_markdown() for chart in charts),
        "## Worst images",
        how,
        *(picture.to_markdown() for picture in worst),
        *(["## Best images", *(picture.to_markdown() for picture in best)] if best else []),
    ]
    figures = {"summary": metrics.summary, "per_class": metrics.per_class, **diagnosis.to_json()}
    return write_pages(folder, "evaluation", blocks, [*charts, *worst, *best], figures)


def write_pages(
    folder: Path, name: str, blocks: Sequence[str], pictures: Sequence[Picture], figures: Mapping[str, Any]
) -> list[Path]:
    """Write ``NAME.html``, ``NAME.md`` with its pictures, and ``NAME.json``.

    Returns:
        The files, the page first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = "\n\n".join(blocks) + "\n"
    files = [folder / f"{name}.{kind}" for kind in ("html", "md", "json")]
    write_text(files[0], render_page(text, pictures))
    write_text(files[1], text)
    write_text(files[2], json.dumps(figures, indent=1))
    for picture in pictures:
        files.append(folder / picture.file)
        with replacing(files[-1]) as draft:
            draft.write_bytes(picture.light)
    return files
