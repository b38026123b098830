"""Two machines and one store: S3's API is real, and so are the processes."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from pyarrow import fs

from drcnn.locks import Holder
from studies.definition.errors import StudyError
from studies.transfer import claims
from studies.transfer.claims import claimed
from studies.transfer.store import open_uri

pytestmark = pytest.mark.faults


class Place:
    """A folder of a store."""

    def __init__(self, uri: str) -> None:
        self.store, root = open_uri(uri)
        self.folder = f"{root}/study"

    def hold(self, *, waits: bool = False) -> ExitStack:
        stack = ExitStack()
        stack.enter_context(claimed(self.store, self.folder, "my study", waits=waits))
        return stack

    def claims(self) -> list[str]:
        selector = fs.FileSelector(f"{self.folder}/.claims", allow_not_found=True)
        return [info.path for info in self.store.get_file_info(selector) if info.is_file]

    def write(self, name: str, holder: Holder) -> None:
        if self.store.type_name == "local":
            self.store.create_dir(f"{self.folder}/.claims")
        with self.store.open_output_stream(f"{self.folder}/.claims/{name}") as stream:
            stream.write(holder.to_json().encode())


@pytest.fixture
def place(uri: str, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr(claims, "LONGEST_PAUSE", 0.2)
    return Place(uri)


ELSEWHERE = Holder("another-head", 4711, "2026-01-02 03:04:05 UTC")


def test_a_second_one_is_told_who_holds_it_since_when(place: Place) -> None:
    with place.hold():
        with pytest.raises(
            StudyError, match=rf"my study is in use by process \d+ on {Holder.here().host} since"
        ):
            place.hold()
        assert len(place.claims()) == 1
    assert not place.claims()
    place.hold().close()


def test_one_that_waits_gets_it_when_it_is_given_back(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    first, is_released = place.hold(), threading.Event()

    def give_back() -> None:
        # Before: the one that waits may have it before this thread goes on.
        is_released.set()
        first.close()

    release = threading.Timer(3.0, give_back)
    release.start()
    with caplog.at_level(logging.WARNING), place.hold(waits=True):
        assert is_released.is_set()
        assert "my study is in use by process" in caplog.text
    release.join()


def test_another_machines_claim_counts_until_it_is_old(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.write("theirs", ELSEWHERE)
    with pytest.raises(StudyError, match="process 4711 on another-head since 2026-01-02 03:04:05 UTC"):
        place.hold()
    monkeypatch.setattr(claims, "LASTS", 1.0)
    time.sleep(3)
    place.hold().close()
    assert not place.claims()


def test_a_killed_process_of_this_machine_holds_nothing(place: Place) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    place.write("theirs", replace(Holder.here(), pid=dead.pid))
    place.hold().close()


def test_a_claim_is_renewed_while_it_is_held(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "RENEWED_EVERY", 0.5)
    with place.hold():
        (path,) = place.claims()
        before = place.store.get_file_info(path).mtime
        time.sleep(2.5)
        assert place.store.get_file_info(path).mtime > before


HOLD = """
import sys, time
from studies.transfer import claims
from studies.transfer.store import open_uri
claims.RENEWED_EVERY, claims.LASTS, claims.LONGEST_PAUSE = 0.5, float(sys.argv[3]), 0.2
store, root = open_uri(sys.argv[1])
with claims.claimed(store, f"{root}/study", "my study", waits=False):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
print("given back")
"""


def start(uri: str, seconds: float, lasts: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLD, uri, str(seconds), str(lasts)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_of_many_at_once_at_most_one_holds_it(uri: str) -> None:
    outputs = [process.communicate(timeout=60) for process in [start(uri, 15, 60) for _ in range(4)]]
    held = [out for out, _ in outputs if out]
    assert len(held) <= 1, outputs
    assert all("my study is in use by" in err for out, err in outputs if not out)
    # Whoever comes when they have ended gets it.
    (out, err), *_ = [process.communicate(timeout=60) for process in [start(uri, 0, 60)]]
    assert out == "held\ngiven back\n", err


def test_a_holder_that_was_away_ends_when_another_holds_it(tmp_path: Path) -> None:
    uri = f"file://{tmp_path / 'store'}"
    process = start(uri, 60, 1)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    folder = tmp_path / "store" / "study" / ".claims"
    # It cannot write, as when the network is away; then another machine holds the folder.
    _without(folder, lambda: time.sleep(3))
    _, err = process.communicate(timeout=30)
    assert process.returncode == -15
    assert "taken over by process 4711 on another-head" in err


def _without(folder: Path, wait: Callable[[], None]) -> None:
    aside = folder.with_name("aside")
    folder.rename(aside)
    folder.touch()
    wait()
    folder.unlink()
    aside.rename(folder)
    (folder / "theirs").write_text(ELSEWHERE.to_json())
