"""Which trials confirm a search: its best settings and a baseline, with seeds that the search did not use.

The best of many single runs is good and lucky. So the best settings, and the baseline that was chosen before
the search, are trained again as ordinary trials; the report then says which differences are significant.
"""

from __future__ import annotations

from collections.abc import Sequence

from studies.definition.plan import Plan, Trial
from studies.definition.study import SearchStudy
from studies.record.results import ranked

__all__ = ["confirming_count", "confirming_trials"]


def confirming_count(plan: Plan, seeds: int | None) -> int:
    """How many trials confirm a search, if the baseline is not among its best.

    Args:
        plan: of the search.
        seeds: of each setting; none takes the study's own number.
    """
    study = plan.study
    if not isinstance(study, SearchStudy) or study.confirm is None:
        return 0
    return (study.confirm.top + 1) * (seeds or study.confirm.seeds)


def confirming_trials(plan: Plan, searched: Sequence[Trial], seeds: int | None) -> list[Trial]:
    """The trials that confirm a search, seed after seed as they run; none if the study wants none.

    Of each seed the best setting comes first, the baseline last.

    Args:
        plan: of the search.
        searched: its trials.
        seeds: of each setting; none takes the study's own number.
    """
    study = plan.study
    if not isinstance(study, SearchStudy) or study.confirm is None:
        return []
    best = [trial for trial, _ in ranked(searched, study.chosen_by)[: study.confirm.top]]
    if not best:
        return []
    baseline = plan.trial(study.confirm.against, plan.base.seed)
    settings = {trial.id: trial for trial in (*best, baseline)}.values()
    first_seed = plan.base.seed + 1
    return [
        plan.trial_of_config(trial.config.model_copy(update={"seed": seed}))
        for seed in range(first_seed, first_seed + (seeds or study.confirm.seeds))
        for trial in settings
    ]
