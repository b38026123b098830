from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
import yaml

from drcnn.config import Config
from drcnn.engine.average_precision import METRICS as MEASURED
from studies.definition.errors import StudyError
from studies.definition.metrics import METRICS
from studies.definition.settings import resolve_multiples
from studies.definition.study import GridStudy, SearchStudy
from studies.definition.study_file import catalogue, load, parse

GRID = "title: t\nkind: grid\n"
SEARCH = "title: t\nkind: search\ntrials: 3\n"


@pytest.mark.parametrize("name", catalogue())
def test_every_shipped_study_is_valid(name: str) -> None:
    assert load(name)[0] == name


def test_nms_sweep_is_the_papers_table() -> None:
    study = load("nms_sweep")[1]
    assert isinstance(study, GridStudy)
    points = [(row["detector.nms_reg"], row["detector.nms_cls"]) for row in study.settings()]
    assert points == [
        (0.7, 0.7),
        (0.75, 0.7),
        (0.8, 0.7),
        (0.85, 0.7),
        (0.9, 0.7),
        (0.95, 0.7),
        (0.7, 0.8),
        (0.7, 0.9),
    ]


def test_search_starts_at_the_papers_best() -> None:
    study = load("search")[1]
    assert isinstance(study, SearchStudy)
    assert list(study.first[0].values()) == [0.7, 0.85, 3, 0.5]


def test_a_product_is_appended_to_the_rows_without_repeats() -> None:
    text = GRID + "rows: [{seed: 1, detector.stages: 2}]\ngrid: {seed: [1, 2], detector.stages: [1, 2]}\n"
    study = parse(text, "mine.yaml")
    assert isinstance(study, GridStudy)
    assert [tuple(setting.values()) for setting in study.settings()] == [(1, 2), (1, 1), (2, 1), (2, 2)]
    assert study.varied() == ["seed", "detector.stages"]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("title: [", ["mine.yaml:1", "not YAML"]),
        ("- 1", ["mine.yaml", "mapping"]),
        ("title: t\nkind: gird\n", ["mine.yaml", "grid"]),
        ("title: t\nkind: gird\n", ["mine.yaml:2: kind"]),
        (GRID, ["mine.yaml:2: kind", "rows", "grid"]),
        (GRID + "rows: []\nmetrics: AP\n", ["mine.yaml:4", "metrics"]),
        (
            GRID + "base: {}\ngrid:\n  detector.nms_rg: [0.7]\n",
            ["mine.yaml:5: grid.detector.nms_rg", "did you mean 'detector.nms_reg'"],
        ),
        (
            GRID + "rows:\n  - {detector.nms_reg: 0.7}\n  - {detector.nms_rg: 0.7}\n",
            ["mine.yaml:5: rows.1.detector.nms_rg", "did you mean"],
        ),
        (GRID + "grid: {seed: [1]}\nbase:\n  detector.foo: 1\n", ["mine.yaml:5: base.detector.foo"]),
        (GRID + "rows: [{seed: 1}]\nrows: [{seed: 2}]\n", ["mine.yaml:4: rows", "line 3"]),
        (GRID + "rows:\n  - {seed: 1, seed: 2}\n", ["mine.yaml:4: rows.0.seed", "line 4"]),
        (GRID + "grid:\n  detector.nms_reg: [0.7, 1.7]\n", ["mine.yaml:4: grid.detector.nms_reg.1", "1.7"]),
        (
            GRID + "rows:\n  - &a {detector.nms_reg: 0.7}\n  - {<<: *a, detector.stages: 9}\n",
            ["mine.yaml:5: rows.1.detector.stages", "9"],
        ),
        (
            GRID + "grid: {seed: [1]}\nbase:\n  detector.backbone: resnet52\n",
            ["mine.yaml:5: base.detector.backbone", "resnet50"],
        ),
        (GRID + "grid: {detector.backbone: [2x]}\n", ["mine.yaml:3: grid.detector.backbone.0", "'2x'"]),
        (GRID + "grid: {seed: [1]}\nmetric: AP_75\n", ["mine.yaml:4: metric", "AP75"]),
        (GRID + "grid: {seed: [1]}\nmetric: AP_small\n", ["mine.yaml:4: metric", "AP, AP50"]),
        (
            SEARCH + "space:\n  detector.lambda_reg: {low: 0, high: 1, step: 2}\n",
            ["mine.yaml:5: space.detector.lambda_reg", "step 2"],
        ),
        (
            SEARCH + "space:\n  detector.stages: {low: 1, high: 4, step: 0.5}\n",
            ["mine.yaml:5: space.detector.stages", "1.5"],
        ),
        (SEARCH + "space: {detector.stages: {low: 1.0, high: 4.0}}\n", ["detector.stages", "2.5"]),
        (SEARCH + "space: {seed: {low: 1, choices: [1, 2]}}\n", ["mine.yaml:4: space.seed", "'choices'"]),
        (SEARCH + "space: {seed: {low: 1, high: .inf}}\n", ["mine.yaml:4: space.seed", "finite"]),
        (GRID + "grid:\n  detector.nms_reg: []\n", ["mine.yaml:4", "detector.nms_reg"]),
        (SEARCH + "space: {detector.stages: {low: 4, high: 1}}\n", ["mine.yaml:4", "low 4"]),
        (SEARCH + "space: {detector.stages: {low: 1}}\n", ["mine.yaml:4", "'high'"]),
        (SEARCH + "space: {detector.stages: {low: 0, high: 4, log: true}}\n", ["log"]),
        (
            SEARCH + "space: {seed: {low: 1, high: 4}}\nfirst:\n  - {detector.stages: 1}\n",
            ["mine.yaml:6: first.0", "seed"],
        ),
        (
            SEARCH + "space: {seed: {low: 1, high: 4}}\nconfirm:\n  against: {detector.stage: 1}\n",
            ["mine.yaml:6: confirm.against.detector.stage", "detector.stages"],
        ),
        (GRID + "replicates: 0\ngrid: {seed: [1]}\n", ["mine.yaml:3", "replicates"]),
        (
            GRID + "replicates: many\ngrid: {seed: [1]}\n",
            ["mine.yaml:3", "replicates", "'many'", "laptop: 3"],
        ),
        (GRID + "replicates: {lap: 3}\ngrid: {seed: [1]}\n", ["mine.yaml:3", "replicates.lap"]),
        (
            GRID + "grid: {seed: [1]}\nlaptop:\n  detector.stages:\n    2: {detector.stage: 1}\n",
            ["mine.yaml:6: laptop", "detector.stage'", "detector.stages"],
        ),
        (
            SEARCH + "space: {seed: {low: 1, high: 4}}\nminimise: perf/ms_per_image\nprune: {}\n",
            ["prune", "minimise"],
        ),
        (
            SEARCH + "space: {seed: {low: 1, high: 4}}\nconfirm: {top: 1, seeds: 1, against: {seed: 1}}\n",
            ["mine.yaml:5", "confirm.seeds"],
        ),
        ("title: t\nkind: search\ntrials: 0\nspace: {seed: {low: 1, high: 4}}\n", ["mine.yaml:3", "trials"]),
    ],
)
def test_errors_name_file_line_and_key_on_one_line(text: str, parts: list[str]) -> None:
    with pytest.raises(StudyError) as caught:
        parse(textwrap.dedent(text), "mine.yaml")
    message = str(caught.value)
    assert "\n" not in message
    assert all(part in message for part in parts), message


def test_unknown_names_and_unreadable_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="did you mean 'nms_sweep'"):
        load("nms_swep")
    with pytest.raises(StudyError, match=r"absent\.yaml: cannot read"):
        load(str(tmp_path / "absent.yaml"))
    own = tmp_path / "own.yaml"
    own.write_text(GRID + "grid: {seed: [1]}\n")
    assert load(str(own))[0] == "own"


def test_a_laptop_has_substitutes_for_the_papers_settings() -> None:
    study = parse(
        GRID + "grid: {detector.backbone: [resnet50, resnet101], detector.stages: [1]}\n"
        "laptop: {detector.backbone: {resnet50: {detector.backbone_width: 0.35}}}\n",
        "mine.yaml",
    )
    assert isinstance(study, GridStudy)
    first, second = study.settings()
    assert study.substituted(first, "laptop") == {"detector.backbone_width": 0.35, "detector.stages": 1}
    assert study.substituted(first, "paper") == first
    assert study.substituted(second, "laptop") == second
    assert study.varied() == ["detector.backbone", "detector.stages"]
    assert study.counts("laptop") == [(2, 1)]


@pytest.mark.parametrize("name", catalogue())
def test_every_shipped_study_says_what_it_answers(name: str) -> None:
    study = load(name)[1]
    assert study.answers
    if name.startswith("table_"):
        assert [table.table for table in study.paper] == [f"{name}.csv"]


def test_a_study_is_judged_by_what_the_statistics_know() -> None:
    assert list(MEASURED) == list(METRICS)


def test_a_merged_row_may_say_again_what_it_takes_over() -> None:
    text = GRID + "rows:\n  - &a {seed: 1, detector.stages: 2}\n  - {<<: *a, detector.stages: 3}\n"
    study = parse(text, "mine.yaml")
    assert isinstance(study, GridStudy)
    assert study.rows[1] == {"seed": 1, "detector.stages": 3}


def test_a_range_is_of_whole_numbers_if_its_step_is_one_too() -> None:
    space = {"low: 0, high: 4": True, "low: 0, high: 4, step: 2": True, "low: 0, high: 1, step: 0.25": False}
    for written, is_whole in space.items():
        study = parse(SEARCH + f"space: {{detector.lambda_reg: {{{written}}}}}\n", "mine.yaml")
        assert isinstance(study, SearchStudy)
        assert study.space["detector.lambda_reg"].is_whole == is_whole


def test_a_multiple_is_of_what_the_base_says() -> None:
    base = Config().with_changes({"detector.fc_width": 600, "detector.score_thr": 0.1})
    changes = {"detector.fc_width": "0.25x", "detector.score_thr": "2x", "detector.weights": "2x", "seed": 3}
    assert resolve_multiples(changes, base) == {
        "detector.fc_width": 150,
        "detector.score_thr": 0.2,
        "detector.weights": "2x",
        "seed": 3,
    }


@pytest.mark.parametrize(
    ("written", "laptop", "paper"),
    [("2", 2, 2), ("{laptop: 3, paper: 2}", 3, 2), ("{laptop: 3}", 3, 1), (None, 1, 1)],
)
def test_replicates_are_for_both_profiles_or_one_by_one(written: str | None, laptop: int, paper: int) -> None:
    line = f"replicates: {written}\n" if written else ""
    study = parse(GRID + "grid: {detector.stages: [1, 2]}\n" + line, "mine.yaml")
    assert study.counts("laptop") == [(2, laptop)]
    assert study.counts("paper") == [(2, paper)]
    kept = yaml.safe_dump(study.model_dump(mode="json", exclude_defaults=True))
    assert parse(kept, "study.yaml") == study
