"""What a budget would be enough for, as ``--dry-run`` tells it."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence

from studies.definition.plan import Plan, Trial, trained_models
from studies.definition.request import Request, budget_text
from studies.definition.study import SearchStudy
from studies.resources.budget import START_SECONDS, followers, simulate
from studies.resources.throughput import Estimate

__all__ = ["begun_within", "print_search_within", "print_within"]


def begun_within(
    budget: float, trials: Sequence[Trial], seconds: Mapping[str, float], slots: int
) -> dict[str, float]:
    """The times of those trials that would begin within the budget."""
    known = [trial for trial in trials if trial.id in seconds]
    training = [trial for trial in known if not trial.is_evaluation]
    after, others = followers(training, [trial for trial in known if trial.is_evaluation])
    begun = simulate(budget, slots, seconds, [trial.id for trial in training], after, others)
    return {trial_id: seconds[trial_id] for trial_id in begun}


def print_within(
    plan: Plan,
    request: Request,
    trials: Sequence[Trial],
    done: Collection[str],
    seconds: Mapping[str, float],
    slots: int,
) -> None:
    """Say how many trials of a listed study a budget finishes, and which budgets would be enough.

    Args:
        plan: the study.
        request: with a budget.
        trials: of the study.
        done: ids of those that are complete or would be.
        seconds: that each one takes that is left, by id.
        slots: how many trials run at once.
    """
    assert request.budget is not None
    within = sum(trial.id in done for trial in trials)
    print(
        f"Budget of {budget_text(request.budget)}: {within} of {len(trials)} trials would be finished, "
        f"if each takes its estimate; {len(trials) - within} would be left."
    )
    if within < len(trials):
        assert not isinstance(plan.study, SearchStudy)
        own = request.seeds or plan.study.replicates.on(plan.profile)
        _print_enough(trials, sorted({2, own}), seconds, slots)


def _print_enough(
    trials: Sequence[Trial], numbers: Sequence[int], seconds: Mapping[str, float], slots: int
) -> None:
    """Say which budgets finish so many seeds of each setting."""
    settings: dict[str, list[Trial]] = {}
    for trial in trials:
        settings.setdefault(trial.setting_key, []).append(trial)
    for seeds in numbers:
        if min(map(len, settings.values())) < seeds:
            continue
        wanted = [group[number] for number in range(seeds) for group in settings.values()]  # as they run
        left = [trial for trial in (*trained_models(wanted), *wanted) if trial.id in seconds]
        many = "s" if seeds > 1 else ""
        if left:
            most = math.ceil(5 * sum(seconds[trial.id] + START_SECONDS for trial in left) / 60)
            budgets = [60.0 * minutes for minutes in range(1, most + 1)]
            found = bisect_left(
                budgets, len(left), key=lambda budget: len(begun_within(budget, left, seconds, slots))
            )
            print(
                f"  --budget {budget_text(budgets[found])} is enough for {seeds} seed{many} of each setting."
            )


def print_search_within(
    budget: float,
    slots: int,
    batches: Sequence[Sequence[float]],
    new: int,
    confirming: int,
    typical: Estimate | None,
) -> None:
    """Say how many trials of a search, and of its confirmation, would begin within a budget."""
    longest = max(typical.seconds.values(), default=0.0) if typical else 0.0
    searched = [*batches[0], *[longest] * new]
    confirmed = [*(batches[1] if len(batches) > 1 else ()), *[longest] * confirming]
    seconds = {f"search {number}": time for number, time in enumerate(searched)}
    first = list(seconds)
    seconds |= {f"confirm {number}": time for number, time in enumerate(confirmed)}
    begun = simulate(budget, slots, seconds, first, {}, list(seconds)[len(first) :])
    count = sum(trial_id in first for trial_id in begun)
    name = f"Budget of {budget_text(budget)}"
    if first and not count:
        print(
            f"{name}: no trial of the search would begin; time for {len(confirmed)} that confirm it is kept."
        )
        return
    print(
        f"{name}: about {count} of {len(first)} trials of the search would begin, "
        f"then {len(begun) - count} of {len(confirmed)} that confirm it, if all take as long as the longest."
    )
