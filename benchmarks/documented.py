"""Measure again what the documentation says: the table of docs/measured.md, with commit, date and machine.

    python -m benchmarks.documented nms_sweep table_04 search   # these, in this order
    python -m benchmarks.documented                             # all, some 50 minutes on 2 cores

Each figure is kept in docs/measured.json as soon as it is measured, and the table is written anew from it;
figures that are not asked for stay as they are, with the commit that they were measured at. Trials go to
``--output``, a new folder unless it is given: finished ones are reused, which makes a study's time untrue, so
such a time is not kept.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

import torch

__all__ = ["FIGURES", "PAGE", "Figure", "kept", "table"]

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/measured.md"
KEPT = ROOT / "docs/measured.json"
BEGIN, END = "<!-- python -m benchmarks.documented -->", "<!-- until here -->"


@dataclass(frozen=True)
class Figure:
    """One measurement.

    Attributes:
        name: what was measured.
        command: as a reader types it.
        said: what came out, as Markdown.
        minutes: how long the command took; none where earlier work was reused.
        commit: of the code, with "+" where files were changed since.
        day: as 2026-11-26.
        machine: what it ran on.
    """

    name: str
    command: str
    said: str
    minutes: float | None
    commit: str
    day: str
    machine: str


def _study(name: str, output: Path) -> tuple[str, str, bool]:
    """Run a study of the catalogue; its answer, in the report's own words."""
    command = f"python studies/run_study.py {name}"
    printed = _run(["studies/run_study.py", name, "--output", str(output)])
    counts = _counts(printed)
    report = (output / name / "report.md").read_text(encoding="utf-8")
    answer = next(line for line in report.splitlines() if line.startswith("> "))
    return command, f"{counts}. {answer[2:]}", " 0 reused" in counts


def _counts(printed: str) -> str:
    """The line of a launch that says how many trials it trained, evaluated and reused."""
    return next(line for line in printed.splitlines() if re.match(r"\d+ trained, ", line))


def _smoke(name: str, output: Path) -> tuple[str, str, bool]:
    printed = _run(["studies/run_study.py", "nms_sweep", "--smoke", "--output", str(output / "smoke")])
    counts = _counts(printed)
    return "python studies/run_study.py nms_sweep --smoke", counts, " 0 reused" in counts


def _calibration(name: str, output: Path) -> tuple[str, str, bool]:
    """Of all halves of twice ten trainings, the share that is falsely called different, by metric."""
    command = "python -m benchmarks.calibration --output runs --study ten_seeds"
    _run(["studies/run_study.py", "benchmarks/ten_seeds.yaml", "--output", str(output)])
    calibration = ["-m", "benchmarks.calibration", "--study", "ten_seeds", "--json"]
    settings = json.loads(_run([*calibration, "--output", str(output)]))
    shares = defaultdict(list)
    for rows in settings.values():
        for row in rows:
            if 2 * row["size"] == row["trainings"]:
                shares[row["metric"]].append(row["significant"])
    said = ", ".join(f"{metric} {100 * statistics.mean(each):.1f} %" for metric, each in shares.items())
    return command, f"halves of one setting's seeds called different (5 % are right): {said}", False


def _speed(name: str, output: Path) -> tuple[str, str, bool]:
    printed = _run(
        ["-m", "drcnn.cli", "bench", "--repeats", "7", "--json", "--output", str(output / "bench")]
    )
    said = "; ".join(
        f"`{detector}` {own['train']['of_torchvision']:.2f} and {own['inference']['of_torchvision']:.2f}"
        for detector, own in json.loads(printed.splitlines()[-1])["detectors"].items()
        if detector != "torchvision"
    )
    return "drcnn bench --repeats 7", f"of torchvision's time, training step and inference: {said}", True


FIGURES: dict[str, Callable[[str, Path], tuple[str, str, bool]]] = {
    "smoke": _smoke,
    "nms_sweep": _study,
    "table_04": _study,
    "search": _study,
    "calibration": _calibration,
    "speed": _speed,
}


def table(figures: list[Figure]) -> str:
    """Return the figures as a table of Markdown."""
    head = ["| command | what came out | minutes | commit, day, machine |", "| :-- | :-- | --: | :-- |"]
    rows = [
        f"| `{each.command}` | {each.said} | {'' if each.minutes is None else f'{each.minutes:.1f}'} | "
        f"{each.commit}, {each.day}, {each.machine} |"
        for each in figures
    ]
    return "\n".join([*head, *rows])


def _run(arguments: list[str]) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout


def _commit() -> str:
    git = ["git", "-C", str(ROOT)]
    commit = subprocess.check_output([*git, "rev-parse", "--short", "HEAD"], text=True).strip()
    changed = subprocess.check_output([*git, "status", "--porcelain", "drcnn", "studies"], text=True)
    return f"{commit}{'+' if changed else ''}"


def _machine() -> str:
    processor = platform.processor() or platform.machine()
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    processor = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), processor)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{os.cpu_count()} cores of {processor}, {device}, torch {torch.__version__.partition('+')[0]}"


def kept() -> dict[str, Figure]:
    """The figures that were measured, by name, in the order of the table."""
    content = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else []
    return {each["name"]: Figure(**each) for each in content}


def _keep(figure: Figure) -> None:
    figures = kept() | {figure.name: figure}
    ordered = [figures[name] for name in FIGURES if name in figures]
    KEPT.write_text(json.dumps([asdict(each) for each in ordered], indent=1) + "\n", encoding="utf-8")
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n{table(ordered)}\n{END}{after}", encoding="utf-8")


def main() -> None:
    """Measure what the command line names, and write it down."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.documented", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(FIGURES))
    parser.add_argument("--output", type=Path, help="folder of the trials")
    options = parser.parse_args()
    if unknown := set(options.names) - FIGURES.keys():
        parser.error(f"{', '.join(sorted(unknown))}: expected some of {', '.join(FIGURES)}")
    output = (options.output or Path(tempfile.mkdtemp(prefix="drcnn-documented-"))).absolute()
    for name in options.names or FIGURES:
        began = time.monotonic()
        command, said, is_whole = FIGURES[name](name, output)
        minutes = (time.monotonic() - began) / 60 if is_whole else None
        _keep(Figure(name, command, said, minutes, _commit(), date.today().isoformat(), _machine()))
        print(f"{name}: {said}", flush=True)


if __name__ == "__main__":
    main()
