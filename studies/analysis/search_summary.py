"""What a search found: the Pareto front of two objectives, and how much each parameter matters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from studies.analysis.replicates import Replicate
from studies.definition.labels import value_text

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

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
    scored = [(replicate, replicate.record.metric(metric_key)) for replicate in replicates]
    scored = [pair for pair in scored if pair[0].is_finished and not math.isnan(pair[1])]
    rows = [{key: _plain(replicate.trial.varied[key]) for key in keys} for replicate, _ in scored]
    varying = [key for key in keys if len({row[key] for row in rows}) > 1]
    if len(scored) < MIN_TRIALS or not varying or len({value for _, value in scored}) < 2:
        return {}

    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {key: _distribution([row[key] for row in rows]) for key in varying}
    study = optuna.create_study(direction="maximize")
    for (_, value), row in zip(scored, rows, strict=True):
        params = {key: row[key] for key in varying}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=distributions, value=value))
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


def _plain(value: Any) -> bool | int | float | str | None:
    return value if isinstance(value, bool | int | float | str) or value is None else value_text(value)


def _distribution(values: Sequence[Any]) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return FloatDistribution(float(min(values)), float(max(values)))
    return CategoricalDistribution(sorted(set(values), key=value_text))
