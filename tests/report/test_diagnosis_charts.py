from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

from drcnn.engine.diagnosis import RECALLS, Diagnosis
from drcnn.report import diagnosis_charts
from drcnn.report.chart_style import LIGHT
from drcnn.report.diagnosis_charts import confusion_chart, precision_recall_chart
from drcnn.report.diagnosis_tables import classes_table, errors_table

CLASSES = 30


def diagnosis() -> Diagnosis:
    """Thirty classes; the first twenty miss an object each, and the first two have none annotated."""
    confusion = np.diag(np.full(CLASSES + 1, 3))
    confusion[CLASSES, CLASSES] = 0
    confusion[:20, CLASSES] = 1
    objects = np.full(CLASSES, 4)
    objects[:2] = 0
    ap = np.where(objects, np.linspace(0.9, 0.1, CLASSES), np.nan)
    return Diagnosis(
        classes=tuple(f"c{number:02}" for number in range(CLASSES)),
        objects=objects,
        ap=ap,
        ap50=ap,
        precision={iou: np.tile(ap[:, None], (1, len(RECALLS))) for iou in (0.5, 0.75)},
        errors={"class": 0, "localisation": 0, "both": 0, "duplicate": 0, "background": 0, "missed": 20},
        lost={"class": 0, "localisation": 0, "both": 0, "duplicate": 0, "background": 0, "missed": 0.25},
        score=0.37,
        f1=0.5,
        confusion=confusion,
    )


def test_of_many_classes_those_with_errors_are_drawn() -> None:
    chart = confusion_chart(diagnosis())
    assert "Only the 20 of 30 classes with the most errors." in chart.caption
    assert "from a score of 0.37" in chart.caption
    assert "90 objects found, 0 taken for another class, 20 missed" in chart.alt
    assert chart.light.startswith(b"\x89PNG")


def test_classes_without_objects_have_no_curve() -> None:
    assert "28 classes" in precision_recall_chart(diagnosis()).alt


def test_a_class_whose_name_begins_with_an_underscore_is_in_the_legend(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    figure = Figure()
    monkeypatch.setattr(diagnosis_charts, "draw", lambda *_: _[-1](figure, LIGHT))
    whole = diagnosis()
    few = {iou: rows[2:4] for iou, rows in whole.precision.items()}
    precision_recall_chart(
        replace(whole, classes=("_cell", "_child0"), objects=whole.objects[2:4], precision=few)
    )
    (legend,) = figure.legends
    assert [text.get_text().strip("\u200b") for text in legend.get_texts()] == ["_cell", "_child0", "mean"]


def test_the_lowest_ap_comes_first_and_unknown_ones_last() -> None:
    rows = classes_table(diagnosis()).rows
    assert rows[0][0] == "c29"
    assert [rows[-1][2], rows[-2][2]] == ["–", "–"]
    assert tuple(errors_table(diagnosis()).rows[-1])[:3] == ("missed", "20", "25.0")
