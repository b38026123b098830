"""What the report and the terminal tell of: settings, which of them are compared, and with what."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from studies.analysis.comparisons import Comparison, compare_best, compare_pairs, compare_with_baseline
from studies.analysis.looks import Look, read_looks, warning
from studies.analysis.paper import Effect, PaperComparison, effects_of_best, join_paper, questions
from studies.analysis.replicates import Replicate, Setting, group_by_setting
from studies.analysis.search_summary import pareto_front
from studies.definition.labels import parameter_name, value_text
from studies.definition.metrics import SPLITS
from studies.definition.plan import Plan, Trial, trained_models
from studies.definition.study import SearchStudy
from studies.record.results import Choice, choose

__all__ = ["ReportFacts", "gather_facts"]

MAX_BEST = 5  # trials of a search with one objective
MAX_LISTED = 8  # values of a parameter; of more, only their number is told


@dataclass(frozen=True)
class ReportFacts:
    """A study's results, as its trials' folders have them.

    Attributes:
        plan: the study.
        settings: all, with all their replicates.
        confirming: of a search, the settings that are trained again, with only those replicates.
        compared: the settings that are compared: ``confirming`` once it has detections to compare, else all.
        models: replicates that only train the detectors which the study's own evaluate.
        tables: the paper's tables, with the settings compared.
        baseline: chosen before the results are known: the paper's best, or the study's first setting.
    """

    plan: Plan
    settings: list[Setting]
    confirming: list[Setting]
    compared: list[Setting]
    models: list[Replicate]
    tables: list[PaperComparison]
    baseline: Setting | None

    @property
    def metric(self) -> str:
        """The metric that the study is judged by: ``AP``."""
        return self.plan.study.metric

    @property
    def chosen_by(self) -> str:
        """The key of the metric that a search chose by: ``val/AP``."""
        return self.plan.study.chosen_by

    @property
    def judged_by(self) -> str:
        """The split that settings are judged by: ``test``, or ``val`` where the data has no test split."""
        return self.settings[0].first.data.judged

    @property
    def judged_images(self) -> str:
        """Its images, in words."""
        return SPLITS[self.judged_by]

    @property
    def shown(self) -> str:
        """The split that tables of settings show: of a search that is not confirmed val, by which it chose.

        Its trials are single runs. Beside test figures, somebody would choose by those.
        """
        return "val" if self.is_unconfirmed else self.judged_by

    @property
    def margin(self) -> float:
        """The difference, a fraction, within which settings are equivalent."""
        return self.plan.margin / 100

    @cached_property
    def best_comparisons(self) -> list[Comparison]:
        """The setting of the highest mean with each other one, nearest first."""
        planned = [*self.question_comparisons, *self.baseline_comparisons]
        return compare_best(self.compared, self.metric, self.margin, planned)

    @cached_property
    def baseline_comparisons(self) -> list[Comparison]:
        """Each other setting with the baseline."""
        if self.baseline is None:
            return []
        return compare_with_baseline(
            self.baseline, self.compared, self.metric, self.margin, self.question_comparisons
        )

    @cached_property
    def question_comparisons(self) -> list[Comparison]:
        """What the paper's tables ask: each of their best settings with their first."""
        pairs = [pair for pair in questions(self.tables) if all(each.is_replicated for each in pair)]
        return compare_pairs(pairs, self.metric, self.margin)

    @cached_property
    def paper_effects(self) -> list[list[list[Effect]]]:
        """Of each of the paper's tables, the change of every metric to each of its best rows."""
        return [effects_of_best(table, self.margin, self.question_comparisons) for table in self.tables]

    @property
    def look(self) -> Look:
        """What is compared now."""
        replicates = self.compared_replicates
        return Look(frozenset(each.trial.id for each in replicates if each.resampled), len(replicates))

    @property
    def looks_warning(self) -> str:
        """Where earlier comparisons may have decided that trials were added, what that does; else empty."""
        if not self.baseline_comparisons:
            return ""
        is_complete = all(replicate.record.is_terminal for replicate in self.compared_replicates)
        return warning(read_looks(self.plan.folder), self.look, is_complete=is_complete)

    @property
    def cost_key(self) -> str | None:
        """Of a search with two objectives, the metric to minimise."""
        return self.plan.study.minimise if isinstance(self.plan.study, SearchStudy) else None

    @property
    def is_search(self) -> bool:
        """Whether Optuna chose the settings."""
        return isinstance(self.plan.study, SearchStudy)

    @property
    def is_confirmed(self) -> bool:
        """Whether a search's best settings, trained again, are what is compared."""
        return self.compared is not self.settings

    @property
    def is_unconfirmed(self) -> bool:
        """Whether what is compared are a search's own trials: single runs, chosen for being high."""
        return self.is_search and not self.is_confirmed

    @property
    def replicates(self) -> list[Replicate]:
        """Those of all settings, in order."""
        return [replicate for setting in self.settings for replicate in setting.replicates]

    @property
    def compared_replicates(self) -> list[Replicate]:
        """Those of the compared settings, in order."""
        return [replicate for setting in self.compared for replicate in setting.replicates]

    @property
    def left(self) -> list[str]:
        """The labels of the settings of which no trial has begun."""
        records = {
            setting.label: [replicate.record for replicate in setting.replicates] for setting in self.settings
        }
        return [
            label
            for label, found in records.items()
            if not any(record.is_terminal or record.history for record in found)
        ]

    @property
    def searched_settings(self) -> list[Setting]:
        """Of a search, its settings with its own trials, without those that confirm its best."""
        return _by_seed(self.plan, self.settings, is_own=True)

    @property
    def searched(self) -> list[Replicate]:
        """Of a search, its own trials."""
        return [replicate for setting in self.searched_settings for replicate in setting.replicates]

    @property
    def has_detections(self) -> bool:
        """Whether the detections of a compared setting, and their images, can be read."""
        return any(setting.resampled for setting in self.compared)

    @property
    def finished(self) -> list[Setting]:
        """The compared settings that have a finished replicate."""
        return [
            setting
            for setting in self.compared
            if any(replicate.is_finished for replicate in setting.replicates)
        ]

    @property
    def scored(self) -> list[Setting]:
        """The compared settings that have a figure."""
        return [setting for setting in self.compared if setting.values(self.metric)]

    @cached_property
    def published(self) -> Choice | None:
        """The trial whose detector is published; none without a figure to choose by."""
        return choose(self.plan, [replicate.trial for replicate in self.replicates])

    @property
    def best(self) -> Setting | None:
        """The compared setting of the highest mean; none before a trial has finished."""
        return max(self.scored, key=lambda setting: setting.mean(self.metric), default=None)

    @property
    def scored_trials(self) -> list[Replicate]:
        """Of a search, its own finished trials that have a figure."""
        values = [(trial, trial.record.metric(self.chosen_by)) for trial in self.searched]
        return [trial for trial, value in values if trial.is_finished and not math.isnan(value)]

    @property
    def best_trials(self) -> list[Replicate]:
        """Of a search with two objectives its Pareto front, else the trials of the highest figure."""
        if self.cost_key:
            return pareto_front(self.searched, self.chosen_by, self.cost_key)
        return sorted(self.scored_trials, key=lambda trial: -trial.record.metric(self.chosen_by))[:MAX_BEST]

    @property
    def varied(self) -> list[str]:
        """The parameters that distinguish the settings, with their values: ``NMS_reg (0.7, 0.85)``."""
        varied = []
        for key in self.settings[0].first.varied:
            values = [setting.first.varied[key] for setting in self.settings]
            if all(isinstance(value, int | float) for value in values):
                values.sort()
            texts = list(dict.fromkeys(map(value_text, values)))
            listed = ", ".join(texts) if len(texts) <= MAX_LISTED else f"{len(texts)} values"
            varied.append(f"{parameter_name(key)} ({listed})")
        return varied or ["nothing"]


def gather_facts(plan: Plan, trials: Sequence[Trial]) -> ReportFacts:
    """Read the folders of a study's trials, those that confirm a search included."""
    settings = group_by_setting(trials)
    is_search = isinstance(plan.study, SearchStudy)
    confirming = _by_seed(plan, settings, is_own=False) if is_search else []
    confirmed = [setting for setting in confirming if setting.resampled]
    compared = confirmed or settings
    # The single runs of a search say nothing about settings, nor beside the paper's.
    is_unconfirmed = is_search and not confirmed
    tables = [] if is_unconfirmed else join_paper(plan, compared)
    baseline = _baseline(plan, compared, tables)
    models = group_by_setting(trained_models(trials))
    return ReportFacts(
        plan=plan,
        settings=settings,
        confirming=confirming,
        compared=compared,
        models=[replicate for setting in models for replicate in setting.replicates],
        tables=tables,
        baseline=baseline,
    )


def _by_seed(plan: Plan, settings: Sequence[Setting], *, is_own: bool) -> list[Setting]:
    """The settings of a search with only the replicates of its own seed, or only those of others."""
    seed = plan.base.seed
    members = [
        tuple(member for member in setting.replicates if (member.trial.config.seed == seed) == is_own)
        for setting in settings
    ]
    return [Setting(setting.label, own) for setting, own in zip(settings, members, strict=True) if own]


def _baseline(plan: Plan, settings: Sequence[Setting], tables: Sequence[PaperComparison]) -> Setting | None:
    if tables:
        best = [setting for _, setting in tables[0].best]
        return next((setting for setting in best if setting.resampled), best[0])
    if isinstance(plan.study, SearchStudy) and plan.study.confirm:
        key = plan.trial(plan.study.confirm.against, plan.base.seed).setting_key
        for setting in settings:
            if setting.first.setting_key == key:
                return setting
        # One of the search's own picks was not chosen before the results.
        return None
    return settings[0] if settings else None
