"""Real annotations and synthetic detections, as finished trials of a study leave them."""

from __future__ import annotations

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from study_helpers import epoch

from drcnn.data.annotations import Annotations, Record
from drcnn.engine.average_precision import score_split
from studies.definition.plan import Trial

IMAGES = 24
LOWER = 0.05  # of val where there is a test split


def make_annotations() -> Annotations:
    random = np.random.default_rng(0)
    records = []
    for number in range(IMAGES):
        corners = random.uniform(0, 60, size=(3, 2))
        boxes = np.concatenate([corners, corners + random.uniform(15, 30, size=(3, 2))], axis=1)
        pixels = io.BytesIO()
        Image.new("RGB", (96, 96), (40, 60, 80)).save(pixels, format="PNG")
        records.append(
            Record(f"i{number:02}", 96, 96, boxes, random.integers(0, 2, 3), image=pixels.getvalue())
        )
    return Annotations.from_records(records, ["cat", "dog"])


def detect(annotations: Annotations, blur: float, seed: int) -> pa.Table:
    """The objects, each corner moved by about ``blur`` pixels, under random scores, and a few false ones."""
    random = np.random.default_rng(seed)
    count = len(annotations.all_boxes)
    boxes = annotations.all_boxes + random.normal(0, blur, size=(count, 4))
    ids = np.repeat(annotations.ids, np.diff(annotations.offsets))
    false = boxes[::4] + 20
    boxes = np.concatenate([boxes, false]).astype(np.float32)
    columns = dict(zip(("x1", "y1", "x2", "y2"), boxes.T, strict=True))
    labels = np.concatenate([annotations.all_labels, annotations.all_labels[::4]]).astype(np.int32)
    scores = np.concatenate([random.uniform(0.5, 1, count), random.uniform(0.1, 0.6, len(false))])
    return pa.table(
        {"image_id": np.concatenate([ids, ids[::4]]), "label": labels, "score": scores.astype(np.float32)}
        | columns
    )


def finish_detector(trial: Trial, annotations: Annotations, blur: float, seed: int | None = None) -> None:
    """What a finished trial leaves, with figures that agree with its detections."""
    trial.folder.mkdir(parents=True, exist_ok=True)
    table = detect(annotations, blur, trial.config.seed if seed is None else seed)
    pq.write_table(table, trial.folder / "detections.parquet")
    ap = score_split(annotations, table).ap()
    judged = {"AP": ap.mean(), "AP50": ap[0], "AP80": ap[6], "AP90": ap[8]}
    lower = LOWER if trial.data.judged == "test" else 0.0
    figures = {f"val/{name}": value - lower for name, value in judged.items()}
    figures |= {f"test/{name}": value for name, value in judged.items()} if lower else {}
    cost = {"perf/epoch_seconds": 50.0, "perf/eval_seconds": 10.0, "perf/images_per_s": 2.0}
    history = [{**epoch(1, ap.mean() / 2), **cost}, {**epoch(2, ap.mean() - lower), **figures, **cost}]
    record = {"status": "finished", "history": history, "seconds": 120.0}
    (trial.folder / "result.json").write_text(json.dumps(record))
