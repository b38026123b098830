"""``drcnn data show``: sample images with their boxes, as one picture."""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from drcnn.commands.options import SubCommands, add_data, configuration
from drcnn.config import ConfigError

__all__ = ["add"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def add(commands: SubCommands[argparse.ArgumentParser]) -> None:
    """Add the verb, with its options."""
    show = commands.add_parser(
        "show",
        help="draw samples of all splits with their boxes, as one picture",
        epilog="example: drcnn data show photos --images 20 --output samples.png",
    )
    add_data(show)
    show.add_argument("--output", type=Path, default=Path("data.png"), help="the picture (data.png)")
    show.add_argument("--images", type=int, default=12, help="how many (12)")
    show.add_argument("--seed", type=int, default=0, help="chooses the images (0)")
    show.set_defaults(run=_show)


def _show(options: argparse.Namespace) -> int:
    if options.images < 1:
        raise ConfigError(f"--images {options.images}: expected at least 1")
    if options.output.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"--output {options.output}: expected a picture ({', '.join(SUFFIXES)})")
    config = configuration(options)
    # Loads torch: not before the arguments are known to make sense.
    from drcnn.data.annotations import Annotations
    from drcnn.data.files.drawing import numbers_in_words
    from drcnn.data.files.sheet import sheet
    from drcnn.data.prepare import prepare

    with TemporaryDirectory(prefix="drcnn-") as cache:
        prepared = prepare(config.data, Path(cache))
        tables = {split: Annotations.load(path) for split, path in prepared.tables.items()}
        picture = sheet(tables, options.images, options.seed)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    picture.save(options.output)
    print("\n".join(prepared.said_at_start(options.data)))
    print(f"{options.output}: {picture.width}x{picture.height} pixels, classes {', '.join(prepared.classes)}")
    if numbers := numbers_in_words(prepared.classes):
        print(numbers)
    return 0
