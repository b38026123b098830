"""What the tests of reports share: annotations on disk, plans that use them, and a search that has ended."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from report_helpers import finish_detector, make_annotations

from drcnn.config import DataConfig
from drcnn.data.annotations import Annotations
from drcnn.data.prepare import PreparedData
from drcnn.engine.record import write_pruned
from studies.definition.plan import Plan, Trial
from studies.definition.trial import Inputs
from studies.report.facts import gather_facts
from studies.report.report import write_report

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


@pytest.fixture(scope="module")
def annotations() -> Annotations:
    return make_annotations()


@pytest.fixture
def planned(make_plan: Callable[..., Plan], tmp_path: Path, annotations: Annotations) -> Callable[..., Plan]:
    """Plans of a study (a name or YAML text) with these annotations."""
    path = tmp_path / "val.arrow"
    annotations.save(path)

    def prepare(data: DataConfig) -> PreparedData:
        return PreparedData(str(path), str(path), None, annotations.classes, "f" * 16, ())

    return lambda study: replace(make_plan(study), inputs=Inputs(prepare))


@pytest.fixture
def planned_with_test(planned: Callable[..., Plan]) -> Callable[..., Plan]:
    """Such plans whose data have a test split: the same images, but figures of val are lower."""

    def make(study: str) -> Plan:
        plan = planned(study)

        def prepare(data: DataConfig) -> PreparedData:
            without = plan.inputs.data(data)
            return replace(without, test=without.val)

        return replace(plan, inputs=Inputs(prepare))

    return make


@pytest.fixture
def write() -> Callable[[Plan, Sequence[Trial]], str]:
    """Write a report into the study's folder, and return its Markdown."""

    def write_files(plan: Plan, trials: Sequence[Trial]) -> str:
        folder = plan.folder
        files = write_report(gather_facts(plan, trials), folder)
        assert files[:2] == [folder / "report.md", folder / "report.html"]
        assert all(file.exists() for file in files)
        return (folder / "report.md").read_text(encoding="utf-8")

    return write_files


@pytest.fixture
def searched(planned_with_test: Callable[..., Plan], annotations: Annotations) -> tuple[Plan, list[Trial]]:
    plan = planned_with_test(SEARCH)
    points = [(0.6, 1), (0.7, 1), (0.8, 2), (0.85, 3), (0.9, 2), (0.65, 3)]
    trials = [plan.trial({"detector.nms_reg": r, "detector.stages": s}, plan.base.seed) for r, s in points]
    for trial in trials[:5]:
        finish_detector(trial, annotations, blur=4.5 - trial.config.detector.stages, seed=len(trial.name))
        latency = {"perf/ms_per_image": 5.0 * trial.config.detector.stages, "device": "cpu"}
        (trial.folder / "latency.json").write_text(json.dumps(latency))
    write_pruned(trials[5].folder)
    again = [
        plan.trial({"detector.nms_reg": r, "detector.stages": s}, plan.base.seed + seed)
        for r, s in ((0.85, 3), (0.7, 1))
        for seed in (1, 2)
    ]
    for trial in again:
        finish_detector(trial, annotations, blur=4.5 - trial.config.detector.stages)
    return plan, [*trials, *again]
