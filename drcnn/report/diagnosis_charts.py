"""Charts of what is wrong with a detector."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from drcnn.engine.diagnosis import RECALLS, Diagnosis
from drcnn.engine.metrics import mean_of_present
from drcnn.points import points
from drcnn.report.blocks import Picture
from drcnn.report.chart_style import MAX_CURVES, Theme, draw, draw_legend, in_points, legend_name

__all__ = ["confusion_chart", "precision_recall_chart"]

MOST_LETTERS = 24  # of a name in a chart
MOST_CLASSES = 20  # of a confusion matrix that can be read


def precision_recall_chart(diagnosis: Diagnosis) -> Picture:
    """Precision over recall at IoU 0.5 and 0.75, of each class and their mean."""
    present = [at for at, count in enumerate(diagnosis.objects) if count]
    is_coloured = len(present) <= MAX_CURVES

    def paint(figure: Figure, theme: Theme) -> None:
        panels = figure.subplots(1, 2, sharey=True)
        for axes, (iou, precision) in zip(panels, diagnosis.precision.items(), strict=True):
            assert isinstance(axes, Axes)
            for number, at in enumerate(present):
                color = f"C{number}" if is_coloured else theme.faint
                label = legend_name(_short(diagnosis.classes[at])) if is_coloured else None
                axes.plot(RECALLS, precision[at], color=color, linewidth=1, label=label)
            mean = precision[present].mean(axis=0)
            axes.plot(RECALLS, mean, color=theme.ink, linewidth=2, linestyle="--", label="mean")
            axes.set_title(f"IoU {iou:g}", fontsize=10)
            axes.set_xlabel("recall × 100")
            axes.set_xlim(0, 1)
            axes.set_ylim(0, 1.02)
            axes.grid(True)
            in_points(axes.xaxis)
        in_points(panels[0].yaxis)
        panels[0].set_ylabel("precision × 100")
        draw_legend(figure, panels[0], columns=3)

    areas = [
        f"{points(mean_of_present(rows.mean(axis=1)))} at IoU {iou:g}"
        for iou, rows in diagnosis.precision.items()
    ]
    alt = f"Curves of precision over recall of {len(present)} classes; mean precision {', '.join(areas)}."
    which = "" if is_coloured else f" Grey: each of {len(present)} classes."
    caption = f"The highest precision at each recall or above; dashed: the mean over classes.{which}"
    legend = 0.2 * -(-(len(present) + 1) // 3) if is_coloured else 0.2
    return draw("precision_recall.png", alt, caption, 2.9 + legend, paint)


def confusion_chart(diagnosis: Diagnosis) -> Picture:
    """The confusion matrix; of many classes those with the most errors."""
    chosen = _most_confused(diagnosis.confusion)
    classes = len(diagnosis.classes)
    names = [_short(diagnosis.classes[at]) for at in chosen]
    places = [*chosen, classes]
    counts = diagnosis.confusion[np.ix_(places, places)]
    with np.errstate(invalid="ignore"):
        shares = counts / diagnosis.confusion.sum(axis=1)[places, None]

    def paint(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        axes.imshow(np.nan_to_num(shares), cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for (true, detected), count in np.ndenumerate(counts):
            if count:
                color = "#ffffff" if shares[true, detected] > 0.5 else "#1d2126"
                axes.text(detected, true, f"{count}", ha="center", va="center", fontsize=7, color=color)
        axes.set_xticks(
            range(len(places)), [*names, "missed"], rotation=60, ha="right", rotation_mode="anchor"
        )
        axes.set_yticks(range(len(places)), [*names, "background"])
        axes.set_xlabel("detected as")
        axes.set_ylabel("true class")

    right = int(np.trace(diagnosis.confusion[:classes, :classes]))
    wrong = int(diagnosis.confusion[:classes, :classes].sum()) - right
    missed, false = int(diagnosis.confusion[:, classes].sum()), int(diagnosis.confusion[classes].sum())
    alt = (
        f"Confusion matrix: {right} objects found, {wrong} taken for another class, {missed} missed; "
        f"{false} other false detections."
    )
    left_out = (
        f" Only the {len(chosen)} of {classes} classes with the most errors." if len(chosen) < classes else ""
    )
    caption = (
        f"{alt} Detections count from a score of {diagnosis.score:.2f}, at which F1 is highest "
        f"({points(diagnosis.f1)}), and an IoU of 0.5. A cell's colour is its share of its row.{left_out}"
    )
    return draw("confusion.png", alt, caption, 1.4 + 0.27 * len(places), paint)


def _short(name: str) -> str:
    """A class's name as a chart has room for it."""
    return name if len(name) <= MOST_LETTERS else f"{name[: MOST_LETTERS - 1]}…"


def _most_confused(confusion: NDArray[np.intp]) -> list[int]:
    """The classes to show, in their order."""
    off = confusion - np.diag(np.diag(confusion))
    errors = (off.sum(axis=0) + off.sum(axis=1))[:-1]
    return sorted(np.argsort(-errors, kind="stable")[:MOST_CLASSES].tolist())
