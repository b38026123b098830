"""What CONTRIBUTING.md, README.md and the pre-commit checks say is what works."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from benchmarks import documented
from docs import architecture
from drcnn.data.prepare import PreparedData
from studies.definition.plan import Plan, expand, trained_models
from studies.definition.request import Request, resolve
from studies.definition.trial import Inputs

ROOT = Path(__file__).resolve().parents[1]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
DOCUMENTS = ("data", "design", "detector", "measured", "studies")
# Where an entry is added to drcnn/variants.py.
VARIANTS = "VARIANTS: dict[str, Variant] = {\n"


def example(language: str) -> str:
    """The one code block of a language."""
    (block,) = re.findall(rf"```{language}\n(.*?)```", CONTRIBUTING, re.DOTALL)
    return str(block)


def test_the_example_of_a_study_is_a_study(tmp_path: Path) -> None:
    path = tmp_path / "my_study.yaml"
    path.write_text(example("yaml"), encoding="utf-8")
    inputs = Inputs(lambda data: PreparedData("train", "val", None, ("0",), "f" * 16, ()))
    plan = Plan(*resolve(Request(str(path))), tmp_path, inputs)
    trials = expand(plan)
    assert len(trials) == 9, "three settings with three seeds"
    # The detector's own setting, 0.5, is its training; the other two are evaluations of the same detectors.
    assert len({(trial.model or trial).id for trial in trials}) == 3
    assert trained_models(trials) == []


def test_the_example_of_a_variant_touches_one_file(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "drcnn", tmp_path / "drcnn")
    path = tmp_path / "drcnn" / "variants.py"
    text = path.read_text(encoding="utf-8")
    assert text.count(VARIANTS) == 1
    path.write_text(text.replace(VARIANTS, VARIANTS + example("python")), encoding="utf-8")

    def parts(variant: str, *settings: str) -> dict[str, int]:
        assignments = [f"detector.variant={variant}", "detector.backbone=resnet50", *settings]
        done = subprocess.run(
            [sys.executable, "-m", "drcnn.cli", "complexity", "--json", "--set", *assignments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ValueError(done.stderr)
        counts: dict[str, int] = json.loads(done.stdout)
        return counts

    assert parts("shared_random") == parts("decoupled_shared"), "one trunk for both branches"
    with pytest.raises(ValueError, match=r"shared_random has at most 1 stage\(s\), got 2"):
        parts("shared_random", "detector.stages=2")


def test_pre_commit_runs_the_checks_of_ci() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0][
        "hooks"
    ]
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    checks = script[script.index("ruff format --check .") :]
    assert [hook["entry"] for hook in hooks] == [line for line in checks if not line.startswith("pytest")]


def test_the_figure_of_the_architecture_is_that_of_the_imports() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme == architecture.updated(readme), "run: python docs/architecture.py --write"


def test_the_measured_table_is_what_was_measured() -> None:
    figures = documented.kept()
    assert figures
    assert documented.table(list(figures.values())) in documented.PAGE.read_text(encoding="utf-8")


def test_files_that_the_documents_name_exist() -> None:
    for document in ("README.md", "CONTRIBUTING.md", *(f"docs/{name}.md" for name in DOCUMENTS)):
        text = (ROOT / document).read_text(encoding="utf-8")
        names = re.findall(r"`((?:drcnn|studies|tests|benchmarks|docs)/[\w/.]+\.(?:py|yaml|md|csv))`", text)
        links = re.findall(r"\]\((?!http)([\w/.-]+)", text)
        for name in names:
            assert (ROOT / name).exists(), f"{document} names {name}"
        for link in links:
            assert ((ROOT / document).parent / link).exists(), f"{document} links to {link}"
