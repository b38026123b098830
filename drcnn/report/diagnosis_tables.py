"""Tables of what is wrong with a detector."""

from __future__ import annotations

import numpy as np

from drcnn.engine.diagnosis import Diagnosis
from drcnn.points import points
from drcnn.report.blocks import Table

__all__ = ["classes_table", "errors_table"]

MEANING = {
    "class": "right place, wrong class",
    "localisation": "right class, place off (IoU 0.1-0.5)",
    "both": "wrong class and wrong place",
    "duplicate": "an object that is found already",
    "background": "no object (IoU up to 0.1)",
    "missed": "objects that nothing is near",
}


def classes_table(diagnosis: Diagnosis) -> Table:
    """AP and AP50 of each class, the lowest AP first."""
    order = np.argsort(diagnosis.ap, kind="stable")  # nan last
    rows = [
        (
            diagnosis.classes[at],
            f"{diagnosis.objects[at]:,}",
            points(diagnosis.ap[at]),
            points(diagnosis.ap50[at]),
        )
        for at in order
    ]
    return Table("AP by class, the lowest first", ("class", "objects", "AP", "AP50"), rows)


def errors_table(diagnosis: Diagnosis) -> Table:
    """Errors by type, with the AP50 that each costs."""
    rows = [
        (kind, f"{count:,}", points(diagnosis.lost[kind]), MEANING[kind])
        for kind, count in diagnosis.errors.items()
    ]
    return Table(
        "Errors by type, and the AP50 that each type costs",
        ("type", "errors", "AP50 lost", "meaning"),
        rows,
        words=("meaning",),
    )
