"""``drcnn data``: check, show, convert or download data."""

from __future__ import annotations

import argparse
import json

from drcnn.commands import data_convert, data_download, data_show
from drcnn.commands.options import DATA_HELP, SubCommands, add_changes, configuration

__all__ = ["add"]


def add(commands: SubCommands[argparse.ArgumentParser]) -> None:
    """Add the verb, with its options."""
    data = commands.add_parser("data", help="check, show, convert or download data").add_subparsers(
        required=True
    )
    check = data.add_parser("check", help="list every fault of all splits")
    check.add_argument("data", help=DATA_HELP)
    add_changes(check)
    check.add_argument("--json", action="store_true")
    check.set_defaults(run=_check, profile="laptop")
    for verb in (data_show, data_convert, data_download):
        verb.add(data)


def _check(options: argparse.Namespace) -> int:
    from drcnn.data.prepare import check
    from drcnn.data.sources import recognised

    config = configuration(options)
    faults = check(config.data)
    if options.json:
        print(json.dumps({"faults": faults}))
    else:
        if words := recognised(config.data):
            print(f"data: {words}")
        print("\n".join(faults) or f"{options.data}: no faults")
    return 1 if faults else 0
