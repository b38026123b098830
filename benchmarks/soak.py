"""Soak test of resuming: a study whose processes are killed at random must end as if nobody had touched it.

The study of many short trials runs once undisturbed. Then it runs in another output folder, and every 15 to
30 seconds one of its processes is killed with signal 9: the command itself, the process of a trial, a worker
of Ray Train, Ray's raylet, or MLflow's server. The same command is given again until it ends with status 0.
All trials must have finished then, MLflow have one finished run for each, and every metric of every epoch be
that of the undisturbed study. Linux only. Run as ``python -m benchmarks.soak [--trials 40] [--seed 1]
[--workers 1] [--server] [--output DIR] [--json]``; exit status 1 if anything differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.mlflow_service import Server
from benchmarks.processes import Process, descendants, end
from benchmarks.soak_differences import EPOCHS, NAME, differences
from studies.record.tracking.addresses import default_uri

__all__ = ["Figures", "soak"]

ROOT = Path(__file__).resolve().parents[1]
# Seconds from one kill to the next.
SOONEST, LATEST = 15.0, 30.0
# The share of launches that are disturbed before a trial's process is there, too.
WHILE_IT_BEGINS = 0.2
# As small as a trial can be: seconds an epoch.
SETTINGS = {
    "training.epochs": EPOCHS,
    "training.milestones": "[]",
    "training.batch_size": 4,
    "data.train_images": 16,
    "data.val_images": 4,
    "data.test_images": 4,
    "detector.backbone_width": 0.25,
    "detector.fpn_channels": 16,
    "detector.fc_width": 32,
    "detector.rpn_pre_nms_train": 60,
    "detector.rpn_post_nms_train": 40,
    "detector.roi_samples": 16,
}
# What a process is, by what its command line holds; in the order in which they are looked for.
KINDS = {
    "worker": "ray::RayTrainWorker",
    "actor": "ray::ImplicitFunc",
    "raylet": "raylet/raylet",
    "driver": "run_study.py",
}


@dataclass(frozen=True)
class Figures:
    """What a soak test found.

    Attributes:
        trials: of the study.
        seed: of the kills.
        kills: by kind of process.
        launches: of the command, the last one included.
        undisturbed_minutes: of the study that nobody disturbed; ``minutes`` of the other.
        statuses: how many launches ended with each exit status; -9 was killed.
        differences: what is not as in the undisturbed study, a line each.
    """

    trials: int
    seed: int
    kills: dict[str, int]
    launches: int
    undisturbed_minutes: float
    minutes: float
    statuses: dict[str, int]
    differences: list[str]


def soak(trials: int, seed: int, workers: int, output: Path, *, has_server: bool) -> Figures:
    """Run the study undisturbed, and with processes killed.

    Args:
        trials: of the study.
        seed: of the kills.
        workers: of each trial; with two or more, Ray Train's workers are killed too.
        output: a folder for both studies.
        has_server: whether MLflow is a server, which is killed too.

    Raises:
        RuntimeError: the undisturbed study failed, or the other does not come to an end.
    """
    calm, disturbed = output / "calm", output / "disturbed"
    for folder in (calm, disturbed):
        folder.mkdir(parents=True)
        values = [round(1 + number / trials, 6) for number in range(trials)]
        (folder / f"{NAME}.yaml").write_text(
            f"title: Soak\nkind: grid\ngrid: {{detector.lambda_reg: {values}}}\n", encoding="utf-8"
        )
    began = time.monotonic()
    status = _launch(calm, workers, None, 0).wait()
    if status != 0:
        raise RuntimeError(f"the undisturbed study ended with status {status}; see {calm}/launch-0.log")
    calm_minutes = (time.monotonic() - began) / 60
    kills, statuses, began = Counter[str](), Counter[str](), time.monotonic()
    seen: set[Process] = set()
    with ExitStack() as stack:
        stack.callback(lambda: end(seen))
        server = Server(disturbed) if has_server else None
        if server is not None:
            stack.callback(server.stop)
            server.start()
            server.wait()
        choice = random.Random(seed)
        works = KINDS["worker" if workers > 1 else "actor"]
        while statuses["0"] == 0:
            if statuses.total() == 5 * trials:
                raise RuntimeError(f"not complete after {statuses.total()} launches; see {disturbed}")
            if server is not None:
                server.start()
            launch = _launch(disturbed, workers, server, statuses.total())
            statuses[str(_disturb(launch, choice, kills, seen, server, works=works))] += 1
        found = differences(calm, disturbed, trials, server.uri if server else default_uri(disturbed))
    minutes = (time.monotonic() - began) / 60
    return Figures(
        trials, seed, dict(kills), statuses.total(), calm_minutes, minutes, dict(statuses), list(found)
    )


def _launch(output: Path, workers: int, server: Server | None, number: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(ROOT / "studies" / "run_study.py"), str(output / f"{NAME}.yaml")]
    command += ["--output", str(output), "--workers-per-trial", str(workers)]
    command += ["--tracking-uri", server.uri] if server is not None else []
    command += ["--set", *(f"{key}={value}" for key, value in SETTINGS.items())]
    with (output / f"launch-{number}.log").open("wb") as log:
        return subprocess.Popen(command, cwd=output, stdout=log, stderr=log, start_new_session=True)


def _disturb(
    launch: subprocess.Popen[bytes],
    choice: random.Random,
    kills: Counter[str],
    seen: set[Process],
    server: Server | None,
    *,
    works: str,
) -> int:
    """Kill a process of a launch every now and then, until it ends; return its exit status.

    Counts in ``kills`` by kind, and adds to ``seen`` what it has started. A process whose command line holds
    ``works`` works on a trial.
    """
    # On a slow machine a launch may take longer than that to begin a trial: most are left to begin one.
    may_begin = choice.random() < WHILE_IT_BEGINS
    due = time.monotonic() + choice.uniform(SOONEST, LATEST)
    while launch.poll() is None:
        time.sleep(0.5)
        if server is not None:
            server.start()
        processes = descendants(launch.pid)
        seen.update(processes)
        if not may_begin and any(works in process.command for process in processes):
            may_begin, due = True, time.monotonic() + choice.uniform(SOONEST, LATEST)
        if not may_begin or time.monotonic() < due:
            continue
        by_kind = {kind: [p for p in processes if mark in p.command] for kind, mark in KINDS.items()}
        by_kind["driver"] = list(filter(None, [Process.of(launch.pid)]))
        if server is not None and server.process is not None:
            by_kind["server"] = list(filter(None, [Process.of(server.process.pid)]))
        kind = choice.choice(sorted(kind for kind, found in by_kind.items() if found))
        victim = choice.choice(by_kind[kind])
        with suppress(ProcessLookupError):
            os.kill(victim.pid, signal.SIGKILL)
            kills[kind] += 1
        due = time.monotonic() + choice.uniform(SOONEST, LATEST)
    # The next launch begins at once, as a person's would, whatever this one has left running.
    return launch.wait()


def main() -> int:
    """Print the figures; 1 if the disturbed study differs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1, help="of the kills")
    parser.add_argument("--workers", type=int, default=1, help="of each trial")
    parser.add_argument("--server", action="store_true", help="MLflow as a server, which is killed too")
    parser.add_argument("--output", type=Path, help="where to keep the studies (default: nowhere)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as scratch:
        output = (asked.output or Path(scratch)).resolve()
        found = soak(asked.trials, asked.seed, asked.workers, output, has_server=asked.server)
    print(json.dumps(asdict(found), indent=2) if asked.json else _text(found))
    return 1 if found.differences else 0


def _text(found: Figures) -> str:
    kills = ", ".join(f"{kind} {number}" for kind, number in sorted(found.kills.items())) or "none"
    statuses = ", ".join(f"{status}: {number}" for status, number in sorted(found.statuses.items()))
    lines = [
        f"{found.trials} trials, seed {found.seed}: {found.undisturbed_minutes:.1f} min undisturbed, "
        f"{found.minutes:.1f} min with {sum(found.kills.values())} kills ({kills})",
        f"{found.launches} launches, by exit status: {statuses}",
        *found.differences,
        f"{len(found.differences)} differences" if found.differences else "no difference",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
