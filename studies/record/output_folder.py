"""The output folder: prepared data, one launch of a study at a time, and nothing left behind by bad input."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from drcnn.config import ConfigError, DataConfig
from drcnn.data.annotations import DataError
from drcnn.data.prepare import PreparedData, prepare
from studies.definition.errors import FetchError, StudyError
from studies.definition.plan import Plan

__all__ = ["alone", "archive", "no_trace_of_bad_input", "prepared_data"]

# In the folder of prepared data, locked by every launch that works there.
IN_USE = ".in_use"


@contextmanager
def no_trace_of_bad_input(output: Path) -> Iterator[None]:
    """Remove an output folder that this launch made, if it turns out that the request cannot be met.

    What was fetched from an object store stays: the next request would wait for it again.
    """
    is_new = not output.exists()
    try:
        yield
    except (StudyError, ConfigError, DataError, FetchError):
        if is_new and not (output / "trials").exists():
            _remove(output)
        raise


def _remove(output: Path) -> None:
    """Remove all but fetched data, unless another launch has begun to work there."""
    data = output / "data"
    with suppress(OSError), (data / IN_USE).open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for path in output.iterdir():
            if path != data:
                _delete(path)
        if any(path.is_dir() for path in data.iterdir()):
            for table in data.glob("*.arrow"):
                table.unlink()
        else:
            shutil.rmtree(output)


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


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
            in_use = (cache / IN_USE).open("a+")
        except OSError as error:
            raise StudyError(f"--output {output}: cannot write there: {error.strerror}") from None

        def of(data: DataConfig) -> PreparedData:
            if data not in known:
                known[data] = prepare(data, cache)
            return known[data]

        with in_use:
            # Any number of launches may hold it together: while one does, none removes anything.
            fcntl.flock(in_use, fcntl.LOCK_SH)
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


def archive(paths: Sequence[Path], folder: Path) -> None:
    """Move what there is of these into a folder."""
    for path in paths:
        if path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            path.rename(folder / path.name)
