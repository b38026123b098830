"""Imports point down only: studies use drcnn, and drcnn knows nothing of Ray, MLflow or Optuna."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def imported(path: Path) -> set[str]:
    """The top-level packages that a module imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize("path", sorted((ROOT / "drcnn").rglob("*.py")), ids=lambda path: path.name)
def test_drcnn_knows_nothing_of_studies(path: Path) -> None:
    assert not imported(path) & {"ray", "mlflow", "optuna", "studies"}


@pytest.mark.parametrize("path", sorted((ROOT / "studies").rglob("*.py")), ids=lambda path: path.name)
def test_studies_import_no_tests(path: Path) -> None:
    assert "tests" not in imported(path)


def test_cluster_is_configuration_only() -> None:
    assert not list((ROOT / "cluster").rglob("*.py"))
