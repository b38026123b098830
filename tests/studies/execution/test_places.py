"""Studies and data at any path, and at another one than before."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from launch_helpers import Launch, results, runs, write_study
from mlflow import MlflowClient
from PIL import Image
from study_helpers import assignments

from studies.record.tracking.addresses import artifacts_of, default_uri

# Every character means something in an address, to a shell, or to Optuna.
ODD = "a#1?x=1&y 50%20off+{z};é"


def write_coco(folder: Path) -> None:
    """Four images of noise with an object each, as train2017 and val2017."""
    generator = np.random.default_rng(0)
    for split in ("train2017", "val2017"):
        (folder / split).mkdir(parents=True)
        images, objects = [], []
        for number in range(1, 5):
            name = f"{number}.png"
            pixels = generator.integers(0, 255, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / split / name)
            images.append({"id": number, "file_name": name, "width": 64, "height": 64})
            box = {"bbox": [8, 8, 32, 32], "area": 1024, "iscrowd": 0}
            objects.append({"id": number, "image_id": number, "category_id": 1, **box})
        tree = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "noise"}]}
        (folder / "annotations").mkdir(exist_ok=True)
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(tree))


@pytest.mark.slow
def test_a_study_and_its_data_may_lie_anywhere_and_be_moved(output: Path, tmp_path: Path) -> None:
    text = "title: Mine\nkind: search\ntrials: 2\nspace: {detector.stages: {low: 1, high: 4}}\n"
    study = write_study(tmp_path, f"{text}first: [{{detector.stages: 2}}]\n")
    first, second = tmp_path / ODD / "runs", tmp_path / "moved, too #" / "%41"
    first.parent.mkdir()
    output.rename(first)
    write_coco(tmp_path / "coco")
    settings = [each for each in assignments(training__epochs=1) if "_images=" not in each]

    def launch(place: Path, data: Path) -> str:
        command = [study, "--data", f"coco:{data}", "--max-concurrent", "1", "--set", *settings]
        status, out, err = Launch(place, *command, "detector.weights=none").end()
        assert status == 0, err
        assert "could not" not in out + err
        return out

    assert "2 trained, 0 reused, 0 failed" in launch(first, tmp_path / "coco")
    second.parent.mkdir()
    first.rename(second)
    shutil.move(tmp_path / "coco", tmp_path / "elsewhere")
    assert "0 trained, 2 reused, 0 failed" in launch(second, tmp_path / "elsewhere")

    assert not list((tmp_path / ODD).iterdir()), "nothing is written where the output was"
    assert {path.name for path in second.parent.iterdir()} == {second.name}
    parents, children = runs(second, "mine")
    assert [len(parents), len(children), len(results(second))] == [1, 2, 2]
    client = MlflowClient(default_uri(second))
    for run in parents + children:
        assert run.info.status == "FINISHED"
        assert run.info.artifact_uri.startswith(f"{artifacts_of(default_uri(second), second)}/mine/")
        files = [file.path for file in client.list_artifacts(run.info.run_id) if not file.is_dir]
        assert files
        assert all(Path(client.download_artifacts(run.info.run_id, file)).exists() for file in files)
    assert {path.name for path in tmp_path.iterdir()} <= {ODD, second.parent.name, "elsewhere", "mine.yaml"}
