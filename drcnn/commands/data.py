"""``drcnn data``: check, show, convert or download data."""

from __future__ import annotations

import argparse

from drcnn.commands import data_check, data_convert, data_download, data_show
from drcnn.commands.options import SubCommands

__all__ = ["add"]


def add(commands: SubCommands[argparse.ArgumentParser]) -> None:
    """Add the verb, with its own verbs."""
    verbs = commands.add_parser("data", help="check, show, convert or download data").add_subparsers(
        required=True, metavar="VERB"
    )
    for verb in (data_check, data_show, data_convert, data_download):
        verb.add(verbs)
