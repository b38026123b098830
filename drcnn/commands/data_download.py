"""``drcnn data download``: VOC or COCO from their official sources."""

from __future__ import annotations

import argparse
import shlex
import sys
from functools import partial
from pathlib import Path

from drcnn.commands.options import SubCommands

__all__ = ["add"]

FOLDERS = {"voc": ("VOCdevkit/VOC2007", "VOCdevkit/VOC2012"), "coco": ("",)}


def add(commands: SubCommands[argparse.ArgumentParser]) -> None:
    """Add the verb, with its options."""
    download = commands.add_parser(
        "download",
        help="download VOC2007 and VOC2012 (2.9 GB) or COCO 2017 (20.4 GB) from their official sources",
        description="Download, check and unpack. The same command goes on after a stop.",
        epilog="example: drcnn data download voc --output data",
    )
    download.add_argument("name", choices=tuple(FOLDERS))
    download.add_argument("--output", type=Path, required=True, help="folder to unpack into")
    download.set_defaults(
        run=_download, interrupted="interrupted; the same command goes on within the file, or unpacks again"
    )


def _download(options: argparse.Namespace) -> int:
    from drcnn.data.files.download import ARCHIVES, download

    download(ARCHIVES[options.name], options.output, partial(print, file=sys.stderr, flush=True))
    folders = "+".join(str(options.output / folder) for folder in FOLDERS[options.name])
    print(f"drcnn data check {shlex.quote(f'{options.name}:{folders}')}")
    return 0
