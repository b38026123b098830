from __future__ import annotations

import json
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from PIL import Image

from drcnn.cli import main
from tests.tiny_detector import TINY_DETECTOR

TINY = [
    *TINY_DETECTOR,
    "data.train_images=8",
    "data.val_images=4",
    "training.batch_size=4",
]


def test_train_then_evaluate_give_the_same_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "--output", str(tmp_path), "--json", "--set", *TINY, "training.epochs=2"]
    assert main(command) == 0
    epochs = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [epoch["epoch"] for epoch in epochs] == [1, 2]
    assert main(["evaluate", str(tmp_path / "last.safetensors"), "--json"]) == 0
    evaluated = json.loads(capsys.readouterr().out)
    assert evaluated["summary"]["AP"] == pytest.approx(epochs[-1]["test/AP"])
    # The same command again has nothing left to do; another one does not overwrite the run.
    assert main(command) == 0
    assert capsys.readouterr().out == ""
    assert main([*command, "detector.stages=2"]) == 2
    assert "holds a run of another configuration" in capsys.readouterr().err


def test_evaluate_needs_neither_a_training_split_nor_a_folder_to_write_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, coco = tmp_path / "run", tmp_path / "coco"
    assert main(["train", "--output", str(run), "--set", *TINY, "training.epochs=1"]) == 0
    (tmp_path / "kept").mkdir()
    kept = (run / "last.safetensors").rename(tmp_path / "kept" / "last.safetensors")
    # Nobody, not even root, can make a folder where a file is.
    (tmp_path / "kept" / "data").touch()
    (coco / "annotations").mkdir(parents=True)
    (coco / "val2017").mkdir()
    Image.new("RGB", (96, 64)).save(coco / "val2017" / "a.png")
    content = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": [{"image_id": 1, "category_id": 3, "bbox": [4, 4, 30, 30]}],
        "categories": [{"id": digit, "name": str(digit)} for digit in range(10)],
    }
    path = coco / "annotations" / "instances_val2017.json"
    path.write_text(json.dumps(content))
    capsys.readouterr()
    command = ["evaluate", str(kept), "--data", str(coco), "--json"]
    assert main(command) == 0
    evaluated = json.loads(capsys.readouterr().out)
    assert set(evaluated["per_class"]) == {"3"}
    # Classes are matched by name, whatever their numbers are.
    path.write_text(path.read_text().replace('"id": 3, "name": "3"', '"id": 30, "name": "3"'))
    path.write_text(path.read_text().replace('"category_id": 3', '"category_id": 30'))
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out) == evaluated
    path.write_text(path.read_text().replace('"name": "3"', '"name": "three"'))
    assert main(command) == 2
    assert "has objects of three, which is not among the classes 0, 1, 2" in capsys.readouterr().err


def test_a_failed_download_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "urlopen", unreachable)
    settings = [*TINY, "detector.backbone_width=1.0", "detector.weights=imagenet"]
    assert main(["train", "--output", str(tmp_path / "run"), "--set", *settings]) == 2
    error = capsys.readouterr().err
    (message,) = error.splitlines()
    assert "the download for mobilenet_v2 failed" in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--set", "detector.nms_reg=1.3"], "detector.nms_reg = 1.3"),
        (["train", "--set", "detector.nms_rge=0.8"], "did you mean 'detector.nms_reg'"),
        (["train", "--data", "voc:/nowhere", "--set", "detector.norm=batch"], "/nowhere"),
        (["train", "--profile", "paper"], "--data voc:DIR"),
        (
            ["evaluate", "/nowhere.safetensors"],
            "/nowhere.safetensors: no such file or folder; expected a checkpoint",
        ),
        (["data", "check", "zip:x"], "--data zip:x: no such folder"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def photographs(folder: Path, classes: str = "cell\n") -> Path:
    """Forty images with a label each, as labelImg writes YOLO."""
    folder.mkdir()
    (folder / "classes.txt").write_text(classes)
    for number in range(40):
        Image.new("RGB", (64, 64), (number, 0, 0)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"{classes.split().index('cell')} 0.5 0.5 0.25 0.5\n")
    return folder


RECOGNISED = (
    "data: YOLO labels beside the images, without splits: divided by content, data.split=0.7/0.15/0.15"
)


def test_a_folder_is_recognised_shown_and_converted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = photographs(tmp_path / "cells")
    assert main(["data", "check", str(folder)]) == 0
    assert capsys.readouterr().out.splitlines()[0] == RECOGNISED
    picture = tmp_path / "new" / "sheet.png"
    assert main(["data", "show", str(folder), "--output", str(picture), "--images", "5"]) == 0
    assert f"{picture}: 1480x792 pixels, classes cell" in capsys.readouterr().out
    with Image.open(picture) as shown:
        assert shown.size == (1480, 792)
    assert main(["data", "convert", str(folder), "--output", str(tmp_path / "coco")]) == 0
    assert capsys.readouterr().out.startswith(f"{RECOGNISED}; images: train ")
    assert main(["data", "check", str(tmp_path / "coco")]) == 0
    assert capsys.readouterr().out.startswith("data: COCO with annotations/\n")
    assert main(["data", "convert", str(folder), "--output", str(tmp_path / "coco")]) == 2
    assert "exists and is not empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", ".", "--output", "sheet.txt"], "--output sheet.txt: expected a picture"),
        (["show", ".", "--images", "0"], "--images 0: expected at least 1"),
        (["convert", ".", "--output", "out"], "the folder is empty"),
        (["check", "."], "the folder is empty"),
    ],
)
def test_bad_input_of_data_is_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["data", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_download_names_the_command_to_go_on_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(
        "drcnn.data.files.download.download",
        lambda archives, output, report: asked.append((archives, output)),
    )
    assert main(["data", "download", "voc", "--output", str(tmp_path / "a b")]) == 0
    ((archives, output),) = asked
    assert [archive.name for archive in archives] == [
        "VOCtrainval_06-Nov-2007.tar", "VOCtest_06-Nov-2007.tar", "VOCtrainval_11-May-2012.tar"
    ]  # fmt: skip
    assert output == tmp_path / "a b"
    voc = tmp_path / "a b" / "VOCdevkit"
    assert capsys.readouterr().out == f"drcnn data check 'voc:{voc}/VOC2007+{voc}/VOC2012'\n"


def test_data_check_lists_every_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "ImageSets/Main/train.txt").write_text("one\ntwo\n")
    (tmp_path / "ImageSets/Main/val.txt").write_text("three\n")
    assert main(["data", "check", f"voc:{tmp_path}", "--json"]) == 1
    faults = json.loads(capsys.readouterr().out)["faults"]
    assert len(faults) >= 3
    assert all(any(name in fault for fault in faults) for name in ("one", "two", "three"))


def test_version_help_and_completion(capsys: pytest.CaptureFixture[str]) -> None:
    for option, expected in (
        ("--version", "drcnn "),
        ("--help", "examples:"),
        ("--print-completion=bash", "complete"),
    ):
        with pytest.raises(SystemExit) as ended:
            main([option])
        assert ended.value.code == 0
        assert expected in capsys.readouterr().out
