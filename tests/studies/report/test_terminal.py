from __future__ import annotations

import io
import math
import shlex
from collections.abc import Callable
from dataclasses import replace

from rich.console import Console

from studies.definition.plan import Plan, Trial, expand
from studies.record.results import publish_best, write_results
from studies.report.facts import gather_facts
from studies.report.terminal import next_steps, print_answer, print_results


def test_the_table_shows_ours_theirs_and_the_difference(
    make_plan: Callable[..., Plan], finish: Callable[..., None]
) -> None:
    plan = make_plan("nms_sweep")
    trials = expand(plan)
    finish(trials[0].folder, [0.3, 0.4])
    text = io.StringIO()
    print_results(Console(file=text, width=160), gather_facts(plan, trials))
    assert "40.0 (55.0, -15.0)" in text.getvalue()
    assert "VOC07+12" in text.getvalue()


def test_several_seeds_are_shown_as_mean_and_interval(
    make_plan: Callable[..., Plan], finish: Callable[..., None]
) -> None:
    plan = make_plan("nms_sweep")
    trials = expand(plan, 3)
    for trial, value in zip(trials[:: len(trials) // 3], [0.30, 0.32, 0.34], strict=True):
        finish(trial.folder, [value])
    text = io.StringIO()
    print_results(Console(file=text, width=160), gather_facts(plan, trials))
    assert "NMS_reg=0.7 NMS_cls=0.7 " in text.getvalue()
    assert "3 of 3" in text.getvalue()
    assert "32.0 ± 5.0 (55.0, -23.0)" in text.getvalue()


def test_a_search_prints_its_best_trials_and_its_confirmation(searched: tuple[Plan, list[Trial]]) -> None:
    plan, trials = searched
    text = io.StringIO()
    print_results(Console(file=text, width=160), gather_facts(plan, trials))
    shown = " ".join(text.getvalue().split())
    assert "The Pareto front: no other trial is both faster and better than one of these." in shown
    assert "Confirmed with seeds that the search did not use:" in shown
    # What it means is said once, at the launch's end.
    assert "significant" not in shown
    assert "│ pruned │" in shown


def test_the_answer_stands_below_the_question() -> None:
    text = io.StringIO()
    print_answer(Console(file=text, width=160), "Does *it* help?", ("**Nothing** can be said.", "Nor there."))
    assert [line.strip() for line in text.getvalue().splitlines()] == [
        "Does *it* help?",
        "",
        "Nothing can be said.",
        "",
        "Nor there.",
    ]
    print_answer(Console(file=text, width=160), "Does it help?", ())
    assert text.getvalue().count("help") == 1


def test_a_launch_ends_with_commands_that_a_shell_takes(
    make_plan: Callable[..., Plan], finish: Callable[..., None]
) -> None:
    plan = make_plan("nms_sweep")
    plan = replace(plan, output=plan.output.with_name("my runs"))
    (trial,) = expand(plan)[:1]
    finish(trial.folder, [0.4])
    publish_best(plan, [trial])
    lines = next_steps(plan, "sqlite:////a b/mlflow.db", "http://127.0.0.1:5000/#/x", "Report: r.html")
    assert lines[:3] == [
        "Report: r.html",
        "MLflow: mlflow ui --backend-store-uri 'sqlite:////a b/mlflow.db' --host 127.0.0.1 --port 5000",
        "  then open http://127.0.0.1:5000/#/x",
    ]
    assert lines[3:5] == ["Published, of the highest val/AP (40.0):", f"  {trial.name}"]
    words = shlex.split(lines[5])
    assert words[:5] == ["Detect:", "drcnn", "predict", str(plan.folder), "IMAGES"]
    assert (
        next_steps(plan, "http://head:5000", "http://head:5000/#/x", "")[1] == "MLflow: http://head:5000/#/x"
    )


def test_a_study_without_validation_images_says_why_it_publishes_nothing(
    make_plan: Callable[..., Plan], finish: Callable[..., None]
) -> None:
    plan = make_plan("nms_sweep")
    (trial,) = expand(plan)[:1]
    finish(trial.folder, [math.nan])
    write_results(plan.folder / "results.parquet", [trial])
    assert publish_best(plan, [trial]) is None
    line = next_steps(plan, "http://head:5000", "http://head:5000/#/x", "")[-1]
    assert line.startswith("No detector is published: no finished trial has val/AP to choose it by")
    assert f"drcnn predict {plan.output / 'trials'}/ID IMAGES" in line
