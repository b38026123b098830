"""The report is written from real annotations and synthetic detections, in real trial folders."""

from __future__ import annotations

import html.parser
import io
import json
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from studies.analysis.statistics import mean_interval, resample, winner
from study_helpers import TINY, epoch

from drcnn.config import Config, DataConfig
from drcnn.data.annotations import Annotations, Record
from drcnn.data.prepare import PreparedData
from drcnn.engine.average_precision import score_split
from drcnn.engine.record import write_failed, write_pruned
from drcnn.recipes import recipe
from studies.analysis.replicates import group_by_setting
from studies.definition.plan import Plan, Trial, expand
from studies.definition.request import Request
from studies.definition.study_file import load, parse
from studies.execution.report_command import keep_request
from studies.report import samples
from studies.report.report import write_report

IMAGES = 24
MINE = """
title: One threshold
kind: grid
grid: {detector.nms_reg: [0.7, 0.85]}
"""
SEARCH = """
title: A small search
kind: search
trials: 8
space:
  detector.nms_reg: {low: 0.6, high: 0.9, step: 0.05}
  detector.stages: {low: 1, high: 3}
minimise: perf/ms_per_image
confirm: {top: 1, seeds: 2, against: {detector.nms_reg: 0.7, detector.stages: 1}}
"""


def make_annotations() -> Annotations:
    random = np.random.default_rng(0)
    records = []
    for number in range(IMAGES):
        corners = random.uniform(0, 60, size=(3, 2))
        boxes = np.concatenate([corners, corners + random.uniform(15, 30, size=(3, 2))], axis=1)
        pixels = io.BytesIO()
        Image.new("RGB", (96, 96), (40, 60, 80)).save(pixels, format="PNG")
        records.append(
            Record(f"i{number:02}", 96, 96, boxes, random.integers(0, 2, 3), image=pixels.getvalue())
        )
    return Annotations.from_records(records, ["cat", "dog"])


def detect(annotations: Annotations, blur: float, seed: int) -> pa.Table:
    """The objects, each corner moved by about ``blur`` pixels, under random scores, and a few false ones."""
    random = np.random.default_rng(seed)
    count = len(annotations.all_boxes)
    boxes = annotations.all_boxes + random.normal(0, blur, size=(count, 4))
    ids = np.repeat(annotations.ids, np.diff(annotations.offsets))
    false = boxes[::4] + 20
    boxes = np.concatenate([boxes, false]).astype(np.float32)
    columns = dict(zip(("x1", "y1", "x2", "y2"), boxes.T, strict=True))
    labels = np.concatenate([annotations.all_labels, annotations.all_labels[::4]]).astype(np.int32)
    scores = np.concatenate([random.uniform(0.5, 1, count), random.uniform(0.1, 0.6, len(false))])
    return pa.table(
        {"image_id": np.concatenate([ids, ids[::4]]), "label": labels, "score": scores.astype(np.float32)}
        | columns
    )


@pytest.fixture(scope="module")
def annotations() -> Annotations:
    return make_annotations()


@pytest.fixture
def planned(tmp_path: Path, annotations: Annotations) -> Callable[..., Plan]:
    path = tmp_path / "val.arrow"
    annotations.save(path)

    def make(study: str) -> Plan:
        name, found = load(study) if "\n" not in study else ("mine", parse(study, "mine.yaml"))
        base = Config().with_changes({**recipe("laptop", "digits"), **TINY}).with_changes(found.base)

        def prepare(data: DataConfig) -> PreparedData:
            return PreparedData(str(path), str(path), annotations.classes, "f" * 16, ())

        return Plan(name, found, base, tmp_path / "runs", prepare)

    return make


def finish(trial: Trial, annotations: Annotations, blur: float, seed: int | None = None) -> None:
    """What a finished trial leaves, with figures that agree with its detections."""
    trial.folder.mkdir(parents=True, exist_ok=True)
    table = detect(annotations, blur, trial.config.seed if seed is None else seed)
    pq.write_table(table, trial.folder / "detections.parquet")
    ap = score_split(annotations, table).ap()
    figures = {"val/AP": ap.mean(), "val/AP50": ap[0], "val/AP80": ap[6], "val/AP90": ap[8]}
    cost = {"perf/epoch_seconds": 50.0, "perf/eval_seconds": 10.0, "perf/images_per_s": 2.0}
    history = [{**epoch(1, ap.mean() / 2), **cost}, {**epoch(2, ap.mean()), **figures, **cost}]
    record = {"status": "finished", "history": history, "seconds": 120.0}
    (trial.folder / "result.json").write_text(json.dumps(record))


def write(plan: Plan, trials: Sequence[Trial]) -> str:
    folder = plan.folder
    files = write_report(plan, trials, folder)
    assert files[:2] == [folder / "report.md", folder / "report.html"]
    assert all(file.exists() for file in files)
    return (folder / "report.md").read_text(encoding="utf-8")


def test_figures_are_those_of_the_statistics(planned: Callable[..., Plan], annotations: Annotations) -> None:
    plan = planned(MINE)
    trials = expand(plan, 3)
    for trial in trials:
        finish(trial, annotations, blur=1.0 if trial.config.detector.nms_reg == 0.85 else 3.0)
    text = write(plan, trials)

    replicates: dict[str, list[Any]] = {"NMS_reg=0.7": [], "NMS_reg=0.85": []}
    for trial in trials:
        split = score_split(annotations, pq.read_table(trial.folder / "detections.parquet"))
        replicates[f"NMS_reg={trial.config.detector.nms_reg:g}"].append(resample(split))
    (found,) = winner(replicates)
    assert found.is_significant
    assert found.sentence in text
    assert "**NMS_reg=0.85 is the best setting**" in text
    interval = mean_interval([each.whole["AP"] for each in replicates["NMS_reg=0.85"]])
    assert f"**{100 * interval.mean:.1f} ± {100 * (interval.high - interval.mean):.1f}**" in text
    assert "with 3 seeds" in text


def test_no_winner_is_named_where_none_is_shown(
    planned: Callable[..., Plan], annotations: Annotations
) -> None:
    plan = planned(MINE)
    trials = expand(plan, 1)
    for trial in trials:
        finish(trial, annotations, blur=2.0, seed=int(100 * trial.config.detector.nms_reg))
    text = write(plan, trials)
    assert "no winner can be named" in text
    assert "No difference shown between" in text
    assert "is the best" not in text


def test_with_one_seed_it_speaks_of_trained_detectors(
    planned: Callable[..., Plan], annotations: Annotations
) -> None:
    plan = planned(MINE)
    trials = expand(plan, 1)
    for trial in trials:
        finish(trial, annotations, blur=1.0 if trial.config.detector.nms_reg == 0.85 else 6.0)
    text = write(plan, trials)
    assert "**NMS_reg=0.85 is the best trained detector**" in text
    assert "about **these trained detectors**" in text


def test_the_papers_table_is_beside_ours(planned: Callable[..., Plan], annotations: Annotations) -> None:
    plan = planned("table_03")
    trials = expand(plan, 1)
    for trial in trials:
        finish(trial, annotations, blur=5 - 4 * trial.config.detector.nms_reg)
    text = write(plan, trials)
    ours = 100 * json.loads((trials[0].folder / "result.json").read_text())["history"][-1]["val/AP"]
    assert f"{ours:.1f} (55.0, {ours - 55.0:+.1f})" in text
    assert "The paper's best of these settings is NMS_reg=0.85 (AP 56.6)" in text
    assert "Kendall's τ" in text
    assert "From NMS_reg=0.7 to NMS_reg=0.85, the paper's best" in text
    # The paper's AP50 changes by -0.3: within what the same setting differs by there.
    assert "the paper has about none" in text
    assert "| `detector.backbone` | resnet101 | mobilenet_v2 |" in text
    assert "| setting | difference | 95 % interval, uncorrected | p, corrected | verdict |" in text
    assert (plan.folder / "changes_table_iii.png").exists()


def test_both_of_the_papers_best_are_told(planned: Callable[..., Plan], annotations: Annotations) -> None:
    plan = planned("table_02")
    trials = expand(plan, 1)
    for number, trial in enumerate(trials):
        finish(trial, annotations, blur=1.0 + number)
    text = write(plan, trials)
    assert "In Table II, fpn_unshared and decoupled are the paper's best (AP 55.0 each there)" in text
    assert "The paper's best of these settings are fpn_unshared and decoupled (AP 55.0 each)" in text
    assert "Here the higher of them, fpn_unshared, is number 2 of 4" in text
    assert "From fpn to fpn_unshared, the paper's best" in text
    assert "From fpn to decoupled, the paper's best" in text


def test_the_papers_times_are_beside_ours(planned: Callable[..., Plan], annotations: Annotations) -> None:
    plan = planned("table_11")
    trials = expand(plan, 1)
    for trial in trials:
        finish(trial, annotations, blur=2.0)
    # Not the first: of equals it stands out, in bold.
    (trials[1].folder / "latency.json").write_text(json.dumps({"perf/ms_per_image": 31.0}))
    text = write(plan, trials)
    assert "| setting | seeds | AP | s/image |" in text
    assert "| 0.031 (paper 0.270) |" in text
    assert "| – (paper 0.625) |" in text
    assert "the paper's on its TITAN X" in text


def test_ways_to_test_the_same_detectors_are_paired(
    planned: Callable[..., Plan], annotations: Annotations
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
        finish(trial, annotations, blur=(1.0 + trial.config.seed) * better)
    settings = group_by_setting(trials)
    assert [[each.training for each in setting.resampled] for setting in settings] == [
        [trial.model.id for trial in trials[:3] if trial.model]
    ] * 2
    (found,) = winner({setting.name: setting.resampled for setting in settings})
    assert found.is_significant
    apart = {
        name: [replace(each, training="") for each in setting.resampled]
        for name, setting in zip("ab", settings, strict=True)
    }
    assert not winner(apart)[0].is_significant
    assert "are compared detector by detector" in write(plan, trials)


def test_the_command_is_the_launchs(planned: Callable[..., Plan], annotations: Annotations) -> None:
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


def test_unfinished_and_failed_trials_appear(planned: Callable[..., Plan], annotations: Annotations) -> None:
    plan = planned("table_03")
    trials = expand(plan, 1)
    assert "No trial has finished" in write(plan, trials)

    finish(trials[0], annotations, blur=2.0)
    write_failed(trials[1].folder, "TrainingDiverged: loss <b>not</b> `finite` | **")
    finish(trials[2], annotations, blur=2.0)
    record = json.loads((trials[2].folder / "result.json").read_text())
    record["history"][-1]["val/AP"] = float("nan")
    (trials[2].folder / "result.json").write_text(json.dumps(record))
    text = write(plan, trials)
    assert "Of 6 trials 2 finished, 1 failed, 3 have not finished" in text
    assert "NMS_reg=0.75 seed=1 failed: TrainingDiverged" in text
    assert "<b>" not in text
    assert "| NMS_reg=0.95 seed=1 | not finished | 0 of" in text
    page = (plan.folder / "report.html").read_text()
    assert "&lt;b&gt;not&lt;/b&gt; 'finite' |" in page


def test_without_the_test_images_figures_are_left(
    planned: Callable[..., Plan], annotations: Annotations
) -> None:
    plan = planned(MINE)
    trials = expand(plan, 1)
    for trial in trials:
        finish(trial, annotations, blur=2.0)
    Path(trials[0].data.val).unlink()
    text = write(plan, trials)
    assert "no winner can be named**: the detections or the test images are not there" in text
    assert "ap_by_epoch.png" in text


def test_resamples_are_kept_until_the_detections_change(
    planned: Callable[..., Plan], annotations: Annotations, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(MINE)
    trials = expand(plan, 1)
    for trial in trials:
        finish(trial, annotations, blur=2.0)
    made = []
    monkeypatch.setattr(
        "studies.analysis.replicates.resample", lambda *given: made.append(1) or resample(*given)
    )
    first = write(plan, trials)
    assert len(made) == 2
    assert write(plan, trials) == first
    assert len(made) == 2
    finish(trials[0], annotations, blur=1.0)
    assert write(plan, trials) != first
    assert len(made) == 3


@pytest.fixture
def searched(planned: Callable[..., Plan], annotations: Annotations) -> tuple[Plan, list[Trial]]:
    plan = planned(SEARCH)
    points = [(0.6, 1), (0.7, 1), (0.8, 2), (0.85, 3), (0.9, 2), (0.65, 3)]
    trials = [plan.trial({"detector.nms_reg": r, "detector.stages": s}, plan.base.seed) for r, s in points]
    for trial in trials[:5]:
        finish(trial, annotations, blur=4.5 - trial.config.detector.stages, seed=len(trial.name))
        latency = {"perf/ms_per_image": 5.0 * trial.config.detector.stages, "device": "cpu"}
        (trial.folder / "latency.json").write_text(json.dumps(latency))
    write_pruned(trials[5].folder)
    again = [
        plan.trial({"detector.nms_reg": r, "detector.stages": s}, plan.base.seed + seed)
        for r, s in ((0.85, 3), (0.7, 1))
        for seed in (1, 2)
    ]
    for trial in again:
        finish(trial, annotations, blur=4.5 - trial.config.detector.stages)
    return plan, [*trials, *again]


def test_a_search_shows_its_history_front_and_confirmation(searched: tuple[Plan, list[Trial]]) -> None:
    plan, trials = searched
    text = write(plan, trials)
    for name in ("search_history", "search_parallel", "search_importance", "front"):
        assert f"({name}.png)" in text
        assert (plan.folder / f"{name}.png").stat().st_size > 1000
    assert "the front has 3 trials" in text
    assert "**The front has 3 of 5 finished trials**" in text
    assert text.index("**The front has 3") < text.index("is the best setting**")
    page = (plan.folder / "report.html").read_text(encoding="utf-8")
    assert '<p class="lead"><strong>The front has 3' in page
    assert "Optuna's TPE chose 6 of 8 trials over NMS_reg, stages; 1 were cut early" in text
    # The confirmation's two settings are compared, without the search's own lucky runs.
    assert "NMS_reg=0.85 stages=3 is the best setting" in text
    assert "trained with 2 seeds" in text
    assert "is the best" in text
    assert "| NMS_reg=0.65 stages=3 seed=1 | cut early |" in text


def test_objects_are_named_and_those_not_drawn_are_told(
    planned: Callable[..., Plan], annotations: Annotations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All objects are found; a third of them with a score too low to be drawn."""
    plan = planned(MINE)
    trials = expand(plan, 1)
    for trial in trials:
        finish(trial, annotations, blur=0.1)
        table = pq.read_table(trial.folder / "detections.parquet").slice(0, 3 * IMAGES)
        scores = np.tile([0.9, 0.8, 0.2], IMAGES).astype(np.float32)
        table = table.set_column(table.column_names.index("score"), "score", pa.array(scores))
        pq.write_table(table, trial.folder / "detections.parquet")
    names: list[tuple[str, bool]] = []
    draw = samples._name
    monkeypatch.setattr(
        samples,
        "_name",
        lambda *given, is_below=False: names.append((given[1], is_below)) or draw(*given, is_below=is_below),
    )
    text = write(plan, trials)
    assert ": 2 of 3 objects found, 0 wrong; with weaker detections too, AP " in text
    assert {name for name, is_below in names if is_below} == {"cat", "dog"}
    assert sum(is_below for _, is_below in names) == 8 * 3
    assert sum(not is_below for _, is_below in names) == 8 * 2


class _Links(html.parser.HTMLParser):
    """Open tags must be closed in order; collects what a browser would fetch, and texts for the blind."""

    VOID = frozenset({"meta", "img", "source", "br", "link"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.alts: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.add(tag)
        self.fetched += [given[name] or "" for name in ("src", "srcset") if name in given]
        if tag == "img":
            self.alts.append(given.get("alt") or "")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_self_contained(searched: tuple[Plan, list[Trial]]) -> None:
    plan, trials = searched
    write(plan, trials)
    page = (plan.folder / "report.html").read_text(encoding="utf-8")
    found = _Links()
    found.feed(page)
    assert found.open == []
    assert found.fetched
    assert all(source.startswith("data:image/png;base64,") for source in found.fetched)
    assert all(len(alt) > 20 for alt in found.alts)
    assert not found.tags & {"script", "link", "iframe"}
    assert "url(" not in page
    assert "@import" not in page


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to open the page in")
def test_a_browser_shows_the_page_light_and_dark(searched: tuple[Plan, list[Trial]], tmp_path: Path) -> None:
    plan, trials = searched
    write(plan, trials)
    # 0 is dark, 1 is light.
    corners = [_screenshot(plan.folder / "report.html", tmp_path, scheme) for scheme in (0, 1)]
    assert [int(np.mean(corner)) for corner in corners] == [23, 255]


def _screenshot(page: Path, folder: Path, scheme: int) -> tuple[int, ...]:
    """Open a page in a browser of its own; the colour of its upper left corner."""
    assert CHROMIUM is not None
    picture = folder / f"{scheme}.png"
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1000,3000"]
    command += [f"--user-data-dir={folder / 'profile'}", f"--blink-settings=preferredColorScheme={scheme}"]
    subprocess.run(
        [*command, f"--screenshot={picture}", page.as_uri()], check=True, timeout=120, capture_output=True
    )
    with Image.open(picture) as image:
        # Something is drawn below the heading.
        assert len(image.convert("RGB").getcolors(1 << 24) or []) > 50
        return tuple(image.convert("RGB").getpixel((2, 2)))
