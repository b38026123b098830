"""How a search went: its best trials, its charts, and the Pareto front of two objectives."""

from __future__ import annotations

import math
from collections.abc import Sequence

from drcnn.engine.record import LATENCY
from studies.analysis.replicates import Replicate
from studies.analysis.search_summary import importances, pareto_front
from studies.definition.labels import value_text
from studies.definition.metrics import points
from studies.report import search_charts
from studies.report.facts import ReportFacts
from studies.report.table import Cell, Table, number

__all__ = ["best_trials", "best_trials_table", "search_section"]

MAX_BEST = 5  # trials listed of a search with one objective


def search_section(facts: ReportFacts) -> dict[str, object]:
    """What ``search.md.j2`` tells of a search's own trials, without those that confirm its best."""
    metric, best = facts.metric_key, best_trials(facts)
    finished = _scored(facts)
    if not finished:
        return {"best": None}
    keys = [key for key in finished[0].trial.varied if key != "seed"]
    varied = [key for key in keys if len({value_text(trial.trial.varied[key]) for trial in finished}) > 1]
    shares = importances(finished, keys, metric)
    charts = [search_charts.history_chart(facts.searched, metric)]
    if len(finished) > 1 and varied:
        charts.append(search_charts.parallel_chart(finished, varied, metric))
    if shares:
        charts.append(search_charts.importance_chart(shares, len(finished)))
    front = None
    if facts.cost_key and best:
        front = search_charts.front_chart(facts.searched, best, metric, facts.cost_key)
    return {
        "best": best_trials_table(facts) if best else None,
        "charts": charts,
        "has_importance": bool(shares),
        "front": front,
    }


def best_trials(facts: ReportFacts) -> list[Replicate]:
    """The best trials of a search: of two objectives its Pareto front, else those of the highest figure."""
    if facts.cost_key:
        return pareto_front(facts.searched, facts.metric_key, facts.cost_key)
    return sorted(_scored(facts), key=lambda trial: -trial.record.metric(facts.metric_key))[:MAX_BEST]


def best_trials_table(facts: ReportFacts) -> Table:
    """Those trials with their figures and ids."""
    rows: list[Sequence[Cell | str]] = [
        [
            trial.trial.name,
            points(trial.record.metric(facts.metric_key)),
            number(trial.record.metric(LATENCY)),
            Cell(trial.trial.id, is_code=True),
        ]
        for trial in best_trials(facts)
    ]
    caption = f"The trials of the search with the highest {facts.metric}, a single run each."
    if facts.cost_key:
        caption = "The Pareto front: no other trial is both faster and better than one of these."
    columns = ("trial", f"{facts.metric} × 100", "ms/image", "id")
    return Table(caption, columns, rows, words=("id",)).without_empty_columns()


def _scored(facts: ReportFacts) -> list[Replicate]:
    return [
        trial
        for trial in facts.searched
        if trial.is_finished and not math.isnan(trial.record.metric(facts.metric_key))
    ]
