from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

from drcnn.engine.record import Status, TrialRecord
from studies.analysis.replicates import Replicate
from studies.definition.plan import Trial
from studies.report.origin import mixture


@dataclass(frozen=True)
class Record(TrialRecord):
    made_by: dict[str, str] = field(default_factory=dict)


def trials(count: int, status: Status = Status.FINISHED, **made_by: str) -> list[Replicate]:
    return [Replicate(cast(Trial, None), Record(status, made_by=made_by), None)] * count


def test_what_differs_is_told_with_its_counts() -> None:
    mixed = [
        *trials(8, torch="2.11", device="cpu", commit="aaaaaaaaaa"),
        *trials(16, torch="2.15", device="cpu", commit="bbbbbbbbbb with changes (code c)"),
    ]
    assert mixture(mixed) == (
        "Trials were made by different torch 2.11 (8 trials), 2.15 (16); "
        "commit aaaaaaaaaa (8 trials), bbbbbbbbbb with changes (code c) (16)."
    )


def test_trials_made_alike_need_no_word() -> None:
    assert mixture([]) == ""
    assert mixture(trials(3, torch="2.15", device="cpu")) == ""
    assert mixture([*trials(3), *trials(2, Status.PENDING)]) == ""
    # What has not finished has no say.
    assert mixture([*trials(3, torch="2.15"), *trials(2, Status.PENDING, torch="2.11")]) == ""


def test_a_trial_that_went_on_with_another_commit_is_told_even_alone() -> None:
    assert mixture(trials(1, torch="2.15", commit="aaaaaaaaaa, then bbbbbbbbbb")) == (
        "Trials were made by different commit aaaaaaaaaa, then bbbbbbbbbb (1 trial)."
    )


def test_trials_of_earlier_versions_are_told_apart() -> None:
    mixed = [*trials(1), *trials(3, torch="2.15")]
    assert mixture(mixed) == "Trials were made by different torch not recorded (1 trial), 2.15 (3)."
