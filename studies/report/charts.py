"""How the report's charts look: two sets of colours (light and dark pages), drawn without a screen.

Series differ in colour and in marker. The colours are Okabe and Ito's, which the colour-blind can tell apart;
those too pale or too dark for their page are left out or shifted.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from studies.report.document import Picture

__all__ = ["MARKERS", "MOST", "Theme", "draw"]

DPI = 160
WIDTH = 5.0  # inches: letters stay readable on a telephone
MARKERS = "os^Dv*PX"


@dataclass(frozen=True)
class Theme:
    """Colours of one kind of page."""

    page: str
    ink: str
    faint: str
    colors: tuple[str, ...]
    # Matplotlib's scale from low to high, its end that meets the page left out.
    scale: tuple[float, float]


LIGHT = Theme(
    "#ffffff",
    "#1d2126",
    "#b9bec5",
    ("#0072b2", "#d55e00", "#009e73", "#b0558a", "#e69f00", "#3fa0d8", "#1d2126", "#7a6a00"),
    (0.0, 0.88),
)
DARK = Theme(
    "#14171b",
    "#e8eaed",
    "#555c66",
    ("#56b4e9", "#ff8a3d", "#2fc39a", "#e59bc8", "#f0e442", "#8aa4ff", "#e8eaed", "#b9a64a"),
    (0.18, 1.0),
)
MOST = len(LIGHT.colors)


def draw(file: str, alt: str, caption: str, height: float, paint: Callable[[Figure, Theme], None]) -> Picture:
    """Make a chart for both kinds of page.

    Args:
        file: its name beside the report.
        alt: what it shows, in words.
        caption: below it.
        height: inches.
        paint: draws on an empty figure.
    """
    light, dark = (_png(height, paint, theme) for theme in (LIGHT, DARK))
    return Picture(file, light, dark, alt, caption)


def _png(height: float, paint: Callable[[Figure, Theme], None], theme: Theme) -> bytes:
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor=theme.page, layout="constrained")
    FigureCanvasAgg(figure)
    paint(figure, theme)
    for axes in figure.axes:
        _dress(axes, theme)
    for legend in figure.legends:
        for text in legend.get_texts():
            text.set_color(theme.ink)
    target = io.BytesIO()
    # Without a date or a version of matplotlib the same results give the same file.
    figure.savefig(target, format="png", facecolor=theme.page, metadata={"Software": None})
    return target.getvalue()


def _dress(axes: Axes, theme: Theme) -> None:
    axes.set_facecolor(theme.page)
    axes.tick_params(colors=theme.ink, labelsize=9, length=3)
    for label in (axes.xaxis.label, axes.yaxis.label, axes.title):
        label.set_color(theme.ink)
        label.set_fontsize(10)
    for side, spine in axes.spines.items():
        spine.set_color(theme.faint)
        if side in {"top", "right"}:
            spine.set_visible(False)
    axes.set_axisbelow(True)
