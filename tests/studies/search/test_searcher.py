from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from ray.tune.schedulers import TrialScheduler

from drcnn.engine.record import read_record, write_failed, write_latency, write_pruned
from studies.definition.plan import Plan, Trial, search_points
from studies.search.optuna_record import recorded_trials, search_key, split_by_progress
from studies.search.pruning import make_scheduler
from studies.search.searcher import StudySearcher

SEARCH = """\
title: t
kind: search
trials: 4
space:
  detector.nms_reg: {low: 0.6, high: 0.95, step: 0.05}
  detector.stages: {low: 1, high: 4}
first: [{detector.nms_reg: 0.7, detector.stages: 3}]
prune: {grace_epochs: 1, keep: 2}
"""


def ask(search: StudySearcher, tune_id: str) -> Trial:
    suggested = search.suggest(tune_id)
    assert isinstance(suggested, dict)
    trial = suggested["trial"]
    assert isinstance(trial, Trial)
    return trial


def optuna_study(plan: Plan, key: str = "key") -> optuna.Study:
    return optuna.load_study(study_name=key, storage=f"sqlite:///{plan.folder / 'optuna.db'}")


def states(plan: Plan) -> list[str]:
    return [trial.state.name for trial in optuna_study(plan).get_trials()]


def best(plan: Plan) -> list[str]:
    return [trial.user_attrs["trial_id"] for trial in optuna_study(plan).best_trials]


def test_a_search_is_known_by_what_decides_its_results(make_plan: Callable[..., Plan]) -> None:
    key = search_key(make_plan(SEARCH))
    for without_effect in (
        {"data__on_bad_data": "skip"},
        {"training__checkpoint_minutes": 3},
        {"evaluation__every": 2},
        {"data__val_split": "other"},
    ):
        assert search_key(make_plan(SEARCH, **without_effect)) == key, without_effect
    for deciding in ({"training__lr": 0.5}, {"evaluation__metric": "voc07"}, {"seed": 7}):
        assert search_key(make_plan(SEARCH, **deciding)) != key, deciding
    assert search_key(make_plan(SEARCH.replace("trials: 4", "trials: 5"))) != key


def test_the_papers_point_comes_first_and_floats_are_round(make_plan: Callable[..., Plan]) -> None:
    search = StudySearcher(make_plan(SEARCH), "key")
    assert ask(search, "a").varied == {"detector.nms_reg": 0.7, "detector.stages": 3}
    values = [ask(search, tune_id).config.detector.nms_reg for tune_id in "bcd"]
    assert values == [round(value, 2) for value in values]
    assert search.suggest("e") == "FINISHED"


def test_each_end_is_told_to_optuna(make_plan: Callable[..., Plan], finish: Callable[..., None]) -> None:
    plan = make_plan(SEARCH)
    search = StudySearcher(plan, "key")
    finished, pruned, failed = (ask(search, tune_id) for tune_id in "abc")
    finish(finished.folder, [0.1, 0.4])
    search.on_trial_complete("a", {"val/AP": 0.4})
    # Tune reports a pruned trial as complete, with its last value.
    search.on_trial_result("b", {"val/AP": 0.05, "epoch": 1.0, "training_iteration": 1})
    search.on_trial_complete("b", {"val/AP": 0.05, "epoch": 1.0})
    write_pruned(pruned.folder)
    write_failed(failed.folder, "why")
    search.on_trial_complete("c", None)
    assert states(plan) == ["COMPLETE", "PRUNED", "FAIL"]
    assert search.remaining() == 1, "a failed trial is not replaced in the same launch"


def test_a_killed_search_goes_on(make_plan: Callable[..., Plan], finish: Callable[..., None]) -> None:
    plan = make_plan(SEARCH)
    search = StudySearcher(plan, "key")
    first, running = ask(search, "a"), ask(search, "b")
    finish(first.folder, [0.1, 0.4])
    search.on_trial_complete("a", {"val/AP": 0.4})

    again = StudySearcher(plan, "key")
    assert states(plan) == ["COMPLETE", "FAIL", "WAITING"]
    assert again.remaining() == 3
    assert ask(again, "c").id == running.id
    assert {trial.id for trial in again.trials()} == {first.id, running.id}
    others = {ask(again, tune_id).id for tune_id in "de"}
    assert len(others | {first.id, running.id}) == 4
    assert again.suggest("f") == "FINISHED"


@pytest.mark.parametrize("text", ["", "{", None])
def test_a_trial_whose_result_was_damaged_runs_again(
    text: str | None, make_plan: Callable[..., Plan], finish: Callable[..., None]
) -> None:
    plan = make_plan(SEARCH.replace("trials: 4", "trials: 2"))
    search = StudySearcher(plan, "key")
    finished, pruned = ask(search, "a"), ask(search, "b")
    finish(finished.folder, [0.1, 0.4])
    search.on_trial_complete("a", {"val/AP": 0.4})
    search.on_trial_result("b", {"val/AP": 0.05, "epoch": 1.0})
    write_pruned(pruned.folder)
    search.on_trial_complete("b", {"val/AP": 0.05, "epoch": 1.0})
    assert StudySearcher(plan, "key").remaining() == 0
    for trial in (finished, pruned):
        result = trial.folder / "result.json"
        result.unlink() if text is None else result.write_text(text)

    again = StudySearcher(plan, "key")
    assert read_record(pruned.folder).is_pruned, "Optuna knows that"
    assert again.remaining() == 1
    assert ask(again, "c").id == finished.id
    finish(finished.folder, [0.1, 0.4])
    again.on_trial_complete("c", {"val/AP": 0.4})
    assert again.remaining() == 0
    assert again.suggest("d") == "FINISHED"
    assert StudySearcher(plan, "key").remaining() == 0
    assert states(plan) == ["COMPLETE", "PRUNED", "COMPLETE"]


def test_a_kill_before_the_next_ask_enqueues_nothing_twice(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan(SEARCH)
    ask(StudySearcher(plan, "key"), "a")
    StudySearcher(plan, "key")
    StudySearcher(plan, "key")
    assert states(plan) == ["FAIL", "WAITING"]


@pytest.mark.faults
@pytest.mark.parametrize("content", [b"", b"SQLite format 3\0" + b"\xff" * 5000, None])
def test_a_damaged_record_is_made_again_from_the_trials(
    make_plan: Callable[..., Plan],
    finish: Callable[..., None],
    content: bytes | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    plan = make_plan(SEARCH)
    search = StudySearcher(plan, "key")
    first, second, running = (ask(search, tune_id) for tune_id in "abc")
    for trial, tune_id in ((first, "a"), (second, "b")):
        finish(trial.folder, [0.1, 0.4])
        (trial.folder / "config.yaml").write_text(trial.config.to_yaml())
        search.on_trial_complete(tune_id, {"val/AP": 0.4})
    running.folder.mkdir(parents=True)
    (running.folder / "config.yaml").write_text(running.config.to_yaml())
    other = plan.trial({"detector.nms_reg": 0.7, "detector.stages": 3}, 2)
    other.folder.mkdir(parents=True)
    (other.folder / "config.yaml").write_text(other.config.to_yaml())
    database = plan.folder / "optuna.db"
    database.unlink()
    if content is None:
        database.mkdir()
    else:
        database.write_bytes(content)

    again = StudySearcher(plan, "key")
    assert "put aside as optuna.db.damaged" in caplog.text
    assert {trial.id for trial in again.trials()} == {first.id, second.id, running.id}
    assert states(plan) == ["COMPLETE", "COMPLETE", "FAIL", "WAITING"]
    assert [trial.value for trial in optuna_study(plan).get_trials()[:2]] == [0.4, 0.4]
    assert again.remaining() == 2
    assert ask(again, "d").id == running.id


@pytest.mark.faults
def test_a_record_that_is_made_again_asks_the_first_points_that_have_not_run(
    make_plan: Callable[..., Plan], finish: Callable[..., None]
) -> None:
    points = [{"detector.nms_reg": value, "detector.stages": 2} for value in (0.7, 0.8, 0.9)]
    plan = make_plan(
        "\n".join(f"first: {points}" if "first" in line else line for line in SEARCH.split("\n"))
    )
    search = StudySearcher(plan, "key")
    done = ask(search, "a")
    finish(done.folder, [0.1, 0.4])
    (done.folder / "config.yaml").write_text(done.config.to_yaml())
    search.on_trial_complete("a", {"val/AP": 0.4})
    (plan.folder / "optuna.db").write_bytes(b"")
    StudySearcher(plan, "key")
    again = StudySearcher(plan, "key")
    assert states(plan) == ["COMPLETE", "WAITING", "WAITING"]
    asked = [ask(again, tune_id).varied["detector.nms_reg"] for tune_id in "bc"]
    assert asked == [0.8, 0.9]
    assert again.remaining() == 1


def test_a_new_search_does_not_begin_with_what_others_trained(
    make_plan: Callable[..., Plan], finish: Callable[..., None]
) -> None:
    plan = make_plan(SEARCH)
    trial = plan.trial({"detector.nms_reg": 0.9, "detector.stages": 2}, 1)
    finish(trial.folder, [0.1, 0.4])
    (trial.folder / "config.yaml").write_text(trial.config.to_yaml())
    assert not StudySearcher(plan, "key").trials()


def test_what_another_study_finished_is_reused(
    make_plan: Callable[..., Plan], finish: Callable[..., None]
) -> None:
    plan = make_plan(SEARCH)
    first = plan.trial({"detector.nms_reg": 0.7, "detector.stages": 3}, 1)
    finish(first.folder, [0.1, 0.4])
    search = StudySearcher(plan, "key")
    assert ask(search, "a").id != first.id
    assert states(plan) == ["COMPLETE", "RUNNING"]
    assert search.remaining() == 2


def test_asha_prunes_weak_trials_and_remembers_earlier_launches(
    make_plan: Callable[..., Plan], finish: Callable[..., None]
) -> None:
    plan = make_plan(SEARCH)
    good = search_points(plan)[0]
    finish(good.folder, [0.5, 0.6])
    asha: Any = make_scheduler(plan, [good])

    class Weak:
        trial_id = "weak"

    asha.on_trial_add(None, Weak)
    assert asha.on_trial_result(None, Weak, {"epoch": 1, "val/AP": 0.1}) == TrialScheduler.STOP


@pytest.mark.parametrize("text", [SEARCH.replace("prune: {grace_epochs: 1, keep: 2}\n", "")])
def test_without_prune_nothing_is_pruned(make_plan: Callable[..., Plan], text: str) -> None:
    assert make_scheduler(make_plan(text), []) is None


TWO = """\
title: t
kind: search
trials: 3
minimise: perf/ms_per_image
space: {detector.stages: {low: 1, high: 4}}
first: [{detector.stages: 3}]
"""


def test_two_objectives_need_both_figures(
    make_plan: Callable[..., Plan], finish: Callable[..., None]
) -> None:
    plan = make_plan(TWO)
    known = plan.trial({"detector.stages": 3}, 1)
    finish(known.folder, [0.1, 0.4])
    search = StudySearcher(plan, "key")
    slow = ask(search, "a")
    assert slow.id == known.id, "trained by another study, but never timed"
    write_latency(slow.folder, 30.0, "cpu")
    search.on_trial_result("a", {"val/AP": 0.4, "epoch": 2.0})
    search.on_trial_complete("a", {"val/AP": 0.4})
    fast = ask(search, "b")
    finish(fast.folder, [0.2])
    write_latency(fast.folder, 10.0, "cpu")
    search.on_trial_complete("b", {"val/AP": 0.2})
    assert states(plan) == ["COMPLETE", "COMPLETE"]
    assert [trial.values for trial in optuna_study(plan).get_trials()] == [[0.4, 30.0], [0.2, 10.0]]
    assert set(best(plan)) == {slow.id, fast.id}, "neither beats the other in both"

    untimed = ask(search, "c")
    finish(untimed.folder, [0.3])
    search.on_trial_complete("c", {"val/AP": 0.3})
    assert states(plan)[-1] != "COMPLETE"


def test_optuna_knows_the_best(make_plan: Callable[..., Plan], finish: Callable[..., None]) -> None:
    plan = make_plan(SEARCH)
    search = StudySearcher(plan, "key")
    trials = []
    for tune_id, value in zip("abcd", [0.1, 0.4, 0.2, 0.3], strict=True):
        trials.append(ask(search, tune_id))
        finish(trials[-1].folder, [value])
        search.on_trial_complete(tune_id, {"val/AP": value})
    assert best(plan) == [trials[1].id]
    assert [trial.id for trial in recorded_trials(plan, "key")] == [trial.id for trial in trials]


def test_a_search_whose_figure_is_missing_ends(
    make_plan: Callable[..., Plan], finish: Callable[..., None]
) -> None:
    plan = make_plan(SEARCH)
    search = StudySearcher(plan, "key")

    def end(tune_id: str) -> None:
        folder = ask(search, tune_id).folder
        finish(folder, [0.1])
        record = json.loads((folder / "result.json").read_text())
        del record["history"][-1]["val/AP"]
        (folder / "result.json").write_text(json.dumps(record))
        search.on_trial_complete(tune_id, {})

    for number, tune_id in enumerate("abcd"):
        assert search.remaining() == 4 - number
        end(tune_id)
    assert search.suggest("e") == "FINISHED"
    again = StudySearcher(plan, "key")
    assert again.remaining() == 0
    assert states(plan) == ["FAIL"] * 4, "none is asked for again"


MIXED = """\
title: t
kind: search
trials: 8
space:
  detector.variant: {choices: [decoupled, cascade_rcnn, fpn]}
  detector.stages: {low: 1, high: 4}
"""


def test_values_that_do_not_go_together_are_left_out_and_told_once(
    make_plan: Callable[..., Plan], finish: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    plan = make_plan(MIXED)
    search_points(plan)
    search = StudySearcher(plan, "key")
    found = []
    # decoupled has four stages, cascade_rcnn three, fpn one: eight of the twelve points are allowed.
    for number in range(8):
        suggested = search.suggest(str(number))
        if not isinstance(suggested, dict):
            break
        found.append(suggested["trial"])
        finish(found[-1].folder, [0.1 * number])
        search.on_trial_complete(str(number), {})
    assert len({trial.id for trial in found}) == len(found) > 4
    told = [record.getMessage() for record in caplog.records]
    assert told
    assert len(set(told)) == len(told) <= 4
    assert all("leaves out" in each and "detector.stages" in each for each in told)
    assert "FAIL" in states(plan)
    before = states(plan)
    caplog.clear()
    again = StudySearcher(plan, "key")
    assert states(plan) == before, "nothing that cannot be is asked for again"
    assert not caplog.records
    assert [trial.id for trial in again.trials()] == [trial.id for trial in found]


def test_a_space_of_nothing_but_such_values_comes_to_an_end(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan(MIXED)
    search = StudySearcher(plan, "key")
    search._make = lambda params: None  # type: ignore[method-assign]
    assert search.suggest("a") == "FINISHED"
    assert set(states(plan)) == {"FAIL"}


def test_a_fractional_step_between_whole_ends(make_plan: Callable[..., Plan]) -> None:
    space = "space: {detector.lambda_reg: {low: 0, high: 1, step: 0.25}}"
    search = StudySearcher(make_plan(f"title: t\nkind: search\ntrials: 5\n{space}\n"), "key")
    values = {ask(search, tune_id).config.detector.lambda_reg for tune_id in "abcde"}
    assert values == {0, 0.25, 0.5, 0.75, 1}


def test_a_look_at_a_search_changes_nothing(
    make_plan: Callable[..., Plan], finish: Callable[..., None]
) -> None:
    plan = make_plan(SEARCH)
    first = plan.trial({"detector.nms_reg": 0.7, "detector.stages": 3}, 1)
    assert [[trial.id for trial in each] for each in split_by_progress(plan, "key")] == [[], [first.id]]
    assert not plan.folder.exists()
    search = StudySearcher(plan, "key")
    running, ended = ask(search, "a"), ask(search, "b")
    finish(ended.folder, [0.1, 0.4])
    search.on_trial_complete("b", {"val/AP": 0.4})
    before = (plan.folder / "optuna.db").read_bytes()
    assert [[trial.id for trial in each] for each in split_by_progress(plan, "key")] == [
        [ended.id],
        [running.id],
    ]
    assert split_by_progress(plan, "other")[0] == []
    assert (plan.folder / "optuna.db").read_bytes() == before


def test_a_trial_that_another_node_finished_is_fetched_before_optuna_is_told(
    make_plan: Callable[..., Plan], finish: Callable[..., None]
) -> None:
    plan = make_plan(SEARCH)
    elsewhere = {}

    def fetch(folder: Path) -> None:
        finish(folder, elsewhere.pop(folder))

    search = StudySearcher(plan, "key", fetch)
    trial = ask(search, "a")
    elsewhere[trial.folder] = [0.1, 0.4]
    search.on_trial_complete("a", {"val/AP": 0.4})
    assert states(plan)[0] == "COMPLETE"
    assert best(plan) == [trial.id]


def test_what_cannot_be_fetched_is_not_called_pruned(make_plan: Callable[..., Plan]) -> None:
    def fetch(folder: Path) -> None:
        raise OSError("the store is away")

    plan = make_plan(SEARCH)
    search = StudySearcher(plan, "key", fetch)
    ask(search, "a")
    search.on_trial_complete("a", {"val/AP": 0.4})
    assert states(plan)[0] == "FAIL"


def test_a_search_asks_whether_there_is_time_first_for_what_it_resumes(
    make_plan: Callable[..., Plan],
) -> None:
    plan = make_plan(SEARCH)
    first = ask(StudySearcher(plan, "key"), "a")
    search = StudySearcher(plan, "key")
    asked: list[Trial | None] = []

    def may_begin(resumed: Trial | None) -> bool:
        asked.append(resumed)
        return len(asked) < 3

    search.may_begin = may_begin
    assert ask(search, "b").id == first.id
    ask(search, "c")
    assert search.suggest("d") == "FINISHED"
    assert [trial and trial.id for trial in asked] == [first.id, None, None]
    assert search.remaining() == 2, "what was not suggested is left"
    assert states(plan) == ["FAIL", "RUNNING", "RUNNING"], "Optuna was not asked in vain"


def test_null_may_be_a_choice(make_plan: Callable[..., Plan]) -> None:
    """A setting that may be switched off; also when the study is opened again."""
    plan = make_plan(
        "title: t\nkind: search\ntrials: 2\nspace: {training.clip_norm: {choices: [null, 10.0]}}\n"
    )
    search = StudySearcher(plan, "key")
    assert {ask(search, tune_id).config.training.clip_norm for tune_id in "ab"} == {None, 10.0}
    again = StudySearcher(plan, "key")
    assert {ask(again, tune_id).config.training.clip_norm for tune_id in "ab"} == {None, 10.0}
