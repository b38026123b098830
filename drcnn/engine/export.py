"""Write a trained detector as one ONNX file, which onnxruntime and OpenVINO run without drcnn.

Input: ``image``, uint8[height, width, 3] in RGB, of any size, resized as in training. Outputs, best first:
``boxes`` float32[D, 4], xyxy in pixels of that image, ``scores`` float32[D], ``labels`` int64[D]. The file's
metadata hold the names of the classes, how to resize, and where the detector comes from.
"""

from __future__ import annotations

import io
import json
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch

from drcnn.config import Config, ConfigError
from drcnn.engine.checkpoint import load_detector
from drcnn.engine.export_detector import ExportedDetector
from drcnn.files import replacing

__all__ = ["export_onnx"]

# The first with RoiAlign at half pixels (16) and all that torch's exporter uses.
OPSET = 18


def export_onnx(checkpoint: Path, config: Config, path: Path) -> dict[str, str]:
    """Export a checkpoint; return the metadata that the file has.

    Args:
        checkpoint: of a trained detector.
        config: how to detect; the architecture must be the checkpoint's.
        path: of the file to write.

    Raises:
        CheckpointError: the file is no checkpoint, or of another architecture.
        ConfigError: a package is missing, or ONNX cannot express the detector.
    """
    try:
        import onnx_ir
        import onnxscript  # noqa: F401 - torch's exporter imports it
    except ImportError as error:
        raise ConfigError(f"export needs the package {error.name}: pip install 'drcnn[export]'") from None
    if config.detector.soft_nms:
        raise ConfigError(
            "detector.soft_nms has no operator in ONNX; export with --set detector.soft_nms=false"
        )
    detector, state = load_detector(checkpoint, "cpu", config.detector)
    program = _export(ExportedDetector(detector).eval())
    metadata = _metadata(config, state.classes)
    program.model.metadata_props.update(metadata)
    # Instead of torch's numbered symbols.
    program.model.graph.inputs[0].shape = onnx_ir.Shape(["height", "width", 3])
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft:
        program.save(draft, external_data=False)
    return metadata


def _export(detector: ExportedDetector) -> torch.onnx.ONNXProgram:
    side = torch.export.Dim.DYNAMIC
    # Sides that are unequal and no multiples of the stride: nothing may be taken for a constant.
    example = torch.randint(0, 256, (299, 403, 3), dtype=torch.uint8)
    # What the exporter says of its own passes concerns nobody who exports a detector.
    with torch.no_grad(), warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        exported = torch.export.export(
            detector, (example,), dynamic_shapes=({0: side, 1: side},), strict=False
        )
        program = torch.onnx.export(
            exported,
            dynamo=True,
            opset_version=OPSET,
            input_names=["image"],
            output_names=["boxes", "scores", "labels"],
            custom_translation_table={torch.ops.drcnn.nms.default: _suppress_in_onnx},
            verbose=False,
        )
    assert program is not None, "returned by the exporter that is asked for"
    return program


def _suppress_in_onnx(boxes: Any, scores: Any, iou: float, most: int, above: float) -> Any:
    """``drcnn::nms`` as ``NonMaxSuppression``, whose batches are our groups, with a class each."""
    from onnxscript import opset18

    op: Any = opset18  # its annotations refuse its own constants
    kept = op.NonMaxSuppression(
        boxes,
        op.Unsqueeze(scores, op.Constant(value_ints=[1])),
        op.Constant(value_ints=[most]),
        op.Constant(value_floats=[iou]),
        op.Constant(value_floats=[above]),
    )
    return op.Gather(kept, op.Constant(value_ints=[0, 2]), axis=1)


def _metadata(config: Config, classes: list[str]) -> dict[str, str]:
    data = config.data
    resize: dict[str, Any] | str = "none: the image is taken as it is"
    if data.short_side is not None:
        resize = {
            "short_side": data.short_side,
            "long_side_at_most": data.long_side,
            "ratio": "kept",
            "interpolation": "bilinear with antialiasing",
        }
    preprocessing = {
        "resize": resize,
        "input": "uint8[height, width, 3], RGB, 0 to 255; normalised and padded in the model",
        "boxes": "x1, y1, x2, y2 in pixels of the resized image",
    }
    return {
        "classes": json.dumps(classes, ensure_ascii=False),
        "preprocessing": json.dumps(preprocessing),
        "detector": config.detector.variant,
    }
