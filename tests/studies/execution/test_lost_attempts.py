"""Processes that are stopped, killed or diverge, and what a launch makes of them; all real."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import optuna
import pytest
from launch_helpers import Launch, results, runs, steps, write_study
from study_helpers import assignments

from drcnn.engine.record import read_record

ONE = "title: Mine\nkind: grid\ngrid: {detector.nms_reg: [0.7]}\n"
GROUP = ("--workers-per-trial", "2", "--max-concurrent", "1")


class Impatient(Launch):
    """A launch whose trials may be silent for seconds only."""

    program = (
        "-c",
        "import sys\nfrom dataclasses import replace\nfrom studies.execution import tuning\n"
        "from studies.worker.watch import Patience\nmade = tuning._job\n"
        "tuning._job = lambda *given, **more: replace(made(*given, **more), patience=Patience(8, 60))\n"
        "from studies.run_study import main\nsys.exit(main(sys.argv[1:]))",
    )


def workers(output: Path) -> list[int]:
    """The processes that work on a trial now, by rank: their companions say so in their arguments."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if len(words) > 6 and words[2].endswith("companion.py") and words[6].startswith(str(output)):
            found[words[6]] = int(words[3])
    return [found[note] for note in sorted(found)]


def epochs(output: Path) -> int:
    return max((len(read_record(folder).history) for folder in output.glob("trials/*")), default=0)


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.parametrize("group", [(), GROUP], ids=["one", "group"])
def test_a_stopped_worker_is_named_and_its_trial_goes_on(output: Path, group: tuple[str, ...]) -> None:
    launch = Impatient(output, write_study(output, ONE), *group, "--set", *assignments(training__epochs=12))
    launch.wait_until(lambda: epochs(output) >= 2)
    stopped = workers(output)[-1]
    os.kill(stopped, signal.SIGSTOP)
    status, out, err = launch.end()
    assert status == 0, err
    assert f"its process {stopped} was stopped (SIGSTOP) on " in out
    assert "tried again (2 of 3)" in out
    (note,) = output.glob(f"trials/*/killed-0-{1 if group else 0}.txt")
    assert "Current thread" in note.read_text() or "Thread 0x" in note.read_text()
    _, (child,) = runs(output, "mine")
    assert steps(output, child) == list(range(1, 13))


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.parametrize("group", [(), GROUP], ids=["one", "group"])
def test_attempts_have_one_limit_and_the_last_reason_is_kept(output: Path, group: tuple[str, ...]) -> None:
    launch = Launch(output, write_study(output, ONE), *group, "--set", *assignments(training__epochs=5000))
    killed: set[int] = set()
    limit = time.monotonic() + 250
    while launch.process.poll() is None and time.monotonic() < limit:
        for worker in workers(output)[-1:]:
            if worker not in killed:
                killed.add(worker)
                os.kill(worker, signal.SIGKILL)
        time.sleep(0.2)
    status, out, err = launch.end()
    assert status == 1, err
    assert len(killed) == 3
    (folder,) = output.glob("trials/*")
    error = read_record(folder).error or ""
    assert "was killed or crashed" in error
    assert "(attempt 3 of 3)" in error
    assert out.count("tried again") == 2


@pytest.mark.faults
@pytest.mark.slow
def test_a_diverging_group_ends_at_once_and_optuna_is_told(output: Path) -> None:
    study = write_study(
        output,
        "title: Mine\nkind: search\ntrials: 1\n"
        "base: {training.clip_norm: null, training.warmup_iterations: 0}\n"
        "space: {training.lr: {low: 1.0e+29, high: 1.0e+30}}\n",
    )
    settings = assignments(training__epochs=2)
    status, out, err = Launch(output, study, *GROUP, "--set", *settings).end()
    assert status == 1, err
    assert "tried again" not in out
    (folder,) = output.glob("trials/*")
    error = read_record(folder).error or ""
    assert error.startswith("TrainingDiverged: ")
    assert "not finite in epoch 1 at step " in error
    storage = f"sqlite:///{output}/mine/optuna.db"
    (summary,) = optuna.get_all_study_summaries(storage)
    found = optuna.load_study(study_name=summary.study_name, storage=storage).trials
    assert [trial.state for trial in found] == [optuna.trial.TrialState.FAIL]


@pytest.mark.faults
@pytest.mark.slow
def test_a_closed_terminal_ends_a_study_in_order(output: Path) -> None:
    launch = Launch(output, write_study(output, ONE), "--set", *assignments(training__epochs=500))
    launch.wait_until(lambda: epochs(output) >= 2)
    os.killpg(launch.process.pid, signal.SIGHUP)
    status, _, err = launch.end()
    assert status == 130, err
    assert "run the same command again to resume" in err
    assert {run.info.status for group in runs(output, "mine") for run in group} == {"KILLED"}
    assert not results(output)
