"""``drcnn data check`` and what ``drcnn train`` says and refuses of its data."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from drcnn.cli import main
from drcnn.config import Config, DataConfig
from tests.tiny_detector import TINY_DETECTOR

TINY = [
    *TINY_DETECTOR,
    "data.short_side=64",
    "data.long_side=96",
    "training.batch_size=2",
    "training.epochs=1",
    "training.warmup_iterations=0",
]


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """A VOC folder: two images in train, one in val, one square in each."""
    folder = tmp_path / "my squares"
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / part).mkdir(parents=True)
    for number, name in enumerate(("a", "b", "c")):
        Image.new("RGB", (96, 64), (60 * number, 90, 90)).save(folder / "JPEGImages" / f"{name}.png")
        write_label(folder, name)
    (folder / "ImageSets/Main/train.txt").write_text("a\nb\n")
    (folder / "ImageSets/Main/val.txt").write_text("c\n")
    return folder


def write_label(folder: Path, name: str, right: float = 41) -> None:
    corners = f"<xmin>11</xmin><ymin>11</ymin><xmax>{right}</xmax><ymax>41</ymax>"
    (folder / "Annotations" / f"{name}.xml").write_text(
        f"<annotation><object><name>square</name><bndbox>{corners}</bndbox></object></annotation>"
    )


def train(folder: Path, output: Path, *more: str) -> int:
    return main(["train", "--data", f"voc:{folder}", "--output", str(output), *more, "--set", *TINY])


def test_a_run_on_data_that_changed_is_not_taken_for_this_one(
    voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(voc, tmp_path / "run") == 0
    assert train(voc, tmp_path / "run") == 0
    capsys.readouterr()
    kept = (voc / "JPEGImages/a.png").read_bytes()
    Image.new("RGB", (96, 64), "red").save(voc / "JPEGImages/a.png")
    assert train(voc, tmp_path / "run") == 2
    assert "there changed: the images of train. Give another --output" in capsys.readouterr().err
    (voc / "JPEGImages/a.png").write_bytes(kept)
    write_label(voc, "c", right=51)
    assert train(voc, tmp_path / "run") == 2
    assert "there changed: the annotations of val." in capsys.readouterr().err
    (voc / "ImageSets/Main/test.txt").write_text("c\n")
    write_label(voc, "c")
    assert train(voc, tmp_path / "run") == 2
    assert "there changed: the split test is new." in capsys.readouterr().err
    (voc / "ImageSets/Main/test.txt").unlink()
    assert train(voc, tmp_path / "run") == 0


@pytest.mark.faults
def test_an_image_that_is_lost_in_epoch_3_ends_a_run_that_goes_on_once_it_is_back(
    voc: Path, tmp_path: Path
) -> None:
    epochs = 5
    run = [sys.executable, "-c", "import sys; from drcnn.cli import main; sys.exit(main())"]
    run += ["train", "--data", f"voc:{voc}", "--json", "--output", str(tmp_path / "run")]
    run += ["--set", *TINY, f"training.epochs={epochs}"]
    image = voc / "JPEGImages/a.png"
    kept = image.read_bytes()
    with subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [json.loads(process.stdout.readline()) for _ in range(2)]
        image.write_bytes(kept[:60])
        rest, told = process.communicate(timeout=200)
    assert process.returncode == 2, told
    assert "a.png: the image file is truncated" in told.splitlines()[-1]
    lines += [json.loads(line) for line in rest.splitlines()]
    assert 2 <= len(lines) < epochs
    image.write_bytes(kept)
    done = subprocess.run(run, capture_output=True, text=True, check=True, timeout=200)
    lines += [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["epoch"] for line in lines] == list(range(1, epochs + 1))


def test_another_configuration_is_named(
    voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(voc, tmp_path / "run") == 0
    assert train(voc, tmp_path / "run", "--set", "data.flip=0.25") == 2
    assert "another configuration (data.flip=0.5 there, 0.25 here)" in capsys.readouterr().err


def test_a_run_goes_on_where_nothing_changed_that_decides_its_result(
    voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(voc, tmp_path / "first") == 0
    start = tmp_path / "first" / "last.safetensors"
    run = tmp_path / "run"
    assert train(voc, run, "--set", f"training.init={start}") == 0
    moved = voc.rename(tmp_path / "elsewhere")
    other = start.rename(tmp_path / "renamed.safetensors")
    trained = (run / "last.safetensors").read_bytes()
    for unimportant in (
        (f"training.init={other}",),
        (f"training.init={other}", "evaluation.every=none", "training.checkpoint_minutes=9"),
        # It is in the checkpoint all the same.
        (f"training.init={start}", "data.on_bad_data=skip"),
    ):
        assert train(moved, run, "--set", *unimportant) == 0, capsys.readouterr().err
        assert (run / "last.safetensors").read_bytes() == trained
    config = Config.from_yaml((run / "config.yaml").read_text(encoding="utf-8"))
    assert config.data.source == f"voc:{moved}"
    capsys.readouterr()
    assert train(moved, tmp_path / "third", "--set", "seed=2") == 0
    third = tmp_path / "third" / "last.safetensors"
    assert train(moved, run, "--set", f"training.init={third}") == 2
    assert f"(training.init={start} there, training.init={third} here)" in capsys.readouterr().err
    third.rename(start)
    assert train(moved, run, "--set", f"training.init={start}") == 2
    assert f"(the content of {start})" in capsys.readouterr().err


def test_a_run_says_what_it_skips_and_how_many_warnings_there_are(
    voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_label(voc, "b", right=500)
    assert train(voc, tmp_path / "run") == 2
    assert "b.xml: object 1: box [10, 10, 499, 40] is outside the image" in capsys.readouterr().err
    assert not (tmp_path / "run" / "last.safetensors").exists()
    assert train(voc, tmp_path / "run", "--on-bad-data", "skip") == 0
    recognised, *lines = capsys.readouterr().err.splitlines()
    assert recognised == "data: VOC, with lists of images in ImageSets/Main/; images: train 1, val 1"
    assert len(lines) == 2
    assert lines[0].startswith("skipped: ")
    assert "b.xml: object 1: box [10, 10, 499, 40] is outside the image" in lines[0]
    assert lines[1] == (
        "2 warnings about the data (splits of fewer than 30 images, too few to tell settings apart: 1, "
        f"classes with few objects: 1); `drcnn data check 'voc:{voc}'` shows them"
    )


def test_a_run_says_that_the_metric_counts_100_detections(
    voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--set", "detector.max_detections=300")
    assert train(voc, tmp_path / "run", *more) == 0
    said = "detector.max_detections=300: COCO's metric counts the 100 of the highest scores"
    assert said in capsys.readouterr().err
    assert train(voc, tmp_path / "other", *more, "evaluation.metric=voc07") == 0
    assert said not in capsys.readouterr().err


def test_a_split_without_objects_is_refused_before_training(
    voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (voc / "Annotations/c.xml").write_text("<annotation></annotation>")
    assert train(voc, tmp_path / "run") == 2
    assert "split 'val': none of its images (1) has an object" in capsys.readouterr().err
    assert not (tmp_path / "run" / "last.safetensors").exists()


def test_check_ends_with_a_table(voc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", f"voc:{voc}"]) == 0
    recognised, *lines = capsys.readouterr().out.splitlines()
    assert recognised == "data: VOC, with lists of images in ImageSets/Main/"
    assert lines[0].startswith("warning: val: has 1 image; with fewer than 30, AP would differ by 5 points")
    assert lines[1] == "warning: class 'square' has few objects to train on: 2"
    assert max(map(len, lines[2:-2])) <= 80
    table = [line.split() for line in lines[3:-2]]
    assert table == [
        ["all", "train", "2", "2", "0", "30", "30", "30", "30", "30", "30"],
        ["all", "val", "1", "1", "0", "30", "30", "30", "30", "30", "30"],
        ["square", "train", "2", "2", "0", "30", "30", "30", "30", "30", "30"],
        ["square", "val", "1", "1", "0", "30", "30", "30", "30", "30", "30"],
    ]
    assert lines[-2] == (
        "2 warnings, which training does not mind (splits of fewer than 30 images, too few to tell settings "
        "apart: 1, classes with few objects: 1)"
    )
    assert lines[-1] == f"voc:{voc}: no faults"


def test_the_table_fits_80_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "classes.txt").write_text("a_name_of_many_letters\n")
    for number in range(40):
        Image.new("RGB", (2048, 1536), (number, 0, 0)).save(folder / f"{number}.png")
        width = 0.25 + number / 100
        (folder / f"{number}.txt").write_text(f"0 0.5 0.5 {width} {width}\n")
    assert main(["data", "check", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    first = next(at for at, line in enumerate(lines) if line.startswith("class "))
    table = lines[first : first + 7]
    assert max(map(len, table)) <= 80
    assert table[4].startswith("a_name_of_ma…  train")
    assert not any("." in line for line in table)


def test_check_reads_the_splits_of_a_profile(voc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(voc)]) == 0
    assert main(["data", "check", str(voc), "--profile", "paper"]) == 1
    assert "test.txt: no such list (there are: train, val)" in capsys.readouterr().out
    (voc / "ImageSets/Main/test.txt").write_text("c\n")
    assert main(["data", "check", str(voc), "--profile", "paper"]) == 0
    assert "trainval is train and val" in capsys.readouterr().out


def test_check_gives_json_of_all_of_it(voc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_label(voc, "b", right=500)
    assert main(["data", "check", f"voc:{voc}", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert len(found["faults"]) == 1
    assert found["warnings"][0]["kind"] == "splits of fewer than 30 images, too few to tell settings apart"
    assert found["warnings"][1:] == [
        {
            "kind": "classes with few objects",
            "message": "class 'square' has few objects to train on: 1",
        }
    ]
    assert found["counts"][0] == {
        "name": None,
        "split": "train",
        "images": 1,
        "objects": 1,
        "ignored": 0,
        "widths": [30, 30, 30],
        "heights": [30, 30, 30],
    }


def test_check_of_a_damaged_folder_says_what_training_does(
    voc: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_label(voc, "b", right=500)
    assert main(["data", "check", f"voc:{voc}"]) == 1
    out = capsys.readouterr().out
    assert out.splitlines()[1].startswith("fault: ")
    assert out.splitlines()[-1].startswith(f"voc:{voc}: 1 fault; training refuses the data")


def test_a_run_is_used_from_another_folder_and_started_from_on_its_own_data(
    voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(voc.parent)
    first, second = tmp_path / "first", tmp_path / "second"
    assert main(["train", "--data", voc.name, "--output", str(first), "--set", *TINY]) == 0
    monkeypatch.chdir(tmp_path / "..")
    assert main(["evaluate", str(first)]) == 0
    run = ["--output", str(second), "--set", "training.epochs=1"]
    assert main(["train", "--from", str(first), *run]) == 0
    config = Config.from_yaml((second / "config.yaml").read_text(encoding="utf-8"))
    assert config.data.source == f"voc:{voc}"


def test_a_run_that_starts_from_another_sees_images_as_that_did(voc: Path, tmp_path: Path) -> None:
    first, second, third = tmp_path / "first", tmp_path / "second", tmp_path / "third"
    (voc / "ImageSets/Main/mine.txt").write_text("a\nb\n")
    own = ("--set", "data.train_split=mine", "data.train_short_sides=[48,64]")
    assert train(voc, first, *own) == 0

    def data_of(run: Path) -> DataConfig:
        return Config.from_yaml((run / "config.yaml").read_text(encoding="utf-8")).data

    run = ["--set", "training.epochs=1", "--output"]
    assert main(["train", "--from", str(first), *run, str(second)]) == 0
    assert data_of(second) == data_of(first)
    assert main(["train", "--from", str(first), "--data", str(voc), *run, str(third)]) == 0
    new = data_of(third)
    assert (new.short_side, new.long_side, new.train_short_sides) == (64, 96, (48, 64))
    # Other data have other splits.
    assert new.train_split == "train"


def test_the_end_says_what_is_next(voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "my run"
    assert train(voc, run) == 0
    commands = [line.partition("drcnn ")[2] for line in capsys.readouterr().out.splitlines()[-2:]]
    evaluate, predict = (shlex.split(command) for command in commands)
    assert evaluate == ["evaluate", str(run), "--output", str(run / "errors")]
    assert main(evaluate) == 0
    assert predict == ["predict", str(run), "PICTURES", "--output", str(run / "found")]
    predict[2] = str(voc / "JPEGImages")
    assert main(predict) == 0
    assert (run / "errors" / "evaluation.html").is_file()
    assert len(list((run / "found" / "pictures").iterdir())) == 3


@pytest.mark.parametrize(
    ("verb", "said"),
    [
        (["train"], "interrupted; the same command goes on where it was last saved"),
        (["data", "check", "digits"], "stopped"),
        (
            ["data", "download", "voc", "--output", "x"],
            "interrupted; the same command goes on within the file",
        ),
    ],
)
def test_ctrl_c_says_what_is_true_of_the_verb(
    verb: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("drcnn.cli.end_in_order", interrupted)
    assert main(verb) == 130
    assert capsys.readouterr().err.startswith(f"drcnn: {said}")


@pytest.mark.parametrize(
    "verb",
    [
        "train", "evaluate", "compare", "predict", "export", "complexity", "bench", "settings",
        "data check", "data show", "data convert", "data download",
    ],
)  # fmt: skip
def test_every_verb_has_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*verb.split(), "--help"])
    assert ended.value.code == 0
    assert f"example: drcnn {verb}" in " ".join(capsys.readouterr().out.split())
