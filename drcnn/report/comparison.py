"""What ``drcnn compare`` shows: settings and metrics side by side, and the images where one wins most."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from drcnn.engine.comparison import Comparison, Win
from drcnn.engine.diagnosis import MOST_IMAGES
from drcnn.points import points
from drcnn.report.blocks import Picture, Table, escape

__all__ = ["about_intervals", "comparison_tables", "sides_in_words", "verdict", "write_comparison"]

NAMES = ("A", "B")


def sides_in_words(comparison: Comparison) -> list[str]:
    """What A and B are, a line each, and the images."""
    folders = [", ".join(str(trial.folder) for trial in side.trials) for side in comparison.sides]
    trial = comparison.sides[0].trials[0]
    images = f"{len(comparison.annotations):,} {trial.judged} images of {trial.config.data.source}"
    return [*(f"{name}: {text}" for name, text in zip(NAMES, folders, strict=True)), f"On {images}."]


def verdict(comparison: Comparison) -> str:
    """Which has the higher AP, or that this is open, in one sentence."""
    found = comparison.differences["AP"]
    same = "" if comparison.settings else "No setting that has an effect differs. "
    if all(other.value == other.low == other.high == 0 for other in comparison.differences.values()):
        return f"{same}All figures are equal, whichever images are drawn."
    low, value, high = (points(each, signed=True) for each in (found.low, found.value, found.high))
    is_shown = found.low > 0 or found.high < 0
    better = f"{'A' if found.value > 0 else 'B'} has the higher AP"
    said = better if is_shown else "Which has the higher AP is open"
    return f"{same}{said}: A - B is {value} ({low} to {high})."


def about_intervals(comparison: Comparison) -> str:
    """What the intervals are of."""
    if comparison.is_replicated:
        return "95 % intervals over images and seeds, each by itself. Bold: without 0."
    return (
        "95 % intervals over images, each by itself. Bold: without 0. They tell of these trained detectors, "
        "not of their settings: that takes two seeds or more of both (A1,A2 B1,B2)."
    )


def comparison_tables(comparison: Comparison) -> list[Table]:
    """Settings that differ, metrics, and the AP50 that errors cost."""
    left, right = comparison.sides
    settings = [(key, _text(a), _text(b)) for key, (a, b) in comparison.settings.items()]
    metrics = [
        (
            name,
            points(left.mean(name)),
            points(right.mean(name)),
            points(found.value, signed=True),
            f"{points(found.low, signed=True)} to {points(found.high, signed=True)}",
        )
        for name, found in comparison.differences.items()
    ]
    decided = [
        position
        for position, found in enumerate(comparison.differences.values())
        if found.low > 0 or found.high < 0
    ]
    errors = [
        (
            kind,
            points(left.lost[kind]),
            points(right.lost[kind]),
            points(left.lost[kind] - right.lost[kind], signed=True),
        )
        for kind in left.lost
    ]
    return [
        *([Table("Settings that differ", ("setting", *NAMES), settings, words=NAMES)] if settings else []),
        Table("Metrics", ("metric", *NAMES, "A - B", "95 % interval"), metrics, strong=decided),
        Table("AP50 lost by type of error", ("type", *NAMES, "A - B"), errors),
    ]


def write_comparison(folder: Path, comparison: Comparison) -> list[Path]:
    """Write ``comparison.html``, ``comparison.md`` with its pictures, and ``comparison.json``.

    Returns:
        The files, the page first.
    """
    from drcnn.report.evaluation import write_pages
    from drcnn.report.samples import how_drawn

    pictures = [_drawn(comparison, wins, name) for name, wins in zip(NAMES, comparison.wins, strict=True)]
    scores = " and ".join(
        f"{side.score:.2f} of {name}" for name, side in zip(NAMES, comparison.sides, strict=True)
    )
    among = (
        f" Chosen among {MOST_IMAGES} drawn at random." if len(comparison.annotations) > MOST_IMAGES else ""
    )
    blocks: list[str] = [
        "# A compared with B",
        *(escape(line) for line in sides_in_words(comparison)),
        "## Settings and figures",
        *(table.to_markdown() for table in comparison_tables(comparison)),
        verdict(comparison),
        about_intervals(comparison),
        "## Where one wins most",
        f"Left A, right B; of several seeds the first is drawn. {how_drawn(comparison.annotations.classes)} "
        f"Detections are drawn from the score at which F1 is highest: {scores}. AP counts weaker ones too."
        f"{among}",
    ]
    for name, drawn in zip(NAMES, pictures, strict=True):
        blocks += [f"### {name} wins", *(picture.to_markdown() for picture in drawn or [])]
        blocks += [] if drawn else [f"{name} is better on no image."]
    return write_pages(folder, "comparison", blocks, [*pictures[0], *pictures[1]], comparison.to_json())


def _drawn(comparison: Comparison, wins: Sequence[Win], name: str) -> list[Picture]:
    from drcnn.report.samples import draw_judged, found_in, photo, side_by_side

    annotations, pictures = comparison.annotations, []
    for number, win in enumerate(wins, 1):
        sides = [(side.judged[0], win.row, side.score) for side in comparison.sides]
        image = side_by_side([draw_judged(annotations, *side) for side in sides])
        found = "; ".join(
            f"{side} {found_in(annotations, *judged)}, AP {points(ap)}"
            for side, judged, ap in zip(NAMES, sides, win.ap, strict=True)
        )
        caption = f"{annotations.ids[win.row]}: {found}"
        pictures.append(
            photo(f"{name.lower()}_wins_{number}.png", image, f"Image {caption}.", caption, is_wide=True)
        )
    return pictures


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return "none" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
