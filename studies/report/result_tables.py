"""Tables of results: figures beside the paper's, times of inference, a search's best, and the cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from drcnn.engine.bootstrap import mean_interval
from drcnn.engine.record import LATENCY
from drcnn.report.blocks import Cell, Table, number
from studies.analysis.paper import PaperComparison
from studies.analysis.replicates import Replicate, Setting
from studies.definition.metrics import MISSING, SPLITS, key_of, points
from studies.definition.paper_tables import FIGURES, PaperRow
from studies.report.facts import ReportFacts

__all__ = [
    "QUALITY",
    "best_trials_table",
    "cost_table",
    "settings_table",
    "times_table",
    "trials_table",
]

# The paper's columns that are metrics of quality.
QUALITY = [name for name in FIGURES if name.startswith("AP")]
# Shown where the paper has no figures of these settings; and in a terminal, beside the names of trials.
USUAL, FEW = ("AP", "AP50", "AP60", "AP70", "AP80", "AP90"), ("AP", "AP50", "AP80", "AP90")
IN_BRACKETS = "; in brackets the paper's figure, and ours minus the paper's"


def settings_table(
    settings: Sequence[Setting],
    tables: Sequence[PaperComparison],
    split: str,
    best: str = "",
    *,
    is_short: bool = False,
) -> Table:
    """Each setting's mean figures over its seeds, with the paper's where it has the setting.

    Args:
        settings: those to list.
        tables: the paper's.
        split: the images that the figures are of: ``val`` or ``test``.
        best: label of the setting that stands out.
        is_short: with few metrics, for a terminal.
    """
    paper = _paper_rows(tables)
    in_paper = {name for row in paper.values() for name in row.figures}
    metrics = FEW if is_short else [name for name in QUALITY if name in (in_paper or USUAL)]
    rows = []
    for setting in settings:
        finished = sum(replicate.is_finished for replicate in setting.replicates)
        seeds = f"{finished} of {len(setting.replicates)}"
        values = _on(split, setting.values)
        rows.append(_row(setting.label, seeds, values, metrics, paper.get(setting.label)))
    has_intervals = any(len(_on(split, setting.values)("AP")) > 1 for setting in settings)
    half = " ± half of the 95 % interval over seeds" if has_intervals else ""
    caption = f"AP × 100 on the {SPLITS[split]} after the last epoch{half}{IN_BRACKETS if paper else ''}."
    if any(str(row[-1]) != MISSING for row in rows):
        where = " (the paper's on its TITAN X)" if "seconds_per_image" in in_paper else ""
        caption += f" s/image: seconds of inference for an image{where}; {MISSING} where none were measured."
    strong = [position for position, setting in enumerate(settings) if setting.label == best]
    columns = ("setting", "seeds", *metrics, "s/image")
    return Table(caption, columns, rows, strong=strong, on_remarks=IN_BRACKETS).without_empty_columns()


def trials_table(settings: Sequence[Setting], tables: Sequence[PaperComparison], split: str) -> Table:
    """Each trial's status and last figures, finished or not, with the paper's; short, for a terminal."""
    paper = _paper_rows(tables)
    rows = []
    for setting in settings:
        for replicate in setting.replicates:
            values = _on(split, _last_values(replicate))
            row = paper.get(setting.label)
            rows.append(_row(replicate.trial.name, replicate.record.status, values, FEW, row))
    caption = f"Results, AP × 100 on the {SPLITS[split]}{IN_BRACKETS if paper else ''}."
    columns = ("trial", "status", *FEW, "s/image")
    return Table(caption, columns, rows, words=("status",), on_remarks=IN_BRACKETS).without_empty_columns()


def _last_values(replicate: Replicate) -> Callable[[str], list[float]]:
    return lambda name: [] if math.isnan(replicate.figure(name)) else [replicate.figure(name)]


def _on(split: str, values: Callable[[str], list[float]]) -> Callable[[str], list[float]]:
    """The same figures, of one split where a metric's name does not say of which."""
    return lambda name: values(name if "/" in name else key_of(name, split))


def _paper_rows(tables: Sequence[PaperComparison]) -> dict[str, PaperRow]:
    """The paper's row of each setting that has one, by label."""
    rows: dict[str, PaperRow] = {}
    for row, setting in (pair for table in tables for pair in table.rows):
        # Of several, the one that says most about the setting, then the first.
        rows[setting.label] = max(rows.get(setting.label, row), row, key=lambda row: len(row.settings))
    return rows


def _row(
    name: str,
    state: str,
    values: Callable[[str], Sequence[float]],
    metrics: Sequence[str],
    paper: PaperRow | None,
) -> list[Cell]:
    """A name, a state, a figure a metric, and the seconds of inference for an image."""
    figures = paper.figures if paper else {}
    cells = [_figure(values(metric), figures.get(metric)) for metric in metrics]
    latency, in_paper = values(LATENCY), figures.get("seconds_per_image")
    # Without a difference: what can be compared is how time changes from setting to setting.
    seconds = number(sum(latency) / len(latency) / 1000, 3) if latency else MISSING
    cells.append(Cell(seconds, "" if in_paper is None else f"paper {in_paper:.3f}"))
    return [Cell(name, paper.table if paper else ""), Cell(state), *cells]


def _figure(values: Sequence[float], paper: float | None) -> Cell:
    """The mean of fractions with half of its interval; the paper's figure is in points."""
    if not values:
        return Cell(MISSING, "" if paper is None else f"paper {paper:.1f}")
    interval = mean_interval(values)
    half = "" if math.isnan(interval.low) else f" ± {points(interval.high - interval.mean)}"
    beside = "" if paper is None else f"{paper:.1f}, {points(interval.mean - paper / 100, signed=True)}"
    return Cell(points(interval.mean) + half, beside)


def times_table(comparison: PaperComparison) -> Table | None:
    """Each row's time of inference and how many times the first row's it is, in the paper and here."""
    timed = []
    for row, setting in comparison.rows:
        ours = setting.mean(LATENCY) / 1000
        if row.seconds is not None and not math.isnan(ours):
            timed.append((setting.label, ours, row.seconds))
    if len(timed) < 2:
        return None
    _, our_first, their_first = timed[0]
    rows = [
        (label, *_seconds(ours, our_first), *_seconds(theirs, their_first)) for label, ours, theirs in timed
    ]
    caption = (
        "Seconds of inference for an image, one image at a time, and how many times those of the first row "
        "they are. The machines differ (the paper's is a TITAN X): compare the ratios, not the seconds."
    )
    columns = ("setting", "s/image", "ratio", "paper's s/image", "paper's ratio")
    return Table(caption, columns, rows)


def _seconds(value: float, first: float) -> tuple[str, str]:
    return number(value, 3), number(value / first, 2)


def best_trials_table(facts: ReportFacts) -> Table:
    """Those trials with their figures and ids."""
    rows: list[Sequence[Cell | str]] = [
        [
            trial.trial.name,
            points(trial.record.metric(facts.chosen_by)),
            number(trial.record.metric(LATENCY)),
            Cell(trial.trial.id, is_code=True),
        ]
        for trial in facts.best_trials
    ]
    caption = f"The trials of the search with the highest {facts.metric} on val, a single run each."
    if facts.cost_key:
        caption = "The Pareto front: no other trial is both faster and better than one of these."
    columns = ("trial", f"{facts.metric} × 100", "ms/image", "id")
    return Table(caption, columns, rows, words=("id",)).without_empty_columns()


def cost_table(replicates: Sequence[Replicate], price: float | None = None) -> Table:
    """What each trial took and what all took together; without the columns of which nothing is known.

    Args:
        replicates: the trials.
        price: dollars a GPU hour, if somebody said.
    """
    price = math.nan if price is None else price
    costs = np.array([_cost(replicate) for replicate in replicates])
    total = np.where(np.isnan(costs).all(axis=0), math.nan, np.nansum(costs, axis=0))
    total[-1] = math.nan
    rows = [
        [
            replicate.trial.name,
            replicate.record.status,
            f"{replicate.record.epoch} of {replicate.trial.config.training.epochs}",
            *_cells(*cost, price=price),
        ]
        for replicate, cost in zip(replicates, costs.tolist(), strict=True)
    ]
    rows.append(["all", f"{len(rows)} trials", "", *_cells(*total.tolist(), price=price)])
    caption = "Time of training and evaluation, images trained on and their rate; ms/image is inference."
    columns = ("trial", "status", "epochs", "time", "images", "images/s", "GPU hours", "dollars", "ms/image")
    return Table(caption, columns, rows, {"status"}, {len(rows) - 1}).without_empty_columns()


def _cost(replicate: Replicate) -> tuple[float, ...]:
    """Seconds, images, seconds of training alone, GPU hours, and latency; nan where nobody measured them."""
    history, record = replicate.record.history, replicate.record
    training = [epoch.get("perf/epoch_seconds", 0.0) for epoch in history]
    rates = [epoch.get("perf/images_per_s", 0.0) for epoch in history]
    images = sum(rate * seconds for rate, seconds in zip(rates, training, strict=True))
    seconds = record.seconds
    if seconds is None:
        seconds = sum(training) + sum(epoch.get("perf/eval_seconds", 0.0) for epoch in history)
    gpu_hours = seconds / 3600 * record.metric("perf/gpus")
    return seconds, images, sum(training), gpu_hours, record.metric(LATENCY)


def _cells(
    seconds: float, images: float, training: float, gpu_hours: float, latency: float, *, price: float
) -> list[str]:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    time = f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
    rate = images / training if training else math.nan
    dollars = number(gpu_hours * price, 2)
    return [time, number(images, 0), number(rate), number(gpu_hours, 2), dollars, number(latency)]
