"""What a study's report tells of: its settings, which of them are compared, and with what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from studies.analysis.claims import Joined, join, ranking
from studies.analysis.replicates import Replicate, Setting, group_by_setting
from studies.analysis.statistics import Comparison
from studies.definition.plan import Plan, Trial, trained_models
from studies.definition.study import SearchStudy

__all__ = ["Findings", "confirmed"]


@dataclass(frozen=True)
class Findings:
    """What the sections tell of.

    Attributes:
        settings: all, with all their runs.
        judged: those that are compared: of a search that was confirmed, only the confirmation's runs.
        joined: the paper's tables.
        metric: that the comparisons are about.
        ranked: the highest setting against each other one.
        reference: the setting to compare with: the paper's best, or the study's first.
        trainings: trials that only train what the study's own evaluate.
        is_confirmed: those compared were trained again after a search.
    """

    plan: Plan
    settings: list[Setting]
    judged: list[Setting]
    joined: list[Joined]
    metric: str
    ranked: list[Comparison]
    reference: Setting | None
    trainings: list[Replicate]
    is_confirmed: bool

    @classmethod
    def of(cls, plan: Plan, trials: Sequence[Trial]) -> Findings:
        """Read the folders of all the study's trials."""
        settings = group_by_setting(trials)
        again = [setting for setting in confirmed(plan, settings) if setting.resampled]
        judged = again or settings
        joined = join(plan, judged)
        metric = plan.study.metric.removeprefix("val/")
        return cls(
            plan=plan,
            settings=settings,
            judged=judged,
            joined=joined,
            metric=metric,
            ranked=ranking(judged, metric),
            reference=_reference(plan, judged, joined),
            trainings=[run for setting in group_by_setting(trained_models(trials)) for run in setting.runs],
            is_confirmed=bool(again),
        )

    @property
    def runs(self) -> list[Replicate]:
        """Of all settings, in order."""
        return [run for setting in self.settings for run in setting.runs]

    @property
    def searched(self) -> list[Replicate]:
        """A search's own, without those that confirm its best."""
        return [run for run in self.runs if run.trial.config.seed == self.plan.base.seed]

    @property
    def best(self) -> Setting | None:
        """The setting of the highest mean."""
        known = [setting for setting in self.judged if setting.values(self.plan.study.metric)]
        return max(known, key=lambda setting: setting.mean(self.plan.study.metric), default=None)


def confirmed(plan: Plan, settings: Sequence[Setting]) -> list[Setting]:
    """The settings of a search's confirmation, with those of their runs whose seed the search did not use."""
    if not isinstance(plan.study, SearchStudy):
        return []
    runs = {
        setting.name: tuple(run for run in setting.runs if run.trial.config.seed != plan.base.seed)
        for setting in settings
    }
    return [Setting(name, found) for name, found in runs.items() if found]


def _reference(plan: Plan, settings: Sequence[Setting], joined: Sequence[Joined]) -> Setting | None:
    if joined:
        best = [setting for _, setting in joined[0].best]
        return next((setting for setting in best if setting.resampled), best[0])
    if isinstance(plan.study, SearchStudy) and plan.study.confirm:
        wanted = plan.overrides.config(plan.study.confirm.against, 0)
        for setting in settings:
            if setting.first.config.model_copy(update={"seed": 0}) == wanted:
                return setting
    return settings[0] if settings else None
