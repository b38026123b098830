"""Names and units of metrics: records hold ``test/AP`` as a fraction, people read AP in points (× 100).

A key is the split and the name. What a study chooses by is always of ``val``; what it is judged by is of
``test`` where the data has such a split (``PreparedData.judged``).
"""

from __future__ import annotations

from drcnn.engine.metrics import AT_IOU
from drcnn.points import MISSING, points

__all__ = ["MARGIN", "METRICS", "MISSING", "SPLITS", "key_of", "points"]

# The images that a figure is of, in words.
SPLITS = {"val": "validation images", "test": "test images"}
# What a study may be judged by: metrics that every split has, and of which the statistics know the spread.
METRICS = ("AP", *AT_IOU)
# AP points: settings that surely differ by less are equivalent, unless --margin says otherwise.
MARGIN = 0.5


def key_of(name: str, split: str) -> str:
    """The key under which records and MLflow keep a metric.

    >>> key_of("AP50", "test")
    'test/AP50'
    """
    return f"{split}/{name}"
