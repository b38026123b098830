"""What is known of the code where there is a git folder, and where there is none."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from studies.record import provenance

COMMIT = "mlflow.source.git.commit"


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with a change that is not committed."""
    folder = tmp_path / "checkout"
    for package in ("drcnn", "studies/catalog"):
        (folder / package).mkdir(parents=True)
    (folder / "drcnn/config.py").write_text("nms = 0.7\n")
    (folder / "studies/catalog/mine.yaml").write_text("title: mine\n")
    for command in (
        ("init", "--quiet"),
        ("add", "."),
        ("-c", "user.name=me", "-c", "user.email=me@here", "commit", "--quiet", "--message=first"),
    ):
        subprocess.run(["git", *command], cwd=folder, check=True)
    (folder / "drcnn/config.py").write_text("nms = 0.8\n")
    monkeypatch.setattr(provenance, "CHECKOUT", folder)
    return folder


def test_the_code_has_a_hash_of_its_own(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = provenance.tags()["drcnn.code"]
    (checkout / "drcnn/__pycache__").mkdir()
    (checkout / "drcnn/__pycache__/config.pyc").touch()
    (checkout / "README.md").touch()
    moved = shutil.copytree(checkout, checkout.with_name("moved"))
    monkeypatch.setattr(provenance, "CHECKOUT", moved)
    assert provenance.code() == before
    (moved / "studies/catalog/mine.yaml").write_text("title: other\n")
    changed = provenance.code()
    (moved / "studies/catalog/mine.yaml").rename(moved / "studies/catalog/other.yaml")
    assert len({before, changed, provenance.code()}) == 3


def test_commit_and_changes_go_along_to_a_cluster(checkout: Path) -> None:
    tags, diff = provenance.tags(), provenance.git_diff()
    assert len(tags[COMMIT]) == 40
    assert "+nms = 0.8" in diff
    assert provenance.keep() == tags[COMMIT]
    shutil.rmtree(checkout / ".git")
    assert provenance.tags() == tags
    assert provenance.git_diff() == diff


def test_what_was_kept_of_other_code_is_not_believed(checkout: Path) -> None:
    provenance.keep()
    shutil.rmtree(checkout / ".git")
    (checkout / "drcnn/config.py").write_text("nms = 0.9\n")
    assert set(provenance.tags()) == {"drcnn.code"}
    assert provenance.git_diff() == ""


def test_a_git_folder_knows_better_than_what_was_kept(checkout: Path) -> None:
    provenance.keep()
    me = ("-c", "user.name=me", "-c", "user.email=me@here")
    subprocess.run(["git", *me, "commit", "--quiet", "--all", "--message=second"], cwd=checkout, check=True)
    assert provenance.git_diff() == ""


def test_other_documentation_is_no_other_code(checkout: Path) -> None:
    before, commit = provenance.git_diff(), provenance.commit()
    (checkout / "README.md").write_text("other words\n")
    subprocess.run(["git", "add", "--all"], cwd=checkout, check=True)
    assert (provenance.git_diff(), provenance.commit()) == (before, commit)
