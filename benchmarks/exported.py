"""A trained detector in torch, and its exported form in onnxruntime and OpenVINO: time an image, and AP.

    python -m benchmarks.exported runs/one
    python -m benchmarks.exported runs/one --images 100 --repeats 7 --threads 1 --json

MODEL is what ``drcnn evaluate`` takes; its own test split is detected, an image at a time, by each engine in
turn. OpenVINO computes in float32, in bf16 (where the processor has it), and in int8: weights and maps are
quantised after training, with ranges from images of the training split. That needs NNCF (``pip install
nncf``), which is no dependency; without it int8 is left out, and said.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from drcnn.batch import Batch
from drcnn.config import Config
from drcnn.data.annotations import Annotations
from drcnn.data.loader import make_loader
from drcnn.data.prepare import prepare
from drcnn.detector.fused import Weights, unchanged_weights
from drcnn.engine.checkpoint import load_detector, read_state
from drcnn.engine.evaluate import detect_batch, detections_table, make_metric
from drcnn.engine.export import export_onnx
from drcnn.engine.precision import autocast
from drcnn.trained_model import find_model

__all__ = ["Engine", "Row", "make_engines", "measure"]

OUTPUTS = ("boxes", "scores", "labels")
# Images that ranges of int8 are taken from, and images that are timed.
CALIBRATION, TIMED = 100, 32

# Detects in a batch of one image; returns columns, as ``detect_batch`` does.
Engine = Callable[[Batch], dict[str, NDArray[Any]]]


@dataclass(frozen=True)
class Row:
    """An engine's figures: milliseconds an image (median of the rounds), AP and AP50 as fractions of 1."""

    engine: str
    milliseconds: float
    ap: float
    ap50: float


def measure(
    checkpoint: Path, config: Config, cache: Path, *, images: int | None, repeats: int, threads: int
) -> list[Row]:
    """Detect a model's test split in every engine.

    Args:
        checkpoint: of the trained detector.
        config: how to detect.
        cache: folder for the prepared data.
        images: judged, the first of the split; all if none.
        repeats: timed rounds, in which the engines take turns, after one that warms up.
        threads: of each engine.
    """
    torch.set_num_threads(threads)
    data = prepare(config.data, cache)
    truth = Annotations.load(data.judged_table)
    truth = truth if images is None else truth.first(images)
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "judged.arrow"
        truth.save(table)
        batches = list(_batches(str(table), config))
        calibration = list(islice(_batches(data.train, config), CALIBRATION))
        path = Path(folder) / "detector.onnx"
        export_onnx(checkpoint, config, path)
        engines = make_engines(checkpoint, config, path, calibration, threads)
        judge = make_metric(config.evaluation, truth)
        tables = {
            name: detections_table(truth, list(map(engine, batches))) for name, engine in engines.items()
        }
        metrics = {name: judge(table).summary for name, table in tables.items()}
        seconds = _seconds(engines, batches[:TIMED], repeats)
    return [
        Row(name, 1000 * seconds[name] / len(batches[:TIMED]), metrics[name]["AP"], metrics[name]["AP50"])
        for name in engines
    ]


def _batches(table: str, config: Config) -> Any:
    return make_loader(table, config.data, training=False, batch_size=1)


def _seconds(engines: dict[str, Engine], batches: Sequence[Batch], repeats: int) -> dict[str, float]:
    rounds: dict[str, list[float]] = {name: [] for name in engines}
    for number in range(1 + repeats):
        for name, engine in engines.items():
            began = time.perf_counter()
            for batch in batches:
                engine(batch)
            rounds[name] += [time.perf_counter() - began] * (number > 0)
    return {name: statistics.median(spent) for name, spent in rounds.items()}


def make_engines(
    checkpoint: Path, config: Config, path: Path, calibration: Sequence[Batch], threads: int
) -> dict[str, Engine]:
    """Make an engine of each kind that there is here.

    Args:
        checkpoint: of the trained detector.
        config: how to detect.
        path: the same, exported.
        calibration: batches of one image, for the ranges of int8.
        threads: of each engine; those of torch are the process's.
    """
    engines = {
        "torch float32": _in_torch(checkpoint, config, "none"),
        "torch bf16": _in_torch(checkpoint, config, "bf16"),
        "onnxruntime float32": _in_onnxruntime(path, threads),
    }
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    engines["OpenVINO float32"] = _in_openvino(core, model, "f32", threads)
    if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        engines["OpenVINO bf16"] = _in_openvino(core, model, "bf16", threads)
    else:
        print("this processor has no bf16: OpenVINO's is left out", file=sys.stderr)
    try:
        import nncf
    except ImportError as error:
        print(f"int8 is left out: the package {error.name} is missing (pip install nncf)", file=sys.stderr)
        return engines
    images = nncf.Dataset(calibration, lambda batch: {"image": _pixels(batch)})
    quantised = nncf.quantize(core.read_model(path), images, subset_size=len(calibration))
    engines["OpenVINO int8"] = _in_openvino(core, quantised, "f32", threads)
    return engines


def _in_torch(checkpoint: Path, config: Config, amp: str) -> Engine:
    detector, _ = load_detector(checkpoint, config=config.detector)
    weights: Weights = {}

    @torch.inference_mode()
    def run(batch: Batch) -> dict[str, NDArray[Any]]:
        with autocast(torch.device("cpu"), amp), unchanged_weights(weights):
            return detect_batch(detector, batch)

    return run


def _in_onnxruntime(path: Path, threads: int) -> Engine:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, settings)

    def run(batch: Batch) -> dict[str, NDArray[Any]]:
        return _columns(batch, *session.run(list(OUTPUTS), {"image": _pixels(batch)}))

    return run


def _in_openvino(core: Any, model: Any, precision: str, threads: int) -> Engine:
    compiled = core.compile_model(
        model, "CPU", {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads}
    )

    def run(batch: Batch) -> dict[str, NDArray[Any]]:
        found = compiled({"image": _pixels(batch)})
        return _columns(batch, *[found[name] for name in OUTPUTS])

    return run


def _columns(
    batch: Batch, boxes: NDArray[Any], scores: NDArray[Any], labels: NDArray[Any]
) -> dict[str, NDArray[Any]]:
    """The columns of an image's detections, from what the exported detector returns (OUTPUTS)."""
    corners = (boxes / np.tile(batch.scales[0].numpy(), 2)).astype(np.float32)
    sides = dict(zip(("x1", "y1", "x2", "y2"), corners.T, strict=True))
    row = np.full(len(scores), int(batch.rows[0]))
    return {"row": row, "label": labels.astype(np.int32), "score": scores, **sides}


def _pixels(batch: Batch) -> NDArray[np.uint8]:
    """The one image of a batch as uint8[H, W, 3], without its padding."""
    height, width = batch.sizes[0].int().tolist()
    pixels: NDArray[np.uint8] = batch.images[0, :, :height, :width].permute(1, 2, 0).contiguous().numpy()
    return pixels


def main() -> None:
    """Print the figures of every engine."""
    parser = argparse.ArgumentParser(prog="benchmarks.exported", description=__doc__.splitlines()[0])
    parser.add_argument("model", metavar="MODEL", help="a checkpoint, or the folder of a trial or a study")
    parser.add_argument("--images", type=int, help="of the test split, the first N (all)")
    parser.add_argument("--repeats", type=int, default=5, help="timed rounds (5)")
    parser.add_argument("--threads", type=int, default=1, help="of each engine (1)")
    parser.add_argument(
        "--cache", type=Path, default=Path("runs/data"), help="of the prepared data (runs/data)"
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    model = find_model(options.model)
    config = Config.from_yaml(read_state(model.checkpoint).config).with_changes(model.changes)
    rows = measure(
        model.checkpoint,
        config,
        options.cache,
        images=options.images,
        repeats=options.repeats,
        threads=options.threads,
    )
    if options.json:
        print(json.dumps([row.__dict__ for row in rows]))
        return
    print(f"{'':22}{'ms an image':>12}{'/ torch':>9}{'AP':>8}{'AP50':>8}")
    for row in rows:
        ratio = row.milliseconds / rows[0].milliseconds
        print(f"{row.engine:22}{row.milliseconds:12.1f}{ratio:9.2f}{100 * row.ap:8.2f}{100 * row.ap50:8.2f}")


if __name__ == "__main__":
    main()
