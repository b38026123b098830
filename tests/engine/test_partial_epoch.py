"""Training that is saved within an epoch, and goes on from there as if nothing had been."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from drcnn.config import Config
from drcnn.data.prepare import PreparedData
from drcnn.detector.detector import DecoupledRCNN
from drcnn.engine import train as loop
from drcnn.engine.checkpoint import TrainingState, read_state, save
from drcnn.engine.errors import TrainingInterrupted
from drcnn.engine.partial_epoch import PartialEpoch
from drcnn.engine.record import read_record
from drcnn.engine.run_options import RunOptions
from drcnn.engine.train import fit

from .test_train import StopAfter, comparable, start_two

# Five steps an epoch: eight images, of two shapes that are not mixed.
FIVE_STEPS = {"training.epochs": 2, "training.batch_size": 2, "training.warmup_iterations": 3}


def nobody() -> bool:
    return False


def after(questions: int) -> Callable[[], bool]:
    """A machine that has notice when it is asked so often: after as many steps, on a CPU."""
    asked = []

    def leaves() -> bool:
        asked.append(None)
        return len(asked) == questions

    return leaves


def train(
    config: Config, data: PreparedData, folder: Path, leaves: Callable[[], bool] = nobody
) -> list[dict[str, float]]:
    report = StopAfter()
    fit(config, data, folder, report=report, options=RunOptions(threads=1, leaves=leaves))
    return report.reports


def same_tensors(one: Path, other: Path) -> bool:
    first, second = (load_file(folder / "last.safetensors") for folder in (one, other))
    return set(first) == set(second) and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_an_interrupted_epoch_goes_on_to_the_same_weights_and_figures(
    norm: str, tiny_config: Config, tiny_data: PreparedData, tmp_path: Path
) -> None:
    config = tiny_config.with_changes({**FIVE_STEPS, "detector.norm": norm})
    undisturbed = train(config, tiny_data, tmp_path / "undisturbed")
    folder, reports = tmp_path / "interrupted", []
    for notice, (epoch, step) in ((3, (0, 3)), (3, (1, 1)), (4, (1, 5))):
        with pytest.raises(TrainingInterrupted, match=f"saved in epoch {epoch + 1} at step {step} of 5"):
            reports += train(config, tiny_data, folder, after(notice))
        state = read_state(folder / "last.safetensors")
        assert (state.epoch, state.step) == (epoch, step)
        assert not read_record(folder).is_terminal
        assert state.seconds > 0
    assert not any(path.name == "result.json" for path in folder.iterdir())
    train(config, tiny_data, folder)
    record = read_record(folder)
    assert record.is_finished
    assert comparable(list(record.history)) == comparable(undisturbed)
    assert same_tensors(folder, tmp_path / "undisturbed")
    assert read_state(folder / "last.safetensors").step == 0
    assert record.metrics["perf/epoch_seconds"] > 0


def test_a_checkpoint_is_due_by_the_clock_and_a_kill_loses_only_what_came_after(
    tiny_config: Config, tiny_data: PreparedData, tmp_path: Path
) -> None:
    config = tiny_config.with_changes(FIVE_STEPS)
    undisturbed = train(config, tiny_data, tmp_path / "undisturbed")
    often = config.with_changes({"training.checkpoint_minutes": 1e-6})
    steps, saved, folder = [], [], tmp_path / "killed"

    def step(epoch: int, number: int, of: int) -> None:
        steps.append((epoch, number))
        if (epoch, number) == (2, 3) and len(steps) == 5 + 3:
            raise KeyboardInterrupt

    def run() -> None:
        options = RunOptions(threads=1)
        fit(
            often,
            tiny_data,
            folder,
            report=StopAfter(),
            options=options,
            step=step,
            saved=lambda: saved.append(1),
        )

    with pytest.raises(KeyboardInterrupt):
        run()
    assert (read_state(folder / "last.safetensors").epoch, len(saved)) == (1, 5 + 2)
    run()
    # The killed step is done again, no other.
    assert steps[7:] == [(2, 3), (2, 3), (2, 4), (2, 5)]
    assert same_tensors(folder, tmp_path / "undisturbed")
    assert comparable(list(read_record(folder).history)) == comparable(undisturbed)


def test_what_ends_within_an_evaluation_loses_nothing_of_the_training(
    tiny_config: Config, tiny_data: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config.with_changes(FIVE_STEPS)
    undisturbed = train(config, tiny_data, tmp_path / "undisturbed")
    steps, saved, folder = [], [], tmp_path / "killed"
    evaluate_split, tables = loop.evaluate_split, []

    def killed_at_first(detector: DecoupledRCNN, table: str, *others: Any) -> Any:
        tables.append(table)
        # In each epoch, and before the test split as well.
        if len(tables) in (1, 3, 5):
            raise KeyboardInterrupt
        return evaluate_split(detector, table, *others)

    def run() -> None:
        fit(
            config,
            tiny_data,
            folder,
            report=StopAfter(),
            options=RunOptions(threads=1),
            step=lambda epoch, number, of: steps.append((epoch, number)),
            saved=lambda: saved.append((read_state(folder / "last.safetensors").step, len(steps))),
        )

    monkeypatch.setattr(loop, "evaluate_split", killed_at_first)
    for epoch in (0, 1, 1):
        with pytest.raises(KeyboardInterrupt):
            run()
        state = read_state(folder / "last.safetensors")
        assert (state.epoch, state.step) == (epoch, 5)
    run()
    assert tables == [tiny_data.val] * 4 + [tiny_data.test, tiny_data.val, tiny_data.test]
    assert steps == [(epoch, number) for epoch in (1, 2) for number in range(1, 6)]
    assert saved == [(5, 5), (5, 10)]
    assert same_tensors(folder, tmp_path / "undisturbed")
    assert comparable(list(read_record(folder).history)) == comparable(undisturbed)


def test_without_the_setting_an_epoch_is_saved_only_before_it_is_evaluated(
    tiny_config: Config, tiny_data: PreparedData, tmp_path: Path
) -> None:
    saved: list[int] = []
    config = tiny_config.with_changes({**FIVE_STEPS, "evaluation.every": None})
    fit(
        config,
        tiny_data,
        tmp_path,
        report=StopAfter(),
        options=RunOptions(threads=1),
        saved=lambda: saved.append(read_state(tmp_path / "last.safetensors").epoch),
    )
    assert saved == [1]


def _worker(
    rank: int, port: int, config: Config, data: PreparedData, folder: Path, *, interrupts: bool
) -> None:
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    if interrupts:
        # Only the second one's machine has notice: both save and end.
        leaves = after(3) if rank == 1 else nobody
        with pytest.raises(TrainingInterrupted, match="saved in epoch 1 at step 3 of 5"):
            train(config, data, folder, leaves)
    else:
        history = train(config, data, folder)
        (folder / f"rank{rank}.json").write_text(json.dumps(comparable(history)))
    dist.destroy_process_group()


def _interrupted(rank: int, port: int, config: Config, data: PreparedData, folder: Path) -> None:
    _worker(rank, port, config, data, folder, interrupts=True)


def _undisturbed(rank: int, port: int, config: Config, data: PreparedData, folder: Path) -> None:
    _worker(rank, port, config, data, folder, interrupts=False)


def test_two_workers_end_together_and_go_on_to_the_same_weights_and_figures(
    tiny_config: Config, tiny_data: PreparedData, tmp_path: Path
) -> None:
    config = tiny_config.with_changes(
        {**FIVE_STEPS, "training.epochs": 1, "detector.norm": "batch", "training.milestones": ()}
    )
    one, two = tmp_path / "undisturbed", tmp_path / "interrupted"
    one.mkdir(), two.mkdir()
    start_two(_undisturbed, config, tiny_data, one)
    start_two(_interrupted, config, tiny_data, two)
    assert len(read_state(two / "last.safetensors").sums) == 2
    start_two(_undisturbed, config, tiny_data, two)
    assert (one / "rank0.json").read_text() == (two / "rank1.json").read_text()
    assert same_tensors(one, two)


def test_another_number_of_workers_keeps_the_sums(tmp_path: Path) -> None:
    state = TrainingState("", ["a"], step=2, sums=[{"loss": 1.5}, {"loss": 0.1}], seconds=7.0)
    save(tmp_path / "last.safetensors", torch.nn.Linear(1, 1), state)
    epoch = PartialEpoch(read_state(tmp_path / "last.safetensors"), torch.device("cpu"))
    epoch.add({"loss": torch.tensor(0.4)})
    assert epoch.means(4)["loss"] == pytest.approx((1.5 + 0.1 + 0.4) / 4)
    assert 7 < epoch.seconds() < 1000
