"""Damaged study files, words of ``--set`` and configurations: one line that names the key, or a study."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st

from drcnn.assignments import parse_assignments
from drcnn.config import Config, ConfigError
from drcnn.data.annotations import DataError
from studies.definition.errors import StudyError
from studies.definition.overrides import Overrides, check_weights
from studies.definition.request import Request, resolve
from studies.definition.study import Study
from studies.definition.study_file import catalogue, load, parse
from tests.fuzz.mutations import EXTREMES, cases, fails_only_with, file_of, text_of, tree_of

CATALOGUE = {name: path.read_text(encoding="utf-8") for name, path in catalogue().items()}
SEARCH = """title: Mine
answers: what
kind: search
trials: 3
base: {detector.variant: decoupled_cascade}
space:
  detector.nms_reg: {low: 0.6, high: 0.9, step: 0.05}
  training.lr: {low: 0.001, high: 0.01, log: true}
  detector.fc_width: {choices: [512, 1024]}
first: [{detector.nms_reg: 0.7, training.lr: 0.005, detector.fc_width: 512}]
prune: {grace_epochs: 1, keep: 2}
confirm: {top: 2, seeds: 2, against: {detector.nms_reg: 0.7}}
laptop: {detector.fc_width: {512: {detector.fc_width: 0.5x}}}
paper: [{table: table_04.csv, note: none}]
"""
GRID = """title: Mine
kind: grid
rows: [{detector.stages: 2, detector.variant: decoupled_cascade}, {seed: 3}]
grid: {detector.nms_reg: [0.7, 0.8], training.schedule: [voc_12, coco_1x]}
replicates: {laptop: 2, paper: 1}
"""
FILES = [SEARCH, GRID, CATALOGUE["nms_sweep"], CATALOGUE["table_09"], CATALOGUE["pareto"]]
WORDS = [
    "detector.nms_reg=0.85", "training.milestones=[6, 8]", "detector.weights=none", "seed=1",
    "data.train_short_sides=[600, 700]", "data.split=0.7/0.15/0.15",
    "detector.stage_weights=[1, 0.5, 0.2, 0.1]",
]  # fmt: skip


# Nine lines that stand for 9 to the power of 9 values.
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join(['*' + old] * 9)}]\n" for old, new in pairwise("abcdefghi")
)


def use(study: Study) -> None:
    """What a launch makes of a study before it looks at data."""
    for profile, source in (("laptop", "digits"), ("paper", "voc:absent")):
        overrides = Overrides.resolve(study, profile, source, {})
        check_weights("mine", overrides)
        study.varied(profile)
        assert all(settings > 0 and seeds > 0 for settings, seeds in study.counts(profile))
        points = study.points() if study.kind == "search" else study.settings()
        for point in points[:20]:
            overrides.config(point, 1)


@cases
@given(content=st.sampled_from(FILES).flatmap(file_of))
def test_study_files(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with fails_only_with(StudyError, ConfigError):
        use(load(str(path))[1])


@cases
@given(tree=st.sampled_from(FILES).flatmap(lambda text: tree_of(yaml.safe_load(text))))
def test_study_files_with_other_values(tree: Any) -> None:
    with fails_only_with(StudyError, ConfigError):
        use(parse(yaml.safe_dump(tree), "mine.yaml"))


@cases
@given(word=st.sampled_from(WORDS).flatmap(text_of))
def test_words_of_set(word: str) -> None:
    with fails_only_with(ConfigError):
        changes = parse_assignments([word])
        config = Config().with_changes(changes)
        assert Config.from_yaml(config.to_yaml()) == config


@cases
@given(key=st.sampled_from([key for key, _ in Config().flat()]), value=st.sampled_from(EXTREMES))
def test_every_setting_with_every_extreme(key: str, value: Any) -> None:
    with fails_only_with(ConfigError):
        found = dict(Config().with_changes({key: value}).flat())[key]
        assert not isinstance(found, float) or math.isfinite(found)


@cases
@given(content=file_of(Config().to_yaml()))
def test_configurations(content: bytes) -> None:
    with fails_only_with(ConfigError):
        config = Config.from_yaml(content.decode(errors="replace"))
        assert Config.from_yaml(config.to_yaml()) == config


@cases
@given(word=text_of("voc:DIR+coco:DIR"), seeds=st.one_of(st.none(), st.integers(1, 10**30)))
def test_sources_of_a_request(word: str, seeds: int | None, tmp_path: Path) -> None:
    # This machine's own folders are no case: a whole disk takes a while.
    assume(not any(part and set(part) <= set("/.~") for part in re.split("[+:]", word)))
    request = Request("nms_sweep", tmp_path, source=word, seeds=seeds)
    with fails_only_with(StudyError, ConfigError, DataError):
        resolve(request)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, "more than 100,000 values once its aliases are written out"),
        ("a: &a [*a]\n", "more than 100,000 values"),
        ("%YAML 9.9\n---\na: 1\n", "not YAML"),
        ("a: !!python/object/apply:os.system [echo]\n", "could not determine a constructor"),
        ("a: !!timestamp x\n", "not of its kind"),
        ("a: 2001-99-99\n", "not of its kind"),
        ('title: "\\e[2J"\n', "holds control characters"),
        (f"a: {'9' * 200}\n", "is a number of 200 digits"),
        ("[" * 40 + "]" * 40, "is nested 40 deep"),
        ("[" * 100_000, "mine.yaml"),
    ],
    ids=["aliases", "itself", "version", "python", "tag", "date", "escape", "number", "nested", "deep"],
)  # fmt: skip
def test_what_yaml_must_not_do(text: str, message: str) -> None:
    with pytest.raises(StudyError, match=message) as caught:
        parse(text, "mine.yaml")
    assert "\n" not in str(caught.value)


def test_a_product_that_nobody_trains_is_refused() -> None:
    keys = [key for key, value in Config().flat() if type(value) is int][:9]
    grid = ", ".join(f"{key}: [1, 2, 3, 4]" for key in keys)
    with pytest.raises(StudyError, match=r"mine\.yaml:3: grid.*expected at most"):
        parse(f"title: t\nkind: grid\ngrid: {{{grid}}}\n", "mine.yaml")
