from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageColor

from drcnn.config import Config, ConfigError
from drcnn.data.annotations import Annotations, DataError
from drcnn.engine.average_precision import coco_metrics
from drcnn.engine.comparison import compare_trials
from drcnn.engine.record import write_finished
from drcnn.engine.stored_trial import StoredTrial, judge_trial, read_trial, require_same_data
from drcnn.report.comparison import write_comparison
from drcnn.report.samples import FOUND, GAP

from .diagnosis_helpers import found, split

A, B = (0, 0, 40, 40), (50, 50, 90, 90)
SPLIT = split([("cat", A), ("dog", B)], [("cat", B)], [("dog", A)], [])
GOOD = found((0, "cat", 0.9, A), (0, "dog", 0.8, B), (1, "cat", 0.7, B), (2, "dog", 0.6, A))
ONE_LESS = GOOD.slice(0, 3)
ANOTHER_LESS = pa.concat_tables([GOOD.slice(0, 2), GOOD.slice(3, 1)])


def trial(folder: Path, detections: pa.Table, **changes: object) -> StoredTrial:
    """A folder as training leaves it, without its checkpoint."""
    folder.mkdir(parents=True)
    config = Config().with_changes({key.replace("__", "."): value for key, value in changes.items()})
    (folder / "config.yaml").write_text(config.to_yaml())
    pq.write_table(detections, folder / "detections.parquet")
    summary = coco_metrics(SPLIT, detections).summary
    write_finished(folder, [{"epoch": 1, **{f"val/{name}": ap for name, ap in summary.items()}}], {}, 1.0, {})
    return read_trial(folder)


def test_what_differs_and_where_one_wins(tmp_path: Path) -> None:
    a = trial(tmp_path / "a", ONE_LESS, detector__nms_reg=0.85)
    b = trial(tmp_path / "b", ANOTHER_LESS, detector__nms_reg=0.7, seed=3)
    comparison = compare_trials([a], [b], SPLIT)
    assert comparison.settings == {"detector.nms_reg": (0.85, 0.7), "seed": (Config().seed, 3)}
    wins = [[(SPLIT.ids[win.row], win.ap) for win in wins] for wins in comparison.wins]
    assert wins == [[("i1", (1, 0))], [("i2", (0, 1))]]
    content = json.loads(json.dumps(comparison.to_json(), allow_nan=False))
    assert content["metrics"]["AP"]["A"] == pytest.approx(coco_metrics(SPLIT, ONE_LESS).summary["AP"])
    assert content["metrics"]["AP"]["low"] < 0 < content["metrics"]["AP"]["high"]
    assert content["AP50_lost"]["A"]["missed"] == pytest.approx(1 - content["metrics"]["AP50"]["A"])
    assert not comparison.is_replicated


def test_pictures_show_both_sides_where_one_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in SPLIT.ids:
        Image.new("RGB", (100, 100)).save(f"{name}.jpg")
    a = trial(tmp_path / "a", ONE_LESS)
    b = trial(tmp_path / "b", ANOTHER_LESS, detector__nms_reg=0.7)
    page, *_ = write_comparison(tmp_path / "out", compare_trials([a], [b], SPLIT))
    drawn = sorted((tmp_path / "out").glob("*.png"))
    assert [path.name for path in drawn] == ["a_wins_1.png", "b_wins_1.png"]
    assert page.read_text().count("data:image/png;base64,") == len(drawn)
    for path, wins in zip(drawn, (0, 1), strict=True):
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB")).astype(int)
        half = (pixels.shape[1] - GAP) // 2
        sides = pixels[:, :half], pixels[:, half + GAP :]
        is_right = [(np.abs(side - ImageColor.getrgb(FOUND)).sum(-1) < 30).sum() for side in sides]
        # Both show the object, and the winner's has a detection of it that is right.
        assert is_right[wins] > 100
        assert is_right[1 - wins] == 0
        assert all((side.sum(-1) > 700).sum() > 100 for side in sides)


def test_the_same_detections_do_not_differ(tmp_path: Path) -> None:
    comparison = compare_trials(
        [trial(tmp_path / "a", GOOD)], [trial(tmp_path / "b", GOOD, detector__nms_reg=0.7)], SPLIT
    )
    assert {found.value for found in comparison.differences.values()} == {0}
    assert comparison.wins == ([], [])


def test_replicates_are_of_one_setting(tmp_path: Path) -> None:
    a = [trial(tmp_path / f"a{seed}", GOOD, seed=seed) for seed in (0, 1)]
    b = [trial(tmp_path / f"b{seed}", ONE_LESS, seed=seed, detector__nms_reg=0.7) for seed in (0, 1)]
    comparison = compare_trials(a, b, SPLIT)
    assert comparison.is_replicated
    assert list(comparison.settings) == ["detector.nms_reg"]
    assert comparison.differences["AP"].value > 0
    with pytest.raises(ConfigError, match=r"a0 and .*b1 differ in detector.nms_reg"):
        compare_trials([a[0], b[1]], [b[0]], SPLIT)
    with pytest.raises(ConfigError, match="the same trial"):
        compare_trials([a[0], a[0]], [b[0]], SPLIT)


def test_other_data_splits_and_metrics_are_refused(tmp_path: Path) -> None:
    a, b = trial(tmp_path / "a", GOOD), trial(tmp_path / "b", ONE_LESS)
    here, there = SPLIT.content, {**SPLIT.content, "annotations": "0" * 16}
    require_same_data([replace(a, content=here), replace(b, content=here)])
    with pytest.raises(DataError, match=r"different data \(annotations of val differ\)"):
        require_same_data([replace(a, content=here), replace(b, content=there)])
    with pytest.raises(DataError, match="different splits, val and test"):
        require_same_data([a, replace(b, metrics={"test/AP": 0.5})])
    other = b.config.with_changes({"evaluation.metric": "voc07"})
    with pytest.raises(ConfigError, match="different metrics, coco and voc07"):
        require_same_data([a, replace(b, config=other)])


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        (split([("cat", A), ("dog", B)], [("cat", A)], [("dog", A)]), "an AP of .* in its record"),
        (split([("cat", A)]), "image 'i1' is not in this one"),
    ],
)
def test_data_that_changed_are_found_without_digests(
    tmp_path: Path, annotations: Annotations, message: str
) -> None:
    stored = trial(tmp_path / "a", GOOD)
    assert np.isclose(judge_trial(stored, SPLIT).split.ap().mean(), 1)
    with pytest.raises(DataError, match=message):
        judge_trial(stored, annotations)
    with pytest.raises(DataError, match="has changed since"):
        judge_trial(replace(stored, content={"images": "0"}), SPLIT)


def test_only_finished_trials_are_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file or folder"):
        read_trial(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"no config.yaml and no detections.parquet"):
        read_trial(tmp_path)
    stored = trial(tmp_path / "a", GOOD)
    (stored.folder / "result.json").unlink()
    with pytest.raises(ConfigError, match="is pending; only finished"):
        read_trial(stored.folder)
