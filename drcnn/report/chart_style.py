"""How the report's charts look, for light and for dark pages, and how they become pictures.

Charts are drawn from fractions of 1 and labelled in points (× 100), as the paper prints AP. Curves differ in
colour and in marker. The colours are Okabe and Ito's, which the colour-blind can distinguish; those too pale
or too dark for their page are left out or shifted.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cycler import cycler
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from drcnn.report.blocks import Picture

__all__ = ["MARKERS", "MAX_CURVES", "Theme", "draw", "draw_legend", "in_points", "legend_name"]

WIDTH = 5.0  # inches: text stays readable on a telephone
MARKERS = "os^Dv*PX"
SETTINGS = {
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.fontsize"), 9),
    **{"axes.axisbelow": True, "grid.linewidth": 0.5, "grid.alpha": 0.6},
    # Names of classes and settings are other people's text: a dollar sign in one is no formula.
    "text.parse_math": False,
}


@dataclass(frozen=True)
class Theme:
    """The colours of one kind of page.

    Attributes:
        page: the background.
        ink: text and axes.
        faint: grid, borders, and curves without a colour of their own.
        colors: of the curves, for matplotlib C0, C1 ...
        scale: the part of matplotlib's viridis that can be seen on the page, from low to high.
    """

    page: str
    ink: str
    faint: str
    colors: tuple[str, ...]
    scale: tuple[float, float]

    @property
    def settings(self) -> dict[Any, Any]:
        """Matplotlib's settings for this page."""
        return {
            **SETTINGS,
            **dict.fromkeys(("figure.facecolor", "axes.facecolor"), self.page),
            **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), self.ink),
            **dict.fromkeys(("axes.edgecolor", "grid.color"), self.faint),
            "axes.prop_cycle": cycler(color=self.colors),
        }


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
MAX_CURVES = len(LIGHT.colors)  # with a colour of their own


def draw(file: str, alt: str, caption: str, height: float, paint: Callable[[Figure, Theme], None]) -> Picture:
    """Draw a chart for both kinds of page.

    Args:
        file: its name beside the report.
        alt: what it shows, in words.
        caption: the text below it.
        height: inches.
        paint: draws on an empty figure.
    """
    light, dark = (_png(height, paint, theme) for theme in (LIGHT, DARK))
    return Picture(file, light, dark, alt, caption)


def _png(height: float, paint: Callable[[Figure, Theme], None], theme: Theme) -> bytes:
    with rc_context(theme.settings):
        figure = Figure(figsize=(WIDTH, height), dpi=160, layout="constrained")
        FigureCanvasAgg(figure)  # needs no screen
        paint(figure, theme)
        target = io.BytesIO()
        # Without matplotlib's version the same results give the same bytes.
        figure.savefig(target, format="png", metadata={"Software": None})
        return target.getvalue()


def legend_name(name: str) -> str:
    """Other people's name for a curve; a legend leaves out what begins with an underscore, so none does."""
    return f"\u200b{name}" if name.startswith("_") else name  # a blank without width


def draw_legend(figure: Figure, axes: Axes, columns: int = 1) -> None:
    """List the labelled curves of one of the figure's axes below all of them."""
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", ncols=columns)


def in_points(axis: Axis) -> None:
    """Label an axis of fractions in points: 0.25 as 25."""
    axis.set_major_formatter(PercentFormatter(1, symbol=None))
