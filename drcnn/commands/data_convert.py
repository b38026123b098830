"""``drcnn data convert``: any data as COCO."""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from drcnn.commands.options import SubCommands, add_data, configuration

__all__ = ["add"]


def add(commands: SubCommands[argparse.ArgumentParser]) -> None:
    """Add the verb, with its options."""
    convert = commands.add_parser(
        "convert",
        help="write the data as COCO",
        description="Write annotations/instances_SPLIT.json and SPLIT/ with the images, as hard links where "
        "the file system allows, else as copies. Objects that are ignored (VOC's difficult) become iscrowd.",
        epilog="example: drcnn data convert photos --output photos_coco",
    )
    add_data(convert)
    convert.add_argument("--output", type=Path, required=True, help="a new folder")
    convert.set_defaults(run=_convert)


def _convert(options: argparse.Namespace) -> int:
    config = configuration(options)
    # Loads torch: not before the arguments are known to make sense.
    from drcnn.data.annotations import Annotations
    from drcnn.data.files.convert import write_coco
    from drcnn.data.prepare import prepare

    with TemporaryDirectory(prefix="drcnn-") as cache:
        prepared = prepare(config.data, Path(cache))
        tables = {split: Annotations.load(path) for split, path in prepared.tables.items()}
        write_coco(tables, options.output)
    print("\n".join(prepared.said_at_start(options.data)))
    print(f"{options.output}: written as COCO")
    return 0
