"""Training that starts from a whole detector."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from torch import Tensor
from torchvision.models.detection import fasterrcnn_resnet50_fpn

from drcnn.cli import main
from drcnn.config import Config, ConfigError, TrainingConfig
from drcnn.data.prepare import PreparedData
from drcnn.detector.detector import DecoupledRCNN, build_detector
from drcnn.engine.checkpoint import read_model, read_state
from drcnn.engine.required_start import require_start
from drcnn.engine.schedule import learning_rate, warmup_steps
from drcnn.engine.start import coco_state, start_from
from drcnn.engine.torchvision_twin import from_torchvision, torchvision_twin
from drcnn.engine.train import fit
from tests.engine.conftest import write_checkpoint

COCO = Config().with_changes({"training.init": "coco", "detector.variant": "fpn"})
CLASSES = ("cup", "plate", "sponge")


def built(config: Config, classes: int = 3, seed: int = 7) -> DecoupledRCNN:
    torch.manual_seed(seed)
    return build_detector(config.detector, classes, pretrained=False)


def changed(detector: DecoupledRCNN, before: dict[str, Tensor]) -> set[str]:
    return {name for name, tensor in detector.state_dict().items() if not torch.equal(tensor, before[name])}


def test_the_same_classes_take_over_everything(tiny_config: Config, tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "one.safetensors", tiny_config, CLASSES)
    detector = built(tiny_config)
    (line,) = start_from(detector, str(path), CLASSES)
    assert line.startswith(f"starts from {path}: ")
    theirs = read_model(path)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in detector.state_dict().items())


@pytest.mark.parametrize("classes", [("cup", "plate", "fork"), ("cup", "plate"), ("plate", "cup", "sponge")])
def test_other_classes_get_new_predictors(
    classes: tuple[str, ...], tiny_config: Config, tmp_path: Path
) -> None:
    path = write_checkpoint(tmp_path / "one.safetensors", tiny_config, CLASSES)
    detector = built(tiny_config, len(classes))
    fresh = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    _, line = start_from(detector, str(path), classes)
    assert line == (
        "made anew for other classes (there: cup, plate, sponge): classifier of stage 1, regressor of stage 1"
    )
    theirs = read_model(path)
    for name, tensor in detector.state_dict().items():
        assert torch.equal(tensor, fresh[name] if ".predictor." in name else theirs[name]), name


def test_boxes_that_all_classes_share_are_kept(tiny_config: Config, tmp_path: Path) -> None:
    cascade = tiny_config.with_changes({"detector.variant": "cascade_rcnn"})
    path = write_checkpoint(tmp_path / "one.safetensors", cascade, CLASSES)
    detector = built(cascade, 2)
    _, line = start_from(detector, str(path), ("cup", "fork"))
    assert "regressor" not in line
    name = "heads.stages.2.regressor.predictor.weight"
    assert torch.equal(detector.state_dict()[name], read_model(path)[name])


def test_other_heads_start_from_what_fits(tiny_config: Config, tmp_path: Path) -> None:
    """A trunk that both branches shared starts both; further stages are made anew."""
    shared = tiny_config.with_changes({"detector.variant": "fpn"})
    path = write_checkpoint(tmp_path / "one.safetensors", shared, CLASSES)
    detector = built(tiny_config.with_changes({"detector.variant": "decoupled", "detector.stages": 2}))
    lines = start_from(detector, str(path), CLASSES)
    assert lines[1:] == ["made anew, since it has no such heads: regressor of stage 2"]
    trunk = read_model(path)["heads.stages.0.stem.1.weight"]
    for branch in ("classifier", "regressor"):
        assert torch.equal(detector.state_dict()[f"heads.stages.0.{branch}.trunk.1.weight"], trunk)


def test_another_architecture_is_refused_with_the_settings_to_give(
    tiny_config: Config, tmp_path: Path
) -> None:
    path = write_checkpoint(tmp_path / "one.safetensors", tiny_config, CLASSES)
    changes = {"detector.fpn_channels": 32, "training.init": str(path)}
    with pytest.raises(ConfigError, match=r"give --set detector\.fpn_channels=16, or 'drcnn train --from'"):
        require_start(tiny_config.with_changes(changes))
    with pytest.raises(ConfigError, match=r"does not fit: pyramid\.fpn"):
        start_from(built(tiny_config.with_changes(changes)), str(path), CLASSES)
    with pytest.raises(ConfigError, match=r"training\.init = '/gone': no such file; give 'coco'"):
        require_start(tiny_config.with_changes({"training.init": "/gone"}))
    (tmp_path / "text").write_text("text")
    with pytest.raises(ConfigError, match=r"training\.init: .*text is not a checkpoint of drcnn"):
        require_start(tiny_config.with_changes({"training.init": str(tmp_path / "text")}))
    scale = tiny_config.with_changes({"detector.anchor_scale": 8.0})
    assert start_from(built(scale), str(path), CLASSES)[-1] == (
        "its RPN learned with detector.anchor_scale=4.0, here it is 8.0"
    )


def test_training_starts_from_the_other_detector_and_says_so(
    tiny_config: Config, tiny_data: PreparedData, tmp_path: Path
) -> None:
    path = write_checkpoint(tmp_path / "one.safetensors", tiny_config, tiny_data.classes)
    config = tiny_config.with_changes(
        {"training.init": str(path), "training.epochs": 1, "training.lr": 1e-9, "training.milestones": ()}
    )
    said: list[str] = []
    fit(config, tiny_data, tmp_path / "run", report=lambda metrics: None, say=said.append)
    assert said[0].startswith("starts from ")
    assert said[1:] == ["warm-up: 1 of 3 steps, a third, instead of 50"]
    trained, given = read_model(tmp_path / "run/last.safetensors"), read_model(path)
    assert all(torch.allclose(trained[name], given[name], atol=1e-6) for name in given)


def test_the_command_takes_over_the_detectors_settings(
    tiny_config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_checkpoint(tmp_path / "last.safetensors", tiny_config, CLASSES)
    run = tmp_path / "run"
    small = ["data.train_images=8", "data.val_images=2", "data.test_images=2", "training.epochs=1"]
    start = ["train", "--from", str(tmp_path), "--output", str(run), "--set", *small]
    assert main([*start, "detector.variant=decoupled_cascade"]) == 0
    detector = Config.from_yaml(read_state(run / "last.safetensors").config).detector
    assert (detector.fpn_channels, detector.fc_width, detector.stages) == (16, 32, 3)
    said = capsys.readouterr().err
    assert "made anew for other classes (there: cup, plate, sponge): classifier of stage 1" in said
    assert "made anew, since it has no such heads: regressor of stage 2, regressor of stage 3" in said


def test_torchvisions_detector_has_a_place_for_every_tensor_that_we_take() -> None:
    """By shape, against torchvision's own with its 91 classes; values by the way back of the twin."""
    theirs = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    state = coco_state(theirs.state_dict())
    detector = built(COCO)
    own = detector.state_dict()
    assert set(own) == set(state)
    differing = {name.rpartition(".")[0] for name, tensor in state.items() if tensor.shape != own[name].shape}
    assert differing == {f"heads.stages.0.{part}.predictor" for part in ("classifier", "regressor")}
    # The twin maps ours to torchvision's: there and back again.
    back = from_torchvision(torchvision_twin(detector, height=64, width=64).state_dict())
    kept = [name for name in own if ".predictor." not in name and not name.endswith("num_batches_tracked")]
    assert all(torch.equal(back[name], own[name]) for name in kept)


def test_coco_start_is_downloaded_once_and_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None).state_dict()
    # The file has the names of an older version of torchvision.
    older = {
        name.replace("rpn.head.conv.0.0.", "rpn.head.conv.").replace("_blocks.0.0.", "_blocks.0."): tensor
        for name, tensor in theirs.items()
    }
    monkeypatch.setattr("drcnn.engine.start.download", lambda *_: older)
    detector = built(COCO.with_changes({"detector.variant": "decoupled"}))
    lines = start_from(detector, "coco", CLASSES)
    assert lines[1] == (
        "made anew for other classes (there: those of COCO): classifier of stage 1, regressor of stage 1"
    )
    state = detector.state_dict()
    fc6 = theirs["roi_heads.box_head.fc6.weight"]
    assert torch.equal(state["heads.stages.0.regressor.trunk.1.weight"], fc6)
    assert torch.equal(state["rpn.conv.weight"], theirs["rpn.head.conv.0.0.weight"])
    # Theirs divides by the root of the variance alone.
    variance = state["pyramid.body.bn1.running_var"].double() + 1e-5
    torch.testing.assert_close(variance, theirs["backbone.body.bn1.running_var"].double(), atol=1e-7, rtol=0)


def test_weights_are_asked_for_before_anything_is_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unreachable(*_: object) -> Any:
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "urlopen", unreachable)
    run = ["--output", str(tmp_path / "run")]
    assert main(["train", "--from", "coco", *run]) == 2
    assert "which data? give --data DIR" in capsys.readouterr().err
    assert main(["train", "--from", "coco", "--data", "digits", *run]) == 2
    assert "training.init = 'coco': the download failed" in capsys.readouterr().err
    settings = ["detector.backbone_width=1", "detector.weights=imagenet"]
    assert main(["train", "--set", *settings, *run]) == 2
    error = capsys.readouterr().err
    assert "--set detector.weights=none detector.norm=group detector.frozen_stages=0" in error
    assert not (tmp_path / "run").exists()


def test_a_short_run_warms_up_for_a_third_of_its_steps() -> None:
    training = TrainingConfig(warmup_iterations=500, epochs=3, milestones=())
    assert warmup_steps(training, 40) == 40
    assert warmup_steps(training, 1000) == 500
    assert learning_rate(training, 40, 40) == training.lr
    assert learning_rate(training, 20, 40) == pytest.approx(training.lr * (0.001 + 0.999 / 2))
