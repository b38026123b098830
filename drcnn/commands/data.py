"""``drcnn data``: look at a data folder."""

from __future__ import annotations

import argparse

from drcnn.commands import data_check
from drcnn.commands.options import SubCommands

__all__ = ["add"]


def add(commands: SubCommands[argparse.ArgumentParser]) -> None:
    """Add the verb, with its own verbs."""
    verbs = commands.add_parser("data", help="inspect a data folder").add_subparsers(required=True)
    data_check.add(verbs)
