"""``drcnn export``: a trained detector as an ONNX file."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from drcnn.assignments import parse_assignments
from drcnn.commands.options import MODEL, SubCommands, add_changes
from drcnn.config import Config, ConfigError
from drcnn.trained_model import find_model

__all__ = ["add"]


def add(commands: SubCommands[argparse.ArgumentParser]) -> None:
    """Add the verb, with its options."""
    export = commands.add_parser(
        "export",
        help="write a trained detector as an ONNX file",
        description="Write a trained detector as one ONNX file that takes an image of any size, for "
        "onnxruntime and OpenVINO. Classes and preprocessing are in its metadata.",
        epilog="example: drcnn export runs/nms_sweep --output detector.onnx",
    )
    export.add_argument("model", metavar="MODEL", help=MODEL)
    export.add_argument("--output", type=Path, required=True, metavar="FILE.onnx")
    add_changes(export)
    export.add_argument("--json", action="store_true", help="print the metadata as JSON")
    export.set_defaults(run=_export)


def _export(options: argparse.Namespace) -> int:
    if options.output.suffix != ".onnx" or options.output.is_dir():
        raise ConfigError(f"--output {options.output}: give the path of a file that ends in .onnx")
    model = find_model(options.model)
    changes = {**model.changes, **parse_assignments(options.changes)}

    from drcnn.engine.checkpoint import read_state
    from drcnn.engine.export import export_onnx

    config = Config.from_yaml(read_state(model.checkpoint).config).with_changes(changes)
    metadata = export_onnx(model.checkpoint, config, options.output)
    if options.json:
        print(json.dumps({"output": str(options.output), **metadata}))
    else:
        print(f"{options.output}: {options.output.stat().st_size / 1e6:.1f} MB")
        for name, text in metadata.items():
            print(f"  {name}: {text}")
    return 0
