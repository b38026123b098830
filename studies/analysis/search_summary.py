"""What a search found: the Pareto front of two objectives, and how much each parameter matters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from studies.analysis.replicates import Replicate
from studies.definition.labels import value_text

__all__ = ["importances", "pareto_front"]

# Fewer finished trials say nothing about which parameter matters.
MIN_TRIALS = 4


def pareto_front(replicates: Sequence[Replicate], metric_key: str, cost_key: str) -> list[Replicate]:
    """The finished trials that no other finished trial beats in both objectives, lowest cost first.

    Args:
        replicates: the trials of the search.
        metric_key: the metric to maximise, such as 'val/AP'.
        cost_key: the metric to minimise, such as 'perf/ms_per_image'.
    """
    scored = [
        (replicate.record.metric(cost_key), -replicate.record.metric(metric_key), replicate)
        for replicate in replicates
        if replicate.is_finished
    ]
    complete = [row for row in scored if not math.isnan(row[0]) and not math.isnan(row[1])]
    front: list[Replicate] = []
    lowest = math.inf
    for _, loss, replicate in sorted(complete, key=lambda row: row[:2]):
        if loss < lowest:
            front.append(replicate)
            lowest = loss
    return front


def importances(replicates: Sequence[Replicate], keys: Sequence[str], metric_key: str) -> dict[str, float]:
    """The share of the variation that each parameter explains, by Optuna's fANOVA.

    Args:
        replicates: the trials of the search.
        keys: the dotted keys of the parameters.
        metric_key: the metric to explain, such as 'val/AP'.

    Returns:
        Shares that sum to 1, largest first; empty if too few trials finished or nothing varied.
    """
    scored = [replicate for replicate in replicates if replicate.is_finished]
    scored = [replicate for replicate in scored if not math.isnan(replicate.record.metric(metric_key))]
    metrics = [replicate.record.metric(metric_key) for replicate in scored]
    columns = {key: _column([replicate.trial.varied[key] for replicate in scored]) for key in keys}
    varying = {key: column for key, column in columns.items() if len(set(column)) > 1}
    if len(scored) < MIN_TRIALS or not varying or len(set(metrics)) < 2:
        return {}

    import optuna
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions: dict[str, BaseDistribution] = {
        key: FloatDistribution(min(column), max(column))
        if isinstance(column[0], float)
        else CategoricalDistribution(sorted(set(column)))
        for key, column in varying.items()
    }
    study = optuna.create_study(direction="maximize")
    for row, value in enumerate(metrics):
        params = {key: column[row] for key, column in varying.items()}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=distributions, value=value))
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


def _column(values: Sequence[Any]) -> list[float] | list[str]:
    """A parameter's values: floats if all are numbers, else texts."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return [float(value) for value in values]
    return [value_text(value) for value in values]
