"""The report is written from real annotations and synthetic detections, in real trial folders."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from report_helpers import finish_detector

from drcnn.data.annotations import Annotations
from drcnn.engine.average_precision import score_split
from drcnn.engine.bootstrap import mean_interval, resample
from drcnn.engine.record import read_record, write_failed
from studies.analysis.comparisons import compare_best
from studies.analysis.replicates import Replicate, Setting, group_by_setting
from studies.analysis.verdicts import Verdict
from studies.definition.metrics import points
from studies.definition.plan import Plan, Trial, expand
from studies.definition.request import Request
from studies.execution.report_command import Outcome
from studies.record.launch_request import keep_request
from studies.report.facts import gather_facts

Write = Callable[[Plan, Sequence[Trial]], str]
MINE = """
title: One threshold
kind: grid
grid: {detector.nms_reg: [0.7, 0.85]}
"""


def test_figures_are_those_of_the_statistics(
    planned: Callable[..., Plan], annotations: Annotations, write: Write
) -> None:
    plan = planned(MINE)
    trials = expand(plan, 3)
    for trial in trials:
        finish_detector(trial, annotations, blur=1.0 if trial.config.detector.nms_reg == 0.85 else 3.0)
    text = write(plan, trials)

    detectors = {
        trial.id: resample(score_split(annotations, pq.read_table(trial.folder / "detections.parquet")))
        for trial in trials
    }
    settings = [
        Setting(
            label,
            tuple(Replicate(trial, read_record(trial.folder), detectors[trial.id]) for trial in members),
        )
        for label, members in (("NMS_reg=0.7", trials[::2]), ("NMS_reg=0.85", trials[1::2]))
    ]
    (comparison,) = compare_best(settings, "AP", 0.005)
    assert comparison.verdict is Verdict.SIGNIFICANT
    assert comparison.sentence in text
    assert "**NMS_reg=0.85 is the best setting**" in text
    interval = mean_interval([detectors[trial.id].whole["AP"] for trial in trials[1::2]])
    assert f"**{100 * interval.mean:.1f} ± {100 * (interval.high - interval.mean):.1f}**" in text
    assert "with 3 seeds" in text


def test_no_winner_is_named_where_none_is_shown(
    planned: Callable[..., Plan], annotations: Annotations, write: Write
) -> None:
    plan = planned(MINE)
    trials = expand(plan, 2)
    for trial in trials:
        seed = int(100 * trial.config.detector.nms_reg) + trial.config.seed
        finish_detector(trial, annotations, blur=2.0, seed=seed)
    text = write(plan, trials)
    assert "no winner can be named" in text
    assert "> Undecided between NMS_reg=0.85 and NMS_reg=0.7: " in text
    assert "is the best" not in text


@pytest.mark.parametrize("study", [MINE, "table_03"], ids=["mine", "table_03"])
def test_of_one_seed_a_setting_nothing_is_claimed(
    planned: Callable[..., Plan], annotations: Annotations, write: Write, study: str
) -> None:
    """However different the detectors are: no word of claims but where the words are explained."""
    plan = planned(study)
    trials = expand(plan, 1)
    for trial in trials:
        finish_detector(trial, annotations, blur=1.0 if trial.config.detector.nms_reg == 0.85 else 6.0)
    text = write(plan, trials)
    above, _, rest = text.partition("## How to read this")
    told = above + rest.partition("## Results")[2]
    claims = "significant equivalent undecided winner better?than worse not?seen is?seen P(A"
    for claim in claims.split():
        assert claim.replace("?", " ") not in told, claim
    assert "**nothing can be said about settings**" in above
    more = 2 * len(trials)
    assert f"`--seeds 3` would tell more, and add {more} trials, about {2 * more} min of training" in above


def test_the_papers_table_is_beside_ours(
    planned: Callable[..., Plan], annotations: Annotations, write: Write
) -> None:
    plan = planned("table_03")
    trials = expand(plan, 2)
    for trial in trials:
        finish_detector(trial, annotations, blur=5 - 4 * trial.config.detector.nms_reg)
    text = write(plan, trials)
    ours = np.mean(
        [100 * read_record(trial.folder).metric("val/AP") for trial in trials[:: len(trials) // 2]]
    )
    assert re.search(rf"{ours:.1f} ± [0-9.]+ \*\(55\.0, {ours - 55.0:+.1f}\)\*", text)
    assert "The paper's best of these settings is NMS_reg=0.85 (AP 56.6)" in text
    assert "Kendall's τ" in text
    assert "From NMS_reg=0.7 to NMS_reg=0.85, the paper's best" in text
    assert "> In the paper (Table III, VOC07+12) NMS_reg=0.85 has the highest AP (56.6); its" in text
    assert "| `detector.backbone` | resnet101 | mobilenet_v2 |" in text
    head = "| setting | difference | 95 % interval, uncorrected | p, corrected | P(A > B) | verdict |"
    assert head in text
    assert (plan.folder / "against_baseline.png").exists()


def test_both_of_the_papers_best_are_told(
    planned: Callable[..., Plan], annotations: Annotations, write: Write
) -> None:
    plan = planned("table_02")
    trials = expand(plan, 2)
    for number, trial in enumerate(trials):
        finish_detector(trial, annotations, blur=1.0 + number // 2)
    text = write(plan, trials)
    assert "> In the paper (Table II, VOC07+12) fpn_unshared and decoupled have the highest AP (55" in text
    assert "The paper's best of these settings are fpn_unshared and decoupled (AP 55.0 each)" in text
    assert "Here the higher of them, fpn_unshared, is number 2 of 4" in text
    assert "From fpn to fpn_unshared, the paper's best" in text
    assert "From fpn to decoupled, the paper's best" in text


def test_the_papers_times_are_beside_ours(
    planned: Callable[..., Plan], annotations: Annotations, write: Write
) -> None:
    plan = planned("table_11")
    trials = expand(plan, 1)
    for trial in trials:
        finish_detector(trial, annotations, blur=2.0)
    # Not the first: of equals it stands out, in bold.
    (trials[1].folder / "latency.json").write_text(json.dumps({"perf/ms_per_image": 31.0}))
    text = write(plan, trials)
    assert "| setting | seeds | AP | s/image |" in text
    assert "| 0.031 *(paper 0.270)* |" in text
    assert "| – *(paper 0.625)* |" in text
    assert "the paper's on its TITAN X" in text
    assert "paper's ratio" not in text, "a single time has no ratio"
    (trials[0].folder / "latency.json").write_text(json.dumps({"perf/ms_per_image": 62.0}))
    text = write(plan, trials)
    assert "| setting | s/image | ratio | paper's s/image | paper's ratio |" in text
    assert "| 0.062 | 1.00 | 0.125 | 1.00 |" in text
    assert "| 0.031 | 0.50 | 0.270 | 2.16 |" in text


def test_samplers_that_do_not_fill_are_told(
    planned: Callable[..., Plan], annotations: Annotations, write: Write
) -> None:
    plan = planned("table_01")
    trials = expand(plan, 1)
    for trial, shares in zip(trials, [(0.0, 0.04), (0.0, 0.17), (0.2, 0.4), (0.05, 0.0), ()], strict=True):
        finish_detector(trial, annotations, blur=2.0)
        record = json.loads((trial.folder / "result.json").read_text())
        keys = ("train/unfilled_cls", "train/unfilled_reg")
        record["history"][-1] |= dict(zip(keys, shares, strict=False))
        (trial.folder / "result.json").write_text(json.dumps(record))
    (line,) = [line for line in write(plan, trials).splitlines() if "found fewer RoIs" in line]
    told = line.partition("in the last epoch: ")[2]
    assert told == (
        "NMS_reg=0.8 NMS_cls=0.7 (regressor: 17 %), NMS_reg=0.9 NMS_cls=0.7 (classifier: 20 %) "
        "and NMS_reg=0.9 NMS_cls=0.7 (regressor: 40 %)."
    )


def unpaired(setting: Setting) -> Setting:
    """The same without what tells that two detectors are one."""
    replicates = [
        replace(replicate, resampled=replicate.resampled and replace(replicate.resampled, training=""))
        for replicate in setting.replicates
    ]
    return replace(setting, replicates=tuple(replicates))


def test_ways_to_test_the_same_detectors_are_paired(
    planned: Callable[..., Plan], annotations: Annotations, write: Write
) -> None:
    """Each of three very different detectors is better after its second stage."""
    plan = planned("table_10")
    trials = [
        plan.trial({"detector.variant": "cascade_rcnn", "detector.test_stage": stage}, seed)
        for stage in (1, 2)
        for seed in (1, 2, 3)
    ]
    for trial in trials:
        better = 0.7 if trial.config.detector.test_stage == 2 else 1.0
        finish_detector(trial, annotations, blur=(1.0 + trial.config.seed) * better)
    settings = group_by_setting(trials)
    assert [[detector.training for detector in setting.resampled] for setting in settings] == [
        [trial.model.id for trial in trials[:3] if trial.model]
    ] * 2
    (comparison,) = compare_best(settings, "AP", 0.005)
    assert comparison.verdict is Verdict.SIGNIFICANT
    (alone,) = compare_best([unpaired(setting) for setting in settings], "AP", 0.005)
    assert alone.verdict is Verdict.UNDECIDED
    assert "are compared detector by detector" in write(plan, trials)


def test_the_papers_change_and_the_comparison_of_its_settings_have_one_p(
    planned: Callable[..., Plan], annotations: Annotations
) -> None:
    plan = planned("table_04")
    trials = expand(plan, 2)
    for number, trial in enumerate(trials):
        finish_detector(trial, annotations, blur=4 - 0.3 * trial.config.detector.stages, seed=number)
    facts = gather_facts(plan, trials)
    (effects,) = facts.paper_effects[0]
    assert (effects[0].baseline, effects[0].label, effects[0].metric) == ("stages=1", "stages=3", "AP")
    of_pair = next(each for each in facts.baseline_comparisons if each.label == "stages=1")
    assert of_pair.baseline == "stages=3"
    assert effects[0].p_holm == of_pair.p_holm == of_pair.difference.p
    assert [each.comparisons for each in facts.baseline_comparisons] == [1, 2, 2]
    # Of the other metrics, all changes are one family.
    assert all(effect.p_holm >= effect.ours.p for effect in effects[1:])


def test_the_command_is_the_launchs(
    planned: Callable[..., Plan], annotations: Annotations, write: Write
) -> None:
    plan = planned(MINE)
    trials = expand(plan, 1)
    request = Request(
        study="mine.yaml", source="coco:my data", assignments=("training.epochs=2",), seeds=3,
        tracking_uri="http://me:secret@host",
    )  # fmt: skip
    plan.folder.mkdir(parents=True)
    keep_request(plan, request)
    text = write(plan, trials)
    made = next(line for line in text.splitlines() if line.startswith("python studies/run_study.py"))
    assert made.endswith(f"--data 'coco:my data' --output {plan.output} --set training.epochs=2 --seeds 3")
    assert "secret" not in text


def test_unfinished_and_failed_trials_appear(
    planned: Callable[..., Plan], annotations: Annotations, write: Write
) -> None:
    plan = planned("table_03")
    trials = expand(plan, 1)
    assert "No trial has finished: **nothing can be said yet**." in write(plan, trials)

    finish_detector(trials[0], annotations, blur=2.0)
    write_failed(trials[1].folder, "TrainingDiverged: loss <b>not</b> `finite` | **")
    finish_detector(trials[2], annotations, blur=2.0)
    record = json.loads((trials[2].folder / "result.json").read_text())
    record["history"][-1]["val/AP"] = float("nan")
    (trials[2].folder / "result.json").write_text(json.dumps(record))
    text = write(plan, trials)
    assert "Of 6 trials: 1 failed, 2 finished, 3 pending" in text
    assert "NMS_reg=0.75 seed=1 failed: TrainingDiverged" in text
    assert "<b>" not in text
    assert "| NMS_reg=0.95 seed=1 | pending | 0 of" in text
    page = (plan.folder / "report.html").read_text()
    assert "&lt;b&gt;not&lt;/b&gt; `finite` | **" in page


def test_without_the_test_images_figures_are_left(
    planned: Callable[..., Plan], annotations: Annotations, write: Write
) -> None:
    plan = planned(MINE)
    trials = expand(plan, 1)
    for trial in trials:
        finish_detector(trial, annotations, blur=2.0)
    Path(trials[0].data.val).unlink()
    text = write(plan, trials)
    assert "> **Nothing can be said about settings**: detections or images are not there to compare." in text
    assert "ap_by_epoch.png" in text


def test_resamples_are_kept_until_the_detections_change(
    planned: Callable[..., Plan], annotations: Annotations, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(MINE)
    trials = expand(plan, 1)
    for trial in trials:
        finish_detector(trial, annotations, blur=2.0)
    made = []
    monkeypatch.setattr(
        "studies.analysis.replicates.resample", lambda *arguments: made.append(1) or resample(*arguments)
    )
    first = write(plan, trials)
    assert len(made) == 2
    assert write(plan, trials) == first
    assert len(made) == 2
    finish_detector(trials[0], annotations, blur=1.0)
    assert write(plan, trials) != first
    assert len(made) == 3


def test_a_search_shows_its_history_front_and_confirmation(
    searched: tuple[Plan, list[Trial]], write: Write
) -> None:
    plan, trials = searched
    text = write(plan, trials)
    for name in ("search_history", "search_parallel", "search_importance", "front"):
        assert f"({name}.png)" in text
        assert (plan.folder / f"{name}.png").stat().st_size > 1000
    assert "front has 3 trials" in text
    assert "**The Pareto front has 3 of 5 finished trials**" in text
    assert text.index("**The Pareto front has 3") < text.index("is the best setting**")
    page = (plan.folder / "report.html").read_text(encoding="utf-8")
    header = page[page.index("<header>") : page.index("</header>")]
    assert '<div class="lead">\n<p>NMS_reg=0.85 stages=3 is significantly better than NMS_reg=0.7' in header
    assert header.index("<figure>") < header.index('<div class="lead">') < header.index("<nav")
    assert "The paper has no figures of these settings." in header
    assert "Optuna's TPE chose 6 of 8 trials over NMS_reg, stages; 1 of them pruned" in text
    # The confirmation's two settings are compared, without the search's own lucky runs.
    assert "NMS_reg=0.85 stages=3 is the best setting" in text
    assert "trained with 2 seeds" in text
    assert "is the best" in text
    assert "| NMS_reg=0.65 stages=3 seed=1 | pruned |" in text


def test_a_search_with_one_objective_lists_its_best_trials(
    searched: tuple[Plan, list[Trial]], write: Write
) -> None:
    plan, trials = searched
    study = plan.study.model_copy(update={"minimise": None})
    text = write(replace(plan, overrides=replace(plan.overrides, study=study)), trials)
    rows = text.partition("The trials of the search with the highest AP on val, a single run each.")[
        2
    ].splitlines()
    assert rows[2] == "| trial | AP × 100 | ms/image | id |"
    assert [row.split(" | ")[0] for row in rows[4:6]] == [
        "| NMS_reg=0.85 stages=3 seed=1",
        "| NMS_reg=0.8 stages=2 seed=1",
    ]
    assert f"`{trials[3].id}`" in rows[4]
    assert "Pareto front" not in text


def test_a_search_is_drawn_before_its_second_objective_is_known(
    searched: tuple[Plan, list[Trial]], write: Write
) -> None:
    plan, trials = searched
    for trial in trials[:5]:
        (trial.folder / "latency.json").unlink()
    text = write(plan, trials)
    assert "(search_history.png)" in text
    assert "(front.png)" not in text


def test_seeds_that_were_added_after_a_look_are_told(
    planned: Callable[..., Plan], annotations: Annotations, write: Write
) -> None:
    plan = planned("table_04")
    for seeds in (2, 3):
        trials = expand(plan, seeds)
        for trial in trials:
            finish_detector(trial, annotations, blur=4)
        text = write(plan, trials)
        Outcome(plan, trials).note_look()
    assert text.count("The settings were compared once before, with fewer trials.") == 1
    assert "compared once before" not in write(plan, expand(plan, 2))
    assert "It is the published detector, chosen by val/AP alone: its setting" in text


def test_a_search_that_is_not_confirmed_says_so(searched: tuple[Plan, list[Trial]], write: Write) -> None:
    plan, trials = searched
    text = write(plan, trials[:6])
    above = text.partition("## Summary")[0]
    assert "> **The search is not confirmed**: each of its 5 finished trials is a single run" in above
    assert (
        "its best setting and the baseline are trained again with 2 other seeds (4 trials, about 8 min"
        in above
    )
    assert "(search_history.png)" in above
    assert text.count("(search_history.png)") == 1
    assert "(against_baseline.png)" not in text
    assert "AP × 100 on the validation images" in text
    assert "AP × 100 on the test images" not in text
    assert "(ap_over_iou.png)" not in text
    for trial in trials[:5]:
        test_ap = read_record(trial.folder).metric("test/AP")
        assert f" {points(test_ap)} " not in text, "nobody shall choose by it"
    assert "significant" not in above


def test_a_search_of_two_objectives_that_confirms_nothing_begins_with_its_front(
    searched: tuple[Plan, list[Trial]], write: Write
) -> None:
    plan, trials = searched
    study = plan.study.model_copy(update={"confirm": None})
    text = write(replace(plan, overrides=replace(plan.overrides, study=study)), trials[:6])
    assert "(front.png)" in text.partition("## Summary")[0]
    assert text.count("(front.png)") == 1
    assert "with `confirm` in the study file" in text


def test_the_margin_is_the_readers(
    planned: Callable[..., Plan], annotations: Annotations, write: Write
) -> None:
    """What is undecided within half a point is equivalent within half the scale."""
    plan = planned(MINE)
    trials = expand(plan, 3)
    for trial in trials:
        seed = int(100 * trial.config.detector.nms_reg) + trial.config.seed
        finish_detector(trial, annotations, blur=2.0, seed=seed)
    assert "> Undecided between NMS_reg=0.85 and NMS_reg=0.7" in write(plan, trials)
    text = write(replace(plan, margin=50.0), trials)
    assert "> NMS_reg=0.85 and NMS_reg=0.7 are equivalent within ±50 AP: " in text
    assert "| equivalent within ±50 |" in text
    assert "lies within ±50 points (`--margin`)" in text


def test_measured_gpu_hours_have_a_price(
    planned: Callable[..., Plan], annotations: Annotations, write: Write
) -> None:
    """Two minutes a trial on two GPUs, four trials: 16 GPU minutes."""
    plan = planned(MINE)
    trials = expand(plan, 2)
    for trial in trials:
        finish_detector(trial, annotations, blur=2.0)
    assert "GPU hours were not recorded" in write(replace(plan, price=15.0), trials)
    for trial in trials:
        path = trial.folder / "result.json"
        record = json.loads(path.read_text())
        record["history"][-1]["perf/gpus"] = 2.0
        path.write_text(json.dumps(record))
    without = write(plan, trials)
    assert "dollars" not in without
    assert "lost attempts trained in vain and GPUs that waited are not in them" in without
    text = write(replace(plan, price=15.0), trials)
    assert "At 15 dollars a GPU hour" in text
    (total,) = (
        line for line in text.splitlines() if line.startswith("| **all**") or line.startswith("| all")
    )
    assert len(trials) == 4
    assert "0.27" in total
    assert "4.00" in total


@pytest.mark.parametrize("judged", ["val", "test"])
def test_the_images_that_judge_are_named_in_one_way(
    planned: Callable[..., Plan],
    annotations: Annotations,
    write: Write,
    monkeypatch: pytest.MonkeyPatch,
    judged: str,
) -> None:
    monkeypatch.setattr("studies.report.facts.ReportFacts.judged_by", judged)
    plan = planned(MINE)
    trials = expand(plan, 1)
    for trial in trials:
        finish_detector(trial, annotations, blur=2.0)
    text = write(plan, trials)
    assert ("This data has no test split: the settings are judged by the validation" in text) == (
        judged == "val"
    )
    words = {"val": "validation", "test": "test"}[judged]
    assert f"the {words} images with the highest and the lowest AP of their own" in text
