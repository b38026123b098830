"""One at a time in a folder of an object store: a claim that its holder renews, and that expires without it.

Object stores have no locks, and pyarrow's file systems no conditional requests. So whoever wants a folder
puts a claim of its own there, then lists them all, and withdraws if there is another. S3, Google's and
Azure's stores list all that was written before, so of two at the same moment at least one sees the other.
Ages are told by the store's own clock, from when each claim was last written.

A holder that could not reach the store for longer than a claim lasts ends when it can again and finds another
there; until it looks, it may still write for some seconds.
"""

from __future__ import annotations

import logging
import os
import random
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pyarrow import fs

from drcnn.locks import Holder
from studies.definition.errors import StudyError, one_line
from studies.transfer.retry import with_retries

__all__ = ["LASTS", "claimed"]

logger = logging.getLogger(__name__)

# Seconds. A claim that was not renewed for so long is its holder's no more.
LASTS = 120.0
RENEWED_EVERY = 20.0
# Two that ask in the same moment both withdraw; how often each asks again, and how long it waits in between.
ATTEMPTS = 5
LONGEST_PAUSE = 2.0


@contextmanager
def claimed(store: fs.FileSystem, folder: str, what: str, *, waits: bool) -> Iterator[None]:
    """Hold a folder of a store.

    Args:
        store: with the folder.
        folder: the path in it.
        what: is held there, for messages.
        waits: until nobody else holds it; else another holder is an error.

    Raises:
        StudyError: another process holds it.
        OSError: the store cannot be reached, or not be written.
    """
    claim = _Claim(store, folder, what)
    holder = claim.take()
    attempts = 1
    while holder is not None:
        if not waits and attempts == ATTEMPTS:
            raise StudyError(
                f"--storage: {what} is in use by {holder}; wait, or end it (if it was killed, its claim ends "
                f"{LASTS:.0f} s later)"
            )
        if waits and attempts == ATTEMPTS:
            logger.warning("%s is in use by %s; waiting", what, holder)
        time.sleep(random.uniform(LONGEST_PAUSE / 4, LONGEST_PAUSE))
        holder = claim.take()
        attempts += 1
    with claim.renewed():
        yield


class _Claim:
    """One claim to a folder."""

    def __init__(self, store: fs.FileSystem, folder: str, what: str) -> None:
        self._store, self._what = store, what
        self._folder = f"{folder}/.claims"
        self._path = f"{self._folder}/{uuid.uuid4().hex}"
        self._text = Holder.here().to_json().encode()
        self._ended = threading.Event()

    def take(self) -> Holder | None:
        """Make the claim; if there is another, withdraw it and return the other's holder."""
        for _ in range(ATTEMPTS):
            with_retries(self._write)
            try:
                others = with_retries(self._others)
            except BaseException:
                self._withdraw()
                raise
            if others is not None:
                break
        else:
            raise OSError(f"{self._folder}: the store does not list what was just written to it")
        if not others:
            return None
        self._withdraw()
        return others[0]

    @contextmanager
    def renewed(self) -> Iterator[None]:
        """Keep the claim, which was made, until the end."""
        keeper = threading.Thread(target=self._renew, name="claim", daemon=True)
        keeper.start()
        try:
            yield
        finally:
            self._ended.set()
            keeper.join(RENEWED_EVERY)
            self._withdraw()

    def _renew(self) -> None:
        written = time.monotonic()
        while not self._ended.wait(RENEWED_EVERY):
            try:
                # A clock does not tell of all time: it may stop while a laptop sleeps.
                was_found_old = self._others() is None or time.monotonic() - written > LASTS
                self._write()
                if was_found_old and (others := self._others()):
                    logger.error("--storage: %s was taken over by %s; ending here", self._what, others[0])
                    self._withdraw()
                    os.kill(os.getpid(), signal.SIGTERM)
                    return
                written = time.monotonic()
            except OSError as error:
                logger.warning("--storage: the claim to %s: %s", self._what, one_line(error, 200))

    def _write(self) -> None:
        if self._store.type_name == "local":
            self._store.create_dir(self._folder)
        with self._store.open_output_stream(self._path) as stream:
            stream.write(self._text)

    def _others(self) -> list[Holder] | None:
        """Who else claims it; none if this claim is gone: somebody found it old.

        Claims that ended without a word are deleted.
        """
        selector = fs.FileSelector(self._folder, allow_not_found=True)
        claims = {info.path: info.mtime for info in self._store.get_file_info(selector) if info.is_file}
        if self._path not in claims:
            return None
        holders = []
        for path, written in claims.items():
            if path == self._path:
                continue
            holder = self._read(path)
            if holder is None:
                continue
            if holder.is_gone or (claims[self._path] - written).total_seconds() > LASTS:
                with suppress(OSError):
                    self._store.delete_file(path)
            else:
                holders.append(holder)
        return holders

    def _read(self, path: str) -> Holder | None:
        """The holder of a claim; none if it was withdrawn meanwhile."""
        try:
            with self._store.open_input_stream(path) as stream:
                return Holder.from_json(bytes(stream.read()))
        except FileNotFoundError:
            return None

    def _withdraw(self) -> None:
        with suppress(OSError):
            self._store.delete_file(self._path)
