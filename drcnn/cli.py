"""The ``drcnn`` command: train, evaluate, compare, predict and export detectors, check data, measure speed.

drcnn train --data voc:VOC2007 --set training.epochs=4 --output runs/one
drcnn evaluate runs/one --data voc:VOC2007
drcnn compare runs/one runs/two
drcnn predict runs/one photos/ --output found
drcnn export runs/one --output detector.onnx
drcnn data check coco:COCO
drcnn complexity --set detector.variant=decoupled_cascade
drcnn bench
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version

import shtab

from drcnn.commands import compare, data, evaluate, export, predict, settings, speed, train
from drcnn.config import ConfigError
from drcnn.plain_text import allow_any_terminal, printable
from drcnn.signals import INTERRUPTED, end_in_order

__all__ = ["main"]

BAD_INPUT = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    0: done; 1: training failed, or faults found; 2: bad input, or files or the network failed (one line says
    which); 130: interrupted, by Ctrl-C, SIGTERM or SIGHUP (a closed terminal; not under nohup).
    """
    allow_any_terminal()
    options = _parser().parse_args(arguments)
    from drcnn.data.annotations import DataError
    from drcnn.engine.errors import CheckpointError, TrainingDiverged

    try:
        end_in_order()
        status: int = options.run(options)
    except (ConfigError, DataError, CheckpointError, OSError) as error:
        print(f"drcnn: {printable(' '.join(str(error).splitlines()))}", file=sys.stderr)
        return BAD_INPUT
    except TrainingDiverged as error:
        print(f"drcnn: {printable(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"drcnn: {getattr(options, 'interrupted', 'stopped')}", file=sys.stderr)
        return INTERRUPTED
    return status


def _parser() -> argparse.ArgumentParser:
    summary, examples = __doc__.split("\n", 1)
    parser = argparse.ArgumentParser(
        prog="drcnn",
        description=summary,
        epilog=f"examples:{examples.rstrip()}\n\n'drcnn COMMAND --help' explains a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"drcnn {version('drcnn')}")
    shtab.add_argument_to(parser, "--print-completion", help="print the shell's completion script")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for verb in (train, evaluate, compare, predict, export, data, settings, speed):
        verb.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
