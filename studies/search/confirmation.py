"""After a search: are its best settings really better than the paper's?

The best of many single runs is good and lucky. So the best settings, and the one to compare with, are trained
again with several seeds that the search did not use, as ordinary trials; then a paired bootstrap says which
differences are shown (see ``statistics``).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from drcnn.config import Config
from drcnn.engine.record import read_record
from drcnn.files import write_text
from studies.analysis.statistics import Comparison, compare_with, mean_interval, winner
from studies.definition.plan import Plan, Trial
from studies.definition.study import SearchStudy

__all__ = ["compared", "replicates_of_best"]


def replicates_of_best(plan: Plan, searched: Sequence[Trial], seeds: int | None) -> list[Trial]:
    """The trials that confirm a search, best setting first, that of ``against`` last; none if not asked for.

    Args:
        plan: of the search.
        searched: its trials.
        seeds: of each setting; none takes the study's own number.
    """
    study = plan.study
    if not isinstance(study, SearchStudy) or study.confirm is None:
        return []
    known = [(read_record(trial.folder), trial) for trial in searched]
    scored = [
        (found.metrics[study.metric], trial)
        for found, trial in known
        if found.is_finished and not math.isnan(found.metrics.get(study.metric, math.nan))
    ]
    best = [trial for _, trial in sorted(scored, key=lambda pair: -pair[0])[: study.confirm.top]]
    if not best:
        return []
    against = plan.trial(study.confirm.against, plan.base.seed)
    settings = {trial.id: trial for trial in (*best, against)}.values()
    first = plan.base.seed + 1
    return [
        plan.of_config(trial.config, first + replicate)
        for trial in settings
        for replicate in range(seeds or study.confirm.seeds)
    ]


def compared(plan: Plan, trials: Sequence[Trial]) -> list[str]:
    """Compare the confirmed settings, from their stored detections; leave ``confirm.json`` for the report.

    Args:
        plan: of the search.
        trials: as ``replicates_of_best`` gave them, trained.

    Returns:
        The results in plain words, a sentence each.
    """
    from studies.analysis.replicates import group_by_setting

    study = plan.study
    assert isinstance(study, SearchStudy)
    assert study.confirm is not None
    settings = [setting for setting in group_by_setting(trials) if setting.resampled]
    if len(settings) < 2:
        return [
            "Nothing to compare: the best setting found is the one to compare with, or others did not finish."
        ]
    by_name = {setting.name: setting.resampled for setting in settings}
    paper = plan.trial(study.confirm.against, plan.base.seed).config
    reference = next((each.name for each in settings if _differ_in_seed(each.first.config, paper)), None)
    metric = study.metric.removeprefix("val/")
    best = winner(by_name, metric)
    against = compare_with(reference, by_name, metric) if reference else []
    record: dict[str, Any] = {
        "metric": study.metric,
        "reference": reference,
        "settings": [
            {
                "name": setting.name,
                "trials": [run.trial.id for run in setting.runs],
                **asdict(mean_interval(setting.values(study.metric))),
            }
            for setting in settings
        ],
        "winner": [_record(each) for each in best],
        "against": [_record(each) for each in against],
    }
    write_text(plan.folder / "confirm.json", json.dumps(record, indent=1))
    if all(each.is_significant for each in best):
        first = f"Best: {best[0].name}; better than every other confirmed setting."
    else:
        first = f"Highest mean: {best[0].name}; not shown to be better than every other confirmed setting."
    return [first, *(each.sentence for each in against)]


def _differ_in_seed(one: Config, other: Config) -> bool:
    return one == other.model_copy(update={"seed": one.seed})


def _record(comparison: Comparison) -> dict[str, Any]:
    return asdict(comparison) | {"shown": comparison.is_significant, "sentence": comparison.sentence}
