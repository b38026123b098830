"""Run a study: ``python studies/run_study.py nms_sweep``. The same command resumes it after a stop.

    --list                              the studies there are
    nms_sweep --dry-run                 the trials it would run, and how long they take
    nms_sweep --smoke                   two tiny trials, to see that everything works
    nms_sweep --seeds 3                 three replicates of each setting
    search --data photos --budget 2h    what fits into two hours; the same command goes on with the rest
    report search                       write the report again, from the output folder

Exit status: 0 all trials finished (or are left, as a budget says), 1 some failed or MLflow lacks runs (it
says which and why), 2 bad input or a full disk, 130 interrupted: Ctrl-C, SIGTERM and a closed terminal
(SIGHUP) end a study in order; under nohup it survives its terminal.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__" and not __package__:
    # Started as a file: import this checkout's packages, not the modules beside this file.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import os
from dataclasses import fields
from functools import partial
from importlib.metadata import version
from typing import NoReturn

from drcnn.config import ConfigError
from drcnn.data.annotations import DataError
from drcnn.files import DiskFullError
from drcnn.plain_text import allow_any_terminal, printable
from drcnn.recipes import PROFILES
from drcnn.signals import end_in_order
from studies.definition.errors import FetchError, StudyError
from studies.definition.overrides import check_weights
from studies.definition.request import Request, parse_budget, resolve
from studies.definition.study_file import catalogue, load
from studies.resources.own_token import require_own_token

__all__ = ["main"]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message} (--help explains)", file=sys.stderr)
        raise SystemExit(2)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    allow_any_terminal()
    words = sys.argv[1:] if arguments is None else arguments
    is_report = words[:1] == ["report"]
    options = _report_parser().parse_args(words[1:]) if is_report else _study_parser().parse_args(words)
    if not is_report and options.list:
        _print_catalogue(getattr(options, "profile", Request.profile))
        return 0
    try:
        end_in_order("nothing was begun")
        return _report(options) if is_report else _run(options)
    except (StudyError, ConfigError, DataError, FetchError, DiskFullError) as error:
        print(f"run_study: {printable(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interruption:
        print(f"run_study: interrupted; {interruption}", file=sys.stderr)
        return 130


def _print_catalogue(profile: str) -> None:
    """Show every study of the catalogue: its trials on this profile, what it answers, and its title."""
    heading = "settings × seeds"
    print(f"{'study':10} {'trials':>6}  {heading}  {'answers':17}  title ({profile} profile)")
    for name in catalogue():
        study = load(name)[1]
        counts = study.counts(profile)
        trials = sum(settings * seeds for settings, seeds in counts)
        product = " + ".join(f"{settings} × {seeds}" for settings, seeds in counts)
        print(f"{name:10} {trials:>6}  {product:{len(heading)}}  {study.answers:17}  {study.title}")


def _report(options: argparse.Namespace) -> int:
    from studies.execution.report_command import report

    return report(options.study, options.output, options.storage, options.margin, options.price)


def _run(options: argparse.Namespace) -> int:
    if not options.names:
        raise StudyError("which study? give a NAME (--list shows all)")
    if options.names[0] == "report":
        raise StudyError("put 'report' first: run_study.py report NAME --output DIR")
    if len(options.names) > 1:
        raise StudyError(f"{' '.join(options.names)}: one study at a time")
    given = {field.name for field in fields(Request)} & vars(options).keys()
    request = Request(options.names[0], **{name: getattr(options, name) for name in given})
    name, overrides = resolve(request)
    check_weights(name, overrides)
    if not request.machines.is_cluster:
        require_own_token()
    # Loads torch: not before the request is known to make sense.
    from studies.execution.launch import execute

    return execute(request, name, overrides)


def _study_parser() -> _Parser:
    # An option that is not given keeps the default of its field in Request.
    parser = _Parser(
        prog="run_study",
        description="Run a study, or resume it after a stop: the same command goes on with what is left.",
        epilog="\n\n".join(("examples (run_study.py ...):", *__doc__.rstrip().split("\n\n")[1:])),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--version", action="version", version=f"drcnn {version('drcnn')}")
    parser.add_argument(
        "names", nargs="*", default=[], metavar="NAME", help="a study of the catalogue, or a .yaml file"
    )
    parser.add_argument(
        "--list", action="store_true", default=False, help="show the studies of the catalogue"
    )
    parser.add_argument("--profile", choices=PROFILES, help="laptop (default) or paper")
    parser.add_argument(
        "--data",
        dest="source",
        metavar="SOURCE",
        help="digits (default), or a folder of VOC, COCO or YOLO labels, whose format is recognised; "
        "voc:DIR, coco:DIR or yolo:DIR say it, and DIR may be s3://BUCKET/FOLDER; several are joined with +",
    )
    parser.add_argument(
        "--on-bad-data",
        choices=("fail", "skip"),
        help="on an image that cannot be used: fail (default), or skip it and say so",
    )
    parser.add_argument(
        "--set",
        dest="assignments",
        nargs="+",
        action=_Extend,
        metavar="KEY=VALUE",
        help="change settings of every trial",
    )
    parser.add_argument(
        "--weights",
        nargs="+",
        action=_Extend,
        metavar="BACKBONE=FILE",
        help="pretrained weights of a backbone, wherever a trial has it",
    )
    parser.add_argument("--seeds", type=_count, metavar="N", help="replicates of each setting")
    parser.add_argument(
        "--budget",
        type=_budget,
        metavar="TIME",
        help="begin nothing that cannot end within this time (2h, 90m, 1h30m, 45s); without --seeds, as many "
        "replicates as fit, at most 10",
    )
    _add_report_options(parser, f"default: {Request.margin:g}")
    _add_machine_options(parser)
    _add_place_options(parser)
    parser.add_argument(
        "--tracking-uri",
        metavar="URI",
        # The driver alone writes to MLflow: workers need no address, which may hold a password.
        default=os.environ.pop("MLFLOW_TRACKING_URI", None),
        help="MLflow's server or database; default: $MLFLOW_TRACKING_URI, else mlflow.db in --output",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="show the trials and how long they take; writes nothing but downloaded data",
    )
    parser.add_argument(
        "--smoke", action="store_true", help="run two tiny trials, kept apart from the study's own"
    )
    parser.add_argument("--fresh", action="store_true", help="archive earlier results and start again")
    return parser


def _add_machine_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workers-per-trial",
        dest="workers",
        type=_count,
        metavar="N",
        help="train each trial with N processes, each with a GPU or a core of its own (default: 1)",
    )
    parser.add_argument(
        "--gpus-per-worker",
        type=_gpus,
        metavar="F",
        help="GPUs of each process: 0.5 for two trials on one GPU (with one worker a trial only), "
        "0 for the CPU; default: 1 where there are GPUs",
    )
    parser.add_argument(
        "--max-concurrent",
        type=_count,
        metavar="N",
        help="at most N trials at once; default: as many as fit, counting nodes the autoscaler may start",
    )
    parser.add_argument("--address", help="local (default), or auto: the cluster that this runs on")


def _add_place_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="folder for results (default: runs); on a cluster all nodes share it, or give --storage",
    )
    parser.add_argument(
        "--storage",
        metavar="URI",
        help="object store (s3://BUCKET/PREFIX or the like) for clusters whose nodes share no folder",
    )


def _add_report_options(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument(
        "--margin",
        type=partial(_above_zero, below=100, expected="AP points above 0 and below 100"),
        metavar="POINTS",
        help="settings are equivalent where the whole 95 %% interval of their difference lies within so many "
        f"AP points ({default})",
    )
    parser.add_argument(
        "--price",
        type=partial(_above_zero, below=1e6, expected="dollars a GPU hour, such as 1.42"),
        metavar="DOLLARS",
        help="of a GPU for an hour: the report tells what the measured GPU hours cost",
    )


def _report_parser() -> _Parser:
    parser = _Parser(
        prog="run_study report",
        description="Write the report of a study again, from what its trials' folders hold. A running study "
        "is not disturbed.",
    )
    parser.add_argument("study", metavar="NAME", help="the study; that of --smoke is NAME-smoke")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", default=Request.output, help="the launch's output folder"
    )
    parser.add_argument(
        "--storage", metavar="URI", help="the launch's object store; what is missing here is downloaded"
    )
    _add_report_options(parser, "default: the launch's")
    return parser


class _Extend(argparse.Action):
    """Collect the words of an option that is given several times in one tuple."""

    def __call__(self, parser: object, namespace: object, values: object, option: object = None) -> None:
        assert isinstance(values, list)
        setattr(namespace, self.dest, (*getattr(namespace, self.dest, ()), *values))


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return int(text)


def _budget(text: str) -> float:
    try:
        return parse_budget(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _above_zero(text: str, below: float, expected: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < below:
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
    return value


def _gpus(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if value < 0 or (value > 1 and not value.is_integer()):
        raise argparse.ArgumentTypeError(f"expected 0, a part of 1, or a whole number of GPUs, got {text!r}")
    return value


if __name__ == "__main__":
    sys.exit(main())
