"""The output folder: prepared data, one launch of a study at a time, and nothing left behind by bad input."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path

from drcnn.config import ConfigError
from drcnn.data.annotations import DataError
from drcnn.data.prepare import prepare
from drcnn.files import DiskFullError, put_aside
from drcnn.locks import held
from studies.definition.errors import FetchError, StudyError, one_line
from studies.definition.plan import Plan
from studies.definition.trial import Inputs

__all__ = ["prepared_inputs", "removed_after_bad_input", "study_lock"]

# In the folder of prepared data, held by every launch that works there.
IN_USE = ".in_use"


@contextmanager
def removed_after_bad_input(output: Path) -> Iterator[None]:
    """Remove an output folder that this launch made, if it turns out that the request cannot be met there.

    Data that were downloaded from an object store stay: the next request would wait for them again.
    """
    is_new = not output.exists()
    try:
        yield
    except (StudyError, ConfigError, DataError, FetchError, DiskFullError):
        if is_new and not (output / "trials").exists():
            _remove(output)
        raise


def _remove(output: Path) -> None:
    """Remove all but downloaded data, unless another launch has begun to work there."""
    data = output / "data"
    with suppress(OSError), (data / IN_USE).open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for path in output.iterdir():
            if path != data:
                _delete(path)
        if any(path.is_dir() for path in data.iterdir()):
            for table in data.glob("*.arrow*"):
                table.unlink()
        else:
            shutil.rmtree(output)


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


@contextmanager
def prepared_inputs(output: Path, *, is_kept: bool) -> Iterator[Inputs]:
    """Yield the trials' inputs. Prepared data are cached in ``OUTPUT/data``.

    Or in a temporary folder, if OUTPUT is not there and not to be created (``is_kept``).

    Raises:
        StudyError: nothing can be written there.
    """
    with _scratch() as scratch:
        is_elsewhere = not is_kept and not output.exists()
        cache = Path(scratch) if is_elsewhere else output.resolve() / "data"
        try:
            cache.mkdir(parents=True, exist_ok=True)
            if (cache / IN_USE).is_dir():
                put_aside(cache / IN_USE)
            in_use = (cache / IN_USE).open("a+")
        except OSError as error:
            raise StudyError(f"--output {output}: cannot write there: {error.strerror}") from None
        with in_use:
            # Any number of launches may hold it together (filelock has no shared locks between processes):
            # while one does, none removes anything.
            fcntl.flock(in_use, fcntl.LOCK_SH)
            yield Inputs(partial(prepare, cache=cache))


def _scratch() -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory()
    except OSError as error:
        raise StudyError(
            f"nothing can be written for temporary files: {one_line(error)}; set TMPDIR to a folder"
        ) from None


def study_lock(plan: Plan) -> AbstractContextManager[None]:
    """Hold the study's lock: two launches of one study in one folder would write each other's record.

    Raises:
        HeldError: another launch holds it.
    """
    return held(plan.folder, f"{plan.name} is running already in {plan.output}")
