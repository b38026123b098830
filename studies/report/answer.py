"""What a study's results mean for its question, in two sentences: ours, and the paper's.

They stand under the picture at the top of the report, end what a launch prints, and describe its run in
MLflow. They are Markdown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from drcnn.engine.bootstrap import Difference
from drcnn.report.blocks import duration, escape
from studies.analysis.comparisons import Comparison
from studies.analysis.paper import Effect
from studies.analysis.replicates import Replicate
from studies.analysis.verdicts import Verdict
from studies.definition.metrics import points
from studies.definition.study import SearchStudy
from studies.report.facts import ReportFacts

__all__ = ["answer"]

# Seeds of a setting that the sentence on a study of one seed proposes.
SEEDS = 3
MAX_NAMED = 3  # settings; of more, only their number is told


def answer(facts: ReportFacts) -> tuple[str, str]:
    """Return what this study answers, and what the paper does."""
    return _ours(facts), _papers(facts)


def _ours(facts: ReportFacts) -> str:
    study, compared = facts.plan.study, facts.baseline_comparisons
    if not facts.best:
        return "No trial has finished: **nothing can be said yet**."
    if isinstance(study, SearchStudy) and facts.is_unconfirmed:
        return _unconfirmed(facts, study)
    if not compared:
        return _not_comparable(facts)
    sentence = compared[0].sentence if len(compared) == 1 else _listed(facts, compared)
    if facts.judged_by == "val":
        sentence += " The data has no test split: these are the images that choices were made by."
    return f"{sentence} {facts.looks_warning}".rstrip()


def _not_comparable(facts: ReportFacts) -> str:
    """Why the finished settings are not compared."""
    if len(facts.compared) == 1:
        return f"Only {escape(facts.compared[0].label)} was trained: **there is nothing to compare it with**."
    if any(member.is_finished and member.resampled is None for member in facts.compared_replicates):
        return "**Nothing can be said about settings**: detections or images are not there to compare."
    if any(len(setting.replicates) > 1 for setting in facts.compared):
        return (
            "**Nothing can be said about settings yet**: the baseline and another setting have not finished "
            "two seeds each."
        )
    return (
        "Each setting was trained with one seed, so **nothing can be said about settings**: another seed may "
        f"order them differently; `--seeds {SEEDS}` would tell more, and {_cost_of_seeds(facts)}."
    )


def _listed(facts: ReportFacts, compared: Sequence[Comparison]) -> str:
    """Which settings differ from the baseline, and which do not."""
    significant, equivalent, undecided = (
        [comparison for comparison in compared if comparison.verdict is verdict]
        for verdict in (Verdict.SIGNIFICANT, Verdict.EQUIVALENT, Verdict.UNDECIDED)
    )
    better = [comparison for comparison in significant if comparison.difference.value > 0]
    worse = [comparison for comparison in significant if comparison.difference.value < 0]
    assert facts.baseline is not None
    what = "confirmed" if facts.is_confirmed else "other"
    return (
        f"Of {len(compared)} {what} settings, **{_counted(better)} significantly better** in {facts.metric} "
        f"than {escape(facts.baseline.label)} and **{_counted(worse)} significantly worse**; "
        f"{_counted(equivalent)} equivalent to it within ±{facts.plan.margin:g}, "
        f"{_counted(undecided)} undecided."
    )


def _counted(comparisons: Sequence[Comparison]) -> str:
    """How many, which if they are few, and the verb."""
    named = ", ".join(
        f"{escape(comparison.label)} {points(comparison.difference.value, signed=True)}"
        for comparison in comparisons
    )
    count = len(comparisons)
    which = f" ({named})" if 0 < count <= MAX_NAMED else ""
    return f"{count or 'none'}{which} {'are' if count > 1 else 'is'}"


def _unconfirmed(facts: ReportFacts, study: SearchStudy) -> str:
    """A search whose best settings have not been trained again."""
    finished = sum(trial.is_finished for trial in facts.searched)
    begin = (
        f"**The search is not confirmed**: each of its {finished} finished trials is a single run, and the "
        "best of many also had luck, so nothing can be said about settings"
    )
    if study.confirm is None:
        return f"{begin}; with `confirm` in the study file, its best would be trained again with other seeds."
    trials = (study.confirm.top + 1) * study.confirm.seeds
    time = _mean_seconds(facts.searched) * trials
    takes = "" if math.isnan(time) else f", about {duration(time)} of training"
    best = f"its {study.confirm.top} best settings" if study.confirm.top > 1 else "its best setting"
    return (
        f"{begin}; when it has ended, {best} and the baseline are trained again with {study.confirm.seeds} "
        f"other seeds ({trials} trials{takes})."
    )


def _cost_of_seeds(facts: ReportFacts) -> str:
    """What more seeds would take, from the time that the trials so far took."""
    trained = [*facts.models, *facts.replicates]
    time = (SEEDS - 1) * len(trained) * _mean_seconds(trained)
    trials = f"add {(SEEDS - 1) * len(trained)} trials"
    return trials if math.isnan(time) else f"{trials}, about {duration(time)} of training"


def _mean_seconds(replicates: Sequence[Replicate]) -> float:
    times = [trial.record.seconds for trial in replicates if trial.record.seconds is not None]
    return sum(times) / len(times) if times else math.nan


def _papers(facts: ReportFacts) -> str:
    if not facts.tables:
        return "The paper has no figures of these settings."
    table = facts.tables[0]
    metric = facts.metric if all(facts.metric in row.figures for row, _ in table.rows) else "AP"
    best = " and ".join(escape(setting.label) for _, setting in table.best)
    if facts.plan.profile == "laptop" and facts.plan.study.laptop:
        best += " (here as its substitute for a laptop)"
    value = f"{table.best[0][0].figures[metric]:.1f}"
    figure = value if metric == "AP" else f"{metric} {value}"
    paper = f"In the paper ({table.table}, {table.data})"
    if len(table.rows) == 1:
        return f"{paper} {best} has {metric} {value}; it has no other of these settings."
    have = "have" if len(table.best) > 1 else "has"
    return f"{paper} {best} {have} the highest AP ({figure}){_change(facts, metric)}."


def _change(facts: ReportFacts, metric: str) -> str:
    """What became of the paper's change from its first row to its best."""
    changes = (effect for effects in facts.paper_effects[0] for effect in effects)
    effect = next((effect for effect in changes if effect.metric == metric), None)
    if effect is None:
        return ""
    change = f"; its change from {escape(effect.baseline)}, {effect.paper:+.1f},"
    if not effect.is_claim:
        return f"{change} is {points(effect.ours.value, signed=True)} here, in single runs"
    return f"{change} **{_seen(effect)}** ({_interval(effect.ours)})"


def _seen(effect: Effect) -> str:
    verdict = effect.verdict
    is_undecided = verdict == "undecided"
    if is_undecided and effect.ours.low * effect.ours.high > 0:
        # Else it would contradict the interval beside it.
        return "is undecided here, as p is corrected for all comparisons"
    if effect.is_none_in_paper:
        return f"is about none; here: {verdict.partition(';')[0]}"
    if is_undecided and effect.is_outside:
        return "is not seen here: a change as large lies outside the interval"
    return f"is {verdict}" + (" here" if verdict in {"seen", "undecided"} else "")


def _interval(difference: Difference) -> str:
    value, low, high = (points(x, signed=True) for x in (difference.value, difference.low, difference.high))
    return value if math.isnan(difference.low) else f"{value}, 95 % interval {low} to {high}"
