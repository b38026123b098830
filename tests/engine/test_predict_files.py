from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drcnn.cli import main
from drcnn.data.annotations import DataError
from drcnn.data.files.picture_files import find_pictures
from drcnn.data.prepare import PreparedData
from drcnn.engine.predict import Predictor
from drcnn.engine.predict_files import predict_files


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")
    Image.fromarray(pixels[:64]).save(folder / "sub/b.bmp")
    Image.fromarray(pixels[:, :64]).convert("L").save(folder / "c.jpg")
    return folder


def test_the_command_draws_and_lists_what_the_predictor_finds(
    tiny_checkpoint: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "found"
    arguments = ["predict", str(tiny_checkpoint.parent), str(photos), "--output", str(output)]
    assert main([*arguments, "--score", "0.2", "--format", "yolo", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    content = json.loads((output / "predictions.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["a.png", "c.jpg", "sub/b.bmp"]
    files = [photos / image["file_name"] for image in content["images"]]
    expected = [found.above(0.2) for found in Predictor(tiny_checkpoint).predict(files)]
    assert sum(len(found.scores) for found in expected) == len(content["annotations"]) > 0
    for image, found in zip(content["images"], expected, strict=True):
        own = [one for one in content["annotations"] if one["image_id"] == image["id"]]
        assert [one["score"] for one in own] == pytest.approx(found.scores.tolist(), abs=1e-6)
        sizes = found.boxes[:, 2:] - found.boxes[:, :2]
        boxes = np.concatenate((found.boxes[:, :2], sizes), axis=1)
        np.testing.assert_allclose([one["bbox"] for one in own], boxes, atol=1e-3)
    assert summary["pictures"] == 3
    assert sum(summary["counts"].values()) == len(content["annotations"])
    lines = (output / "labels/sub/b.txt").read_text().splitlines()
    assert len(lines) == len(expected[2].scores)
    for drawn, source in (("a.png", "a.png"), ("c.jpg", "c.jpg"), ("sub/b.bmp.png", "sub/b.bmp")):
        with Image.open(output / "pictures" / drawn) as picture, Image.open(photos / source) as original:
            assert picture.size == original.size
            assert (np.asarray(picture) != np.asarray(original.convert("RGB"))).any()


def test_damaged_files_are_named_and_the_others_predicted(
    tiny_checkpoint: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "b.jpg").write_bytes((photos / "c.jpg").read_bytes()[:-200])
    arguments = ["predict", str(tiny_checkpoint), str(photos), "--output", str(tmp_path / "found")]
    assert main([*arguments, "--score", "1"]) == 1
    printed = capsys.readouterr()
    fault = next(line for line in printed.err.splitlines() if "skipped" in line)
    assert fault == f"drcnn: skipped {photos}/b.jpg: the image file is truncated"
    content = json.loads((tmp_path / "found/predictions.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["a.png", "c.jpg", "sub/b.bmp"]
    # The detector is never sure; what to do about it is said.
    assert "0 detections of score 1 or more\nThe highest score is" in printed.out


def test_a_score_below_the_detectors_own_is_met(
    tiny_checkpoint: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = []
    for score in ("0.15", "0.01"):
        arguments = ["predict", str(tiny_checkpoint), str(photos), "--output", str(tmp_path / score)]
        main([*arguments, "--score", score, "--json", "--set", "detector.score_thr=0.15"])
        counts.append(sum(json.loads(capsys.readouterr().out)["counts"].values()))
    assert counts[1] > counts[0]


def test_bad_arguments_end_with_one_line(
    tiny_checkpoint: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, output = str(tiny_checkpoint), str(tmp_path / "found")
    assert main(["predict", model, "http://example.org/a.jpg", "--output", output]) == 2
    assert "addresses are not read" in capsys.readouterr().err
    assert main(["predict", str(tmp_path), str(photos), "--output", output]) == 2
    assert "no trained model" in capsys.readouterr().err
    assert main(["predict", model, str(photos), "--output", str(photos / "a.png")]) == 2
    assert "is a file; give a folder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["predict", model, str(photos), "--output", output, "--score", "50"])
    assert "50 is not a number from 0 to 1" in capsys.readouterr().err
    assert not Path(output).exists()


def test_a_video_is_refused_where_its_package_is_missing(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "clip.mp4").touch()
    files = find_pictures([str(tmp_path / "clip.mp4")], without=tmp_path)
    summary = predict_files(Predictor(tiny_checkpoint), files, tmp_path / "found", score=0.5)
    assert summary.skipped == [f"{tmp_path}/clip.mp4: reading a video needs PyAV: pip install 'drcnn[video]'"]


def test_a_video_gets_its_boxes_frame_by_frame(
    tiny_checkpoint: Path, tiny_data: PreparedData, tmp_path: Path
) -> None:
    pytest.importorskip("av", reason="needs: pip install '.[video]', which [test] includes")
    from drcnn.data.files import video

    rng = np.random.default_rng(0)
    source = tmp_path / "clip.avi"
    write_video(source, rng.integers(0, 256, (5, 65, 97, 3), dtype=np.uint8))
    files = find_pictures([str(source)], without=tmp_path)
    predictor = Predictor(tiny_checkpoint)
    summary = predict_files(predictor, files, tmp_path / "found", score=0.2)
    assert summary.skipped == []
    images = json.loads((tmp_path / "found/predictions.json").read_text())["images"]
    assert [image["file_name"] for image in images] == [f"clip.avi/{n:06}" for n in range(1, 6)]
    assert [image["seconds"] for image in images] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4], abs=1e-3)
    drawn = list(video.frames(tmp_path / "found/pictures/clip.avi.mp4"))
    assert len(drawn) == 5
    assert drawn[0][1].shape == (64, 96, 3)
    assert drawn[1][0] == pytest.approx(0.1, abs=1e-3)
    source.write_bytes(source.read_bytes()[:100])
    with pytest.raises(DataError, match=r"clip\.avi: cannot be read as a video"):
        list(video.frames(source))


def write_video(path: Path, frames: np.ndarray) -> None:
    """Ten frames a second, without loss."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "bgr0"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode())
