"""Run a study: ``python studies/run_study.py nms_sweep``. Run the same command again to go on after a stop.

    --list                 the studies there are
    NAME --dry-run         the trials it would run
    NAME --smoke           two tiny trials, to see that everything works
    NAME --seeds 3         three replicates a setting
    report NAME            the report again, of what is in the output folder

Exit status: 0 all trials finished, 1 some failed (it says which and why), 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__" and not __package__:
    # Started as a file: import this checkout's packages, not the modules beside this file.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import os
import signal
from types import FrameType
from typing import NoReturn

from drcnn.config import ConfigError
from drcnn.data.annotations import DataError
from studies.definition.errors import FetchError, StudyError
from studies.definition.study import load, shipped

__all__ = ["main"]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        print(f"run_study: {message} (--help explains)", file=sys.stderr)
        raise SystemExit(2)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    given = _parser().parse_args(arguments)
    if given.list:
        _list(given.profile)
        return 0
    try:
        if given.name is None:
            raise StudyError("which study? give a NAME (--list shows all)")
        if given.name == "report" and given.of is None:
            raise StudyError("report of which study? give: report NAME")
        if given.name != "report" and given.of is not None:
            raise StudyError(f"{given.name} {given.of}: one study at a time")
        signal.signal(signal.SIGINT, _interrupt)
        signal.signal(signal.SIGTERM, _interrupt)
        return _report(given) if given.name == "report" else _execute(given)
    except (StudyError, ConfigError, DataError, FetchError) as error:
        print(f"run_study: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interruption:
        print(f"run_study: interrupted; {interruption}", file=sys.stderr)
        return 130


def _list(profile: str) -> None:
    """Show every study of the catalogue: its trials on this profile, what it is, and what it answers."""
    print(f"{'study':10} {'trials':>6}  {'answers':17}  title ({profile} profile)")
    for name in shipped():
        study = load(name)[1]
        print(f"{name:10} {study.count(profile):>6}  {study.answers:17}  {study.title}")


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """The first signal ends the study in order; a second one ends the process."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda *_: os._exit(130))
    raise KeyboardInterrupt("nothing was begun")


def _report(given: argparse.Namespace) -> int:
    from studies.execution.report_command import report

    return report(given.of, Path(given.output))


def _execute(given: argparse.Namespace) -> int:
    # With torch and scikit-learn behind it: not for --list, nor for a mistyped option.
    from studies.definition.request import Request
    from studies.execution.launch import execute

    request = Request(
        study=given.name,
        profile=given.profile,
        source=given.data,
        assignments=tuple(pair for group in given.set for pair in group),
        seeds=given.seeds,
        on_bad_data=given.on_bad_data,
        workers=given.workers_per_trial,
        gpus_per_worker=given.gpus_per_worker,
        max_concurrent=given.max_concurrent,
        address=given.address,
        storage=given.storage,
        # The driver alone writes to MLflow: what is in the address is no business of the workers.
        tracking_uri=given.tracking_uri or os.environ.pop("MLFLOW_TRACKING_URI", None),
        output=Path(given.output),
        dry_run=given.dry_run,
        smoke=given.smoke,
        fresh=given.fresh,
    )
    return execute(request)


def _parser() -> _Parser:
    parser = _Parser(
        prog="run_study", description="Run a study; run the same command again to go on after a stop."
    )
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="a study of the catalogue, a .yaml file, or 'report'"
    )
    parser.add_argument("of", nargs="?", metavar="NAME", help="after 'report': the study")
    parser.add_argument("--list", action="store_true", help="show the studies there are")
    parser.add_argument("--profile", choices=("laptop", "paper"), default="laptop")
    parser.add_argument(
        "--data", metavar="SOURCE", default="digits", help="digits, voc:DIR or coco:DIR (or s3://...)"
    )
    parser.add_argument(
        "--on-bad-data", choices=("fail", "skip"), default="fail", help="what unusable images do"
    )
    parser.add_argument(
        "--set",
        nargs="+",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a setting of every trial",
    )
    parser.add_argument("--seeds", type=_count, metavar="N", help="replicates of each setting")
    parser.add_argument(
        "--workers-per-trial",
        type=_count,
        default=1,
        metavar="N",
        help="train each trial with N processes together, each with a GPU or a core of its own (default: 1)",
    )
    parser.add_argument(
        "--gpus-per-worker",
        type=_share,
        metavar="F",
        help="of each of these processes: 0.5 for two trials on one GPU (with one worker a trial only), "
        "0 for the CPU; default: 1 where there are GPUs",
    )
    parser.add_argument(
        "--max-concurrent",
        type=_count,
        metavar="N",
        help="trials at once, at most; default: as many as fit, on nodes yet to be started too",
    )
    parser.add_argument("--address", default="local", help="local, or auto: the cluster that this runs on")
    parser.add_argument(
        "--tracking-uri",
        metavar="URI",
        help="of MLflow; default: $MLFLOW_TRACKING_URI, else mlflow.db in the output folder",
    )
    parser.add_argument("--output", default="runs", metavar="DIR", help="on a cluster one that nodes share")
    parser.add_argument(
        "--storage", metavar="URI", help="s3://BUCKET/PREFIX or the like, where nodes share no folder"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="show the trials, and how long they take; writes nothing but the data of an object store",
    )
    parser.add_argument(
        "--smoke", action="store_true", help="two tiny trials, kept apart from the study's own"
    )
    parser.add_argument("--fresh", action="store_true", help="start again; what there is is put aside")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return int(text)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if value < 0 or (value > 1 and not value.is_integer()):
        raise argparse.ArgumentTypeError(f"expected 0, a part of 1, or a whole number of GPUs, got {text!r}")
    return value


if __name__ == "__main__":
    sys.exit(main())
