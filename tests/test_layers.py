"""Imports point down only: from studies to drcnn, and between rooms as docs/design.md draws them."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {"ray", "mlflow", "optuna", "torch", "torchvision"}
# Each room, and the rooms right below it; what lies below those may be imported as well.
BELOW = {
    "execution": {"report", "search", "worker"},
    "report": {"analysis"},
    "worker": {"resources"},
    "resources": {"transfer"},
    "search": {"record"},
    "transfer": {"record"},
    "analysis": {"record"},
    "record": {"definition"},
    "definition": set[str](),
    "machines": set[str](),
}
ROOMS = sorted(BELOW)
MOST_MODULES = 11
MOST_LINES = 300


def below(room: str) -> set[str]:
    """The rooms that a room may import."""
    return BELOW[room].union(*map(below, BELOW[room]))


def imported(path: Path) -> Iterator[str]:
    """The modules that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def packages(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imported(path)}


@pytest.mark.parametrize("path", sorted((ROOT / "drcnn").rglob("*.py")), ids=lambda path: path.name)
def test_drcnn_knows_nothing_of_studies(path: Path) -> None:
    assert not packages(path) & {"ray", "mlflow", "optuna", "studies", "benchmarks", "tests"}


@pytest.mark.parametrize("path", sorted((ROOT / "studies").rglob("*.py")), ids=lambda path: path.name)
def test_studies_import_neither_tests_nor_benchmarks(path: Path) -> None:
    assert not packages(path) & {"tests", "benchmarks"}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_rooms_below_it(room: str) -> None:
    allowed = {room, *below(room)}
    for path in (ROOT / "studies" / room).rglob("*.py"):
        rooms = {
            name.split(".")[1]
            for name in imported(path)
            if name.startswith("studies.") and name.split(".")[1] in BELOW
        }
        assert rooms <= allowed, f"{path.name} imports {rooms - allowed}, which {room} must not"


def test_modules_lie_in_rooms() -> None:
    assert {path.name for path in (ROOT / "studies").glob("*.py")} == {"__init__.py", "run_study.py"}
    rooms = {path.parent.name for path in (ROOT / "studies").glob("*/__init__.py")}
    assert rooms == set(ROOMS)


@pytest.mark.parametrize("path", sorted((ROOT / "studies").rglob("*.py")), ids=lambda path: path.name)
def test_a_module_fits_in_a_few_screens(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_has_few_modules(room: str) -> None:
    assert len(list((ROOT / "studies" / room).glob("[a-z]*.py"))) <= MOST_MODULES


def loaded_by(code: str) -> set[str]:
    """The heavy packages that a fresh Python has loaded after running this code."""
    code = f"import sys\n{code}\nprint()\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stdout.splitlines()[-1].split()} & HEAVY


def test_definition_loads_nothing_heavy() -> None:
    modules = [path.stem for path in (ROOT / "studies" / "definition").glob("[a-z]*.py")]
    assert loaded_by("\n".join(f"import studies.definition.{name}" for name in modules)) == set()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--list"],
        ["--help"],
        ["report", "--help"],
        ["nms_swep"],
        ["nms_sweep", "--seeds", "none"],
        ["nms_sweep", "--set", "detector.nms_tst=0.7"],
        ["nms_sweep", "--set", "training.epochs=-1"],
        ["nms_sweep", "--data", "imagenet"],
        ["table_08", "--profile", "paper", "--data", "coco:absent"],
        ["nms_sweep", "--workers-per-trial", "10000"],
    ],
    ids=" ".join,
)
def test_help_and_bad_input_load_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import contextlib\nfrom studies.run_study import main\n"
        f"with contextlib.suppress(SystemExit):\n    main({arguments!r})"
    )
    assert loaded_by(code) == set()


def test_a_launch_does_not_load_torchvision() -> None:
    """It takes seconds, and only trials need it: they run in processes of their own."""
    modules = [
        "studies.execution.launch",
        "studies.execution.tuning",
        "studies.record.tracking.launch_run",
        "studies.report.report",
        "studies.resources.memory",
        "drcnn.engine.required_start",
    ]
    assert "torchvision" not in loaded_by("\n".join(f"import {name}" for name in modules))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["train", "--help"],
        ["settings", "nms"],
        ["trian"],
        ["train", "--set", "detector.nms_tst=0.7"],
        ["train", "--set", "training.epochs=-1"],
        ["train", "--data", "no-such-folder"],
        ["train", "--profile", "paper"],
        ["train", "--from", "no-such-model"],
        ["evaluate", "no-such-model"],
        ["predict", "no-such-model", "no-such-picture", "--output", "found"],
        ["export", "no-such-model", "--output", "detector.txt"],
        ["data", "check", "no-such-folder"],
        ["data", "show", "no-such-folder"],
        ["data", "convert", "no-such-folder", "--output", "new"],
    ],
    ids=" ".join,
)
def test_help_and_bad_input_of_drcnn_load_no_torch(arguments: list[str], tmp_path: Path) -> None:
    """They end in under a second."""
    code = (
        f"import contextlib, os\nos.chdir({str(tmp_path)!r})\nfrom drcnn.cli import main\n"
        f"with contextlib.suppress(SystemExit):\n    status = main({arguments!r})\n"
        f"    assert status == {0 if 'settings' in arguments else 2}, status"
    )
    assert loaded_by(code) & {"torch", "torchvision"} == set()


def test_cluster_is_configuration_only() -> None:
    assert not list((ROOT / "cluster").rglob("*.py"))
