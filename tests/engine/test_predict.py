from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drcnn.config import Config, ConfigError
from drcnn.data.annotations import Annotations, DataError
from drcnn.data.prepare import PreparedData
from drcnn.engine.checkpoint import load_detector
from drcnn.engine.evaluate import evaluate_split
from drcnn.engine.predict import Predictor
from drcnn.engine.run_options import RunOptions


def images_of(annotations: Annotations) -> list[np.ndarray]:
    sources = [annotations.source(row) for row in range(len(annotations))]
    return [np.asarray(Image.open(io.BytesIO(source)).convert("RGB")) for source in sources]  # type: ignore[arg-type]


def test_predictions_are_the_detections_that_evaluation_judges(
    tiny_checkpoint: Path, tiny_data: PreparedData
) -> None:
    annotations = Annotations.load(tiny_data.judged_table)
    detector, state = load_detector(tiny_checkpoint)
    _, table = evaluate_split(detector, tiny_data.judged_table, Config.from_yaml(state.config), RunOptions())
    predicted = Predictor(tiny_checkpoint).predict(images_of(annotations))
    assert table.num_rows > 0
    assert sum(len(found.scores) for found in predicted) == table.num_rows
    for image_id, found in zip(annotations.ids, predicted, strict=True):
        own = [row for row in table.to_pylist() if row["image_id"] == image_id]
        assert [row["score"] for row in own] == found.scores.tolist()
        assert [annotations.classes[row["label"]] for row in own] == list(found.labels)
        expected = [[row[side] for side in ("x1", "y1", "x2", "y2")] for row in own]
        np.testing.assert_array_equal(found.boxes, np.float32(expected))


def test_boxes_are_in_pixels_of_the_image_as_given(tiny_checkpoint: Path) -> None:
    predictor = Predictor(tiny_checkpoint, changes={"data.short_side": 64, "data.long_side": 128})
    small = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    large = small.repeat(2, axis=0).repeat(2, axis=1)
    wide, tall = predictor.predict([large, large.transpose(1, 0, 2)])
    assert (wide.width, wide.height) == (192, 128)
    assert (tall.width, tall.height) == (128, 192)
    assert wide.boxes[:, 2].max() > 128  # beyond the resized image's 96 pixels, scaled back by two
    assert (wide.boxes[:, [0, 2]] <= 192).all()
    assert (wide.boxes[:, [1, 3]] <= 128).all()
    (alone,) = predictor.predict([large])
    np.testing.assert_array_equal(alone.boxes, wide.boxes)


def test_a_path_is_read_as_its_pixels(tiny_checkpoint: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "one.png")
    predictor = Predictor(tiny_checkpoint)
    from_array, from_path = predictor.predict([pixels, tmp_path / "one.png"])
    np.testing.assert_array_equal(from_array.boxes, from_path.boxes)
    assert len(from_array.boxes) > 0


def test_above_keeps_the_best(tiny_checkpoint: Path) -> None:
    (found,) = Predictor(tiny_checkpoint).predict([np.zeros((64, 64, 3), np.uint8)])
    threshold = float(found.scores[len(found.scores) // 2])
    kept = found.above(threshold)
    assert (kept.scores >= threshold).all()
    assert 0 < len(kept.scores) < len(found.scores)
    assert len(kept.labels) == len(kept.boxes) == len(kept.scores)


def test_bad_images_are_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    predictor = Predictor(tiny_checkpoint)
    assert predictor.predict([]) == []
    with pytest.raises(ValueError, match=r"uint8\[height, width, 3\].*float64\[4, 4, 3\]"):
        predictor.predict([np.zeros((4, 4, 3))])  # type: ignore[list-item]
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"bad\.jpg: not an image file"):
        predictor.predict([tmp_path / "bad.jpg"])
    with pytest.raises(ConfigError, match="score_thr"):
        Predictor(tiny_checkpoint, changes={"detector.score_thr": 2})
