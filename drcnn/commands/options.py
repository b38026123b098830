"""Options that several verbs share, and what they stand for."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from drcnn.assignments import parse_assignments
from drcnn.config import Config
from drcnn.file_names import typed_path
from drcnn.recipes import PROFILES, configured

if TYPE_CHECKING:
    from drcnn.engine.run_options import RunOptions

__all__ = [
    "DATA_HELP",
    "MODEL",
    "SubCommands",
    "absolute_source",
    "add_changes",
    "add_configuration",
    "add_data",
    "configuration",
    "run_options",
]

SubCommands = argparse._SubParsersAction
DATA_HELP = (
    "digits, or a folder of VOC, COCO or YOLO labels, whose format is recognised; voc:DIR, coco:DIR or "
    "yolo:DIR say it; several folders are joined with +"
)

# What ``drcnn.trained_model`` finds.
MODEL = (
    "a checkpoint, the folder of a trial, the folder of a study (its best trial), or mlflow:RUN, "
    "the run of a study"
)


def add_changes(parser: argparse.ArgumentParser) -> None:
    """Add ``--set``: changes of settings, by dotted key."""
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", dest="changes")


def add_configuration(parser: argparse.ArgumentParser) -> None:
    """Add the options that name a whole configuration: profile, data and changes."""
    _add_profile(parser, "the settings before --set: laptop (default) or paper")
    parser.add_argument("--data", help=f"{DATA_HELP} (digits)")
    add_changes(parser)


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add the data, as the first argument, and what else decides which images are read of it."""
    parser.add_argument("data", help=DATA_HELP)
    _add_profile(parser, "which splits are read: those of laptop (default) or of paper")
    add_changes(parser)


def _add_profile(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--profile", choices=PROFILES, default="laptop", help=what)


def configuration(options: argparse.Namespace) -> Config:
    """Build the configuration that the options name.

    Raises:
        ConfigError: a setting is unknown or out of its range.
        DataError: there is no such folder, or its format is not known.
    """
    source = absolute_source(options.data or "digits")
    return configured(options.profile, source, parse_assignments(options.changes))


def absolute_source(text: str) -> str:
    """Return data with its format, ``voc:DIR``, and whole paths: a run is used from other folders too.

    Raises:
        DataError: there is no such folder, or its format is not known.
    """
    from drcnn.data.formats.folders import joined_folders
    from drcnn.data.formats.layouts import resolve_source

    form, colon, where = resolve_source(text).partition(":")
    if not where:
        return f"{form}{colon}"
    folders = (str(typed_path(folder).absolute()) for folder in joined_folders(where))
    return f"{form}:{'+'.join(folders)}"


def run_options() -> RunOptions:
    """Run on the GPU where there is one, else on the CPU."""
    import torch

    from drcnn.engine.run_options import RunOptions

    if torch.cuda.is_available():
        return RunOptions(device="cuda", loader_workers=8)
    return RunOptions()
