from __future__ import annotations

import json
import math
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file

from drcnn.config import Config, ConfigError
from drcnn.data.annotations import Annotations
from drcnn.data.prepare import PreparedData
from drcnn.detector.backbones import build_body
from drcnn.detector.detector import DecoupledRCNN
from drcnn.engine import evaluate
from drcnn.engine.checkpoint import load_detector, read_state
from drcnn.engine.errors import CheckpointError, TrainingDiverged
from drcnn.engine.evaluate import coco_metrics, evaluate_split, voc07_metrics
from drcnn.engine.record import read_record
from drcnn.engine.run_options import RunOptions
from drcnn.engine.schedule import learning_rate
from drcnn.engine.train import fit
from tests.damage import Filler, small_disk

ONE_THREAD = RunOptions(threads=1)


class StopAfter:
    """Collect reports; raise in the middle, as a killed process would stop."""

    def __init__(self, epochs: int = 99) -> None:
        self.epochs, self.reports = epochs, []

    def __call__(self, metrics: dict[str, float]) -> None:
        self.reports.append(metrics)
        if len(self.reports) == self.epochs:
            raise KeyboardInterrupt


def comparable(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{k: v for k, v in entry.items() if not k.startswith("perf/")} for entry in history]


def run(config: Config, data: PreparedData, folder: Path) -> list[dict[str, float]]:
    report = StopAfter()
    fit(config, data, folder, report=report, options=ONE_THREAD)
    return report.reports


@pytest.fixture(scope="module")
def finished(tiny_config: Config, tiny_data: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    run(tiny_config, tiny_data, folder)
    return folder


def test_a_trial_leaves_its_whole_record(
    finished: Path, tiny_config: Config, tiny_data: PreparedData
) -> None:
    assert Config.from_yaml((finished / "config.yaml").read_text()) == tiny_config
    result = json.loads((finished / "result.json").read_text())
    assert result["status"] == "finished"
    assert [entry["epoch"] for entry in result["history"]] == [1, 2, 3]
    assert result["metrics"] == result["history"][-1]
    assert {"val/AP", "test/AP", "test/AP90", "train/loss_cls", "perf/images_per_s"} <= set(result["metrics"])
    assert 0 <= result["metrics"]["train/unfilled_cls"] <= 1
    state = read_state(finished / "last.safetensors")
    assert (state.epoch, state.history) == (3, result["history"])
    # The stored detections give the reported figures again.
    metrics = coco_metrics(Annotations.load(tiny_data.test), pq.read_table(finished / "detections.parquet"))
    assert metrics.summary["AP"] == result["metrics"]["test/AP"]
    assert not [path.name for path in finished.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("stop_after", [1, 2])
def test_resuming_gives_the_same_curve(
    stop_after: int, finished: Path, tiny_config: Config, tiny_data: PreparedData, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        fit(tiny_config, tiny_data, tmp_path, report=StopAfter(stop_after), options=ONE_THREAD)
    reports = run(tiny_config, tiny_data, tmp_path)
    assert [entry["epoch"] for entry in reports] == list(range(stop_after + 1, 4))
    unbroken = read_state(finished / "last.safetensors").history
    assert comparable(read_state(tmp_path / "last.safetensors").history) == comparable(unbroken)
    assert (tmp_path / "detections.parquet").read_bytes() == (finished / "detections.parquet").read_bytes()


def test_killed_before_the_result_only_the_result_is_written(
    finished: Path, tiny_config: Config, tiny_data: PreparedData, tmp_path: Path
) -> None:
    for name in ("last.safetensors", "detections.parquet"):
        (tmp_path / name).write_bytes((finished / name).read_bytes())
    assert run(tiny_config, tiny_data, tmp_path) == []
    assert json.loads((tmp_path / "result.json").read_text()) == json.loads(
        (finished / "result.json").read_text()
    )


def test_going_on_needs_no_pretrained_weights(
    tiny_config: Config, tiny_data: PreparedData, tmp_path: Path
) -> None:
    weights = tmp_path / "weights.safetensors"
    body = build_body("mobilenet_v2", width=0.25, norm=tiny_config.detector.norm)
    save_file(body.state_dict(), weights)
    config = tiny_config.with_changes({"detector.weights": str(weights)})
    unbroken = run(config, tiny_data, tmp_path / "unbroken")
    with pytest.raises(KeyboardInterrupt):
        fit(config, tiny_data, tmp_path / "broken", report=StopAfter(1), options=ONE_THREAD)
    weights.unlink()
    run(config, tiny_data, tmp_path / "broken")
    history = read_state(tmp_path / "broken" / "last.safetensors").history
    assert comparable(history) == comparable(unbroken)


def test_val_is_looked_at_as_often_as_asked_and_test_once(
    tiny_config: Config, tiny_data: PreparedData, tmp_path: Path
) -> None:
    def splits(metrics: dict[str, float]) -> set[str]:
        return {name.partition("/")[0] for name in metrics} & {"val", "test"}

    for every, expected in ((1, [{"val"}, {"val"}]), (2, [set(), {"val"}]), (None, [set(), set()])):
        history = run(tiny_config.with_changes({"evaluation.every": every}), tiny_data, tmp_path / str(every))
        assert [splits(epoch) for epoch in history] == [*expected, {"val", "test"}]
    first, *others = (comparable(run_again) for run_again in map(last_epochs, tmp_path.iterdir()))
    assert all(other == first for other in others), "looking changes nothing"


def last_epochs(folder: Path) -> list[dict[str, float]]:
    return read_state(folder / "last.safetensors").history[-1:]


def test_without_a_test_split_val_is_judged(
    finished: Path, tiny_config: Config, tiny_data: PreparedData, tmp_path: Path
) -> None:
    (*_, last) = run(tiny_config, replace(tiny_data, test=None), tmp_path)
    assert not [name for name in last if name.startswith("test/")]
    metrics = coco_metrics(Annotations.load(tiny_data.val), pq.read_table(tmp_path / "detections.parquet"))
    assert metrics.summary["AP"] == last["val/AP"] == last_epochs(finished)[0]["val/AP"]
    assert read_state(tmp_path / "last.safetensors").per_class == metrics.per_class


def test_a_finished_trial_keeps_its_model_and_no_momentum(
    finished: Path, tiny_config: Config, tiny_data: PreparedData, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        fit(tiny_config, tiny_data, tmp_path, report=StopAfter(1), options=ONE_THREAD)
    begun, ended = (set(load_file(folder / "last.safetensors")) for folder in (tmp_path, finished))
    assert {name.partition(".")[0] for name in begun} == {"model", "optimizer"}
    assert ended == {name for name in begun if name.startswith("model.")}


def test_neither_the_batch_nor_the_precision_of_training_moves_the_ruler(
    finished: Path, tiny_config: Config, tiny_data: PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    def detections(**changes: object) -> dict[str, np.ndarray]:
        config = tiny_config.with_changes({key.replace("__", "."): value for key, value in changes.items()})
        detector, _ = load_detector(finished / "last.safetensors", config=config.detector)
        assert tiny_data.test is not None
        table = evaluate_split(detector, tiny_data.test, config, ONE_THREAD)[1]
        return {name: np.asarray(table[name].to_pylist()) for name in table.column_names}

    usual = detections()
    assert len(usual["score"]) > 0
    amp = detections(training__amp="bf16", training__batch_size=1)
    assert all(np.array_equal(usual[name], amp[name]) for name in usual)
    lower = detections(evaluation__amp="bf16")
    assert not np.array_equal(usual["score"][:4], lower["score"][:4])
    monkeypatch.setattr(evaluate, "BATCH", 1)
    alone = detections()
    for name in usual:
        if usual[name].dtype.kind == "f":
            np.testing.assert_allclose(alone[name], usual[name], atol=1e-3)
        else:
            assert np.array_equal(alone[name], usual[name])


def test_a_trial_records_with_what_it_was_made(
    tiny_config: Config, tiny_data: PreparedData, tmp_path: Path
) -> None:
    first = RunOptions(threads=1, commit="abc")
    with pytest.raises(KeyboardInterrupt):
        fit(tiny_config, tiny_data, tmp_path, report=StopAfter(1), options=first)
    fit(tiny_config, tiny_data, tmp_path, report=StopAfter(), options=RunOptions(threads=1, commit="def"))
    assert read_record(tmp_path).made_by == {
        "torch": torch.__version__,
        "device": "CPU",
        "workers": "1",
        "threads": "1",
        "commit": "abc, then def",
    }


def test_the_global_generator_does_not_matter(
    finished: Path, tiny_config: Config, tiny_data: PreparedData, tmp_path: Path
) -> None:
    torch.manual_seed(12345)
    before = torch.get_rng_state()
    history = run(tiny_config, tiny_data, tmp_path)
    assert torch.equal(before, torch.get_rng_state())
    assert comparable(history) == comparable(read_state(finished / "last.safetensors").history)


def test_loader_workers_do_not_matter(
    finished: Path, tiny_config: Config, tiny_data: PreparedData, tmp_path: Path
) -> None:
    report = StopAfter()
    fit(tiny_config, tiny_data, tmp_path, report=report, options=RunOptions(threads=1, loader_workers=2))
    assert comparable(report.reports) == comparable(read_state(finished / "last.safetensors").history)


def test_another_seed_is_another_trial(
    finished: Path, tiny_config: Config, tiny_data: PreparedData, tmp_path: Path
) -> None:
    changed = tiny_config.with_changes({"seed": 2, "training.epochs": 1})
    first = run(changed, tiny_data, tmp_path)[0]
    assert first["train/loss"] != read_state(finished / "last.safetensors").history[0]["train/loss"]


def test_a_checkpoint_is_a_loadable_model(finished: Path, tiny_data: PreparedData) -> None:
    detector, state = load_detector(finished / "last.safetensors")
    assert state.classes == list(tiny_data.classes)
    assert not detector.training


def test_files_that_are_no_checkpoints_are_named(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    for path in (tmp_path / "x.safetensors", tmp_path / "missing", finished):
        with pytest.raises(CheckpointError, match="not a checkpoint"):
            read_state(path)


def test_the_configured_metric_makes_the_figures(
    tiny_config: Config, tiny_data: PreparedData, tmp_path: Path
) -> None:
    changes = {"evaluation.metric": "voc07", "training.epochs": 1}
    (metrics,) = run(tiny_config.with_changes(changes), tiny_data, tmp_path)
    detections = pq.read_table(tmp_path / "detections.parquet")
    expected = voc07_metrics(Annotations.load(tiny_data.test), detections)
    assert {name: metrics[f"test/{name}"] for name in expected.summary} == expected.summary
    assert {name for name in metrics if name.startswith("test/")} == {f"test/{n}" for n in expected.summary}
    assert read_state(tmp_path / "last.safetensors").per_class == expected.per_class


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_diverging_loss_stops_the_trial(
    tiny_config: Config, tiny_data: PreparedData, tmp_path: Path
) -> None:
    wild = tiny_config.with_changes(
        {
            "training.lr": 1e8,
            "training.clip_norm": None,
            "training.warmup_iterations": 0,
            "training.epochs": 20,
        }
    )
    with pytest.raises(TrainingDiverged, match=r"not finite in epoch \d+ at step \d+"):
        run(wild, tiny_data, tmp_path)
    assert not (tmp_path / "result.json").exists()


def test_fp16_needs_a_gpu(tiny_config: Config, tiny_data: PreparedData, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs a GPU"):
        run(tiny_config.with_changes({"training.amp": "fp16"}), tiny_data, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_bf16_trains(tiny_config: Config, tiny_data: PreparedData, tmp_path: Path) -> None:
    history = run(tiny_config.with_changes({"training.amp": "bf16"}), tiny_data, tmp_path)
    assert all(math.isfinite(entry["train/loss"]) for entry in history)
    assert history[-1]["train/loss"] < history[0]["train/loss"]


def start_two(worker: Callable[..., None], *arguments: object) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.start_processes(worker, (port, *arguments), nprocs=2, start_method="spawn")


def run_first_epoch(config: Config, data: PreparedData, folder: Path) -> list[dict[str, float]]:
    """After the last epoch there would be no momentum to look at."""
    report = StopAfter(1)
    with pytest.raises(KeyboardInterrupt):
        fit(config, data, folder, report=report, options=ONE_THREAD)
    return report.reports


def _worker(rank: int, port: int, config: Config, data: PreparedData, folder: Path) -> None:
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    history = run_first_epoch(config, data, folder)
    (folder / f"rank{rank}.json").write_text(json.dumps(history))
    dist.destroy_process_group()


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_two_workers_train_as_one(
    norm: str, tiny_config: Config, tiny_data: PreparedData, tmp_path: Path
) -> None:
    """Same losses and same gradients (summed up in the momentum), up to the order of floating-point sums.

    With a small learning rate: an untrained detector's proposals are near ties, and with a large one a
    difference in the last digit soon decides which of them are kept.
    """
    config = tiny_config.with_changes(
        {
            "detector.norm": norm,
            "detector.stages": 2,
            "training.epochs": 2,
            "training.batch_size": 8,
            "training.lr": 1e-4,
            "training.warmup_iterations": 0,
            # An untrained detector's scores are nearly tied. So little hangs on their order here: no
            # suppression, and of 5 x 50 proposals and the ground truth, 250 take part.
            "detector.nms_cls": 1.0,
            "detector.nms_reg": 1.0,
            "detector.rpn_post_nms_train": 250,
            "detector.roi_samples": 250,
            "detector.cls_positive_fraction": 1.0,
        }
    )
    alone = comparable(run_first_epoch(config, tiny_data, tmp_path / "one"))
    (tmp_path / "two").mkdir()
    start_two(_worker, config, tiny_data, tmp_path / "two")
    ranks = [comparable(json.loads((tmp_path / "two" / f"rank{rank}.json").read_text())) for rank in (0, 1)]
    assert ranks[0] == ranks[1]
    for one, two in zip(alone, ranks[0], strict=True):
        assert set(one) == set(two)
        for name in one:
            # An untrained detector's AP is next to nothing, and one detection more or less is seen in it.
            tolerance = 1e-3 if name.startswith("val/") else 1e-5
            np.testing.assert_allclose(two[name], one[name], rtol=1e-3, atol=tolerance, err_msg=name)
    one_file, two_file = (load_file(tmp_path / each / "last.safetensors") for each in ("one", "two"))
    assert set(one_file) == set(two_file)
    momentum = {name: tensor for name, tensor in one_file.items() if name.startswith("optimizer.")}
    assert len(momentum) > 100
    # By norm: a tie that rounding decides the other way moves tensors by a per cent or two; a wrong average,
    # or statistics of half the batch, would move all by tens. A bias before a norm has only rounding.
    largest = max(tensor.norm().item() for tensor in momentum.values())
    for name, tensor in momentum.items():
        difference = (two_file[name] - tensor).norm().item()
        assert difference <= 0.05 * tensor.norm().item() + 1e-3 * largest, name


def _worker_with_one_bad_loss(rank: int, port: int, config: Config, data: PreparedData, folder: Path) -> None:
    # A worker that waits in vain for the other gives up after this time, and not after torch's half hour.
    patience = timedelta(seconds=60)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2, timeout=patience)
    losses = DecoupledRCNN.forward
    if rank == 1:
        # Only the figure is spoilt, not the gradients: the other worker cannot tell by its own.
        DecoupledRCNN.forward = lambda *arguments: {
            name: loss + torch.full_like(loss, math.nan).detach() if name == "loss_cls" else loss
            for name, loss in losses(*arguments).items()
        }
    outcome = "trained on"
    try:
        run(config, data, folder)
    except TrainingDiverged as error:
        outcome = f"TrainingDiverged: {error}"
    (folder / f"rank{rank}.txt").write_text(outcome)
    dist.destroy_process_group()


def test_one_workers_bad_loss_stops_both(
    tiny_config: Config, tiny_data: PreparedData, tmp_path: Path
) -> None:
    start_two(_worker_with_one_bad_loss, tiny_config, tiny_data, tmp_path)
    outcomes = [(tmp_path / f"rank{rank}.txt").read_text() for rank in (0, 1)]
    assert outcomes[0] == outcomes[1]
    assert outcomes[0].startswith("TrainingDiverged: loss_cls not finite in epoch 1 at step 1;")


def test_learning_rate_follows_the_paper() -> None:
    training = (
        Config().with_changes({"training.warmup_iterations": 500}).training
    )  # lr .005, /10 after epoch 9
    assert learning_rate(training, 0, 1000) == pytest.approx(0.005 * 0.001)
    assert learning_rate(training, 250, 1000) == pytest.approx(0.005 * 0.5005)
    assert learning_rate(training, 500, 1000) == 0.005
    assert learning_rate(training, 8_999, 1000) == 0.005
    assert learning_rate(training, 9_000, 1000) == pytest.approx(0.0005)
    coco = training.model_copy(update={"milestones": (8, 11), "lr": 0.01, "batch_size": 16})
    assert learning_rate(coco, 7_999, 1000) == 0.02  # linear in the batch
    assert learning_rate(coco, 11_500, 1000) == pytest.approx(0.0002)
    cosine = training.model_copy(update={"schedule": "cosine", "warmup_iterations": 0})
    assert learning_rate(cosine, 6_000, 1000) == pytest.approx(0.0025)
    assert learning_rate(cosine, 12_000, 1000) == pytest.approx(0, abs=1e-12)


@pytest.mark.faults
def test_a_disk_that_is_full_at_the_start_is_waited_for(
    tiny_config: Config, tiny_data: PreparedData, tmp_path: Path
) -> None:
    said: list[str] = []
    with small_disk(tmp_path / "disk", megabytes=50) as disk:
        filler = Filler(disk)
        threading.Timer(1.5, filler.remove).start()
        with pytest.raises(KeyboardInterrupt):
            fit(tiny_config, tiny_data, disk, report=StopAfter(1), options=ONE_THREAD, waits=said.append)
        (line,) = said
        assert "to write config.yaml" in line
        assert Config.from_yaml((disk / "config.yaml").read_text()) == tiny_config
