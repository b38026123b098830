"""The output folder: prepared data, one launch of a study at a time, and nothing left behind by bad input."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from drcnn.config import ConfigError, DataConfig
from drcnn.data.annotations import DataError
from drcnn.data.prepare import PreparedData, prepare
from studies.study import StudyError
from studies.trials import Plan

__all__ = ["alone", "no_trace_of_bad_input", "prepared_data", "put_aside"]


@contextmanager
def no_trace_of_bad_input(output: Path) -> Iterator[None]:
    """Remove an output folder that this launch made, if it turns out that the request cannot be met."""
    is_new = not output.exists()
    try:
        yield
    except (StudyError, ConfigError, DataError):
        if is_new and not (output / "trials").exists():
            shutil.rmtree(output, ignore_errors=True)
        raise


@contextmanager
def prepared_data(output: Path, *, is_kept: bool) -> Iterator[Callable[[DataConfig], PreparedData]]:
    """Give what prepares data, once, in the output folder; what is not kept makes no output folder.

    Raises:
        StudyError: nothing can be written there.
    """
    known: dict[DataConfig, PreparedData] = {}
    with tempfile.TemporaryDirectory() as scratch:
        is_lost = not is_kept and not output.exists()
        cache = Path(scratch) if is_lost else output.resolve() / "data"
        try:
            cache.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StudyError(f"--output {output}: cannot write there: {error.strerror}") from None

        def of(data: DataConfig) -> PreparedData:
            if data not in known:
                known[data] = prepare(data, cache)
            return known[data]

        yield of


@contextmanager
def alone(plan: Plan) -> Iterator[None]:
    """Hold the study's lock: two launches of one study in one folder would write each other's record.

    Raises:
        StudyError: another one holds it.
    """
    plan.folder.mkdir(parents=True, exist_ok=True)
    with (plan.folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StudyError(
                f"{plan.name} is running already in {plan.output}; wait, or give another --output"
            ) from None
        yield


def put_aside(paths: Sequence[Path], folder: Path) -> None:
    """Move what there is of these into a folder."""
    for path in paths:
        if path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            path.rename(folder / path.name)
