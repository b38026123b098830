"""Downloading data from an object store: a folder stands for the store (S3's API: test_store)."""

from __future__ import annotations

import gzip
import pickle
import shutil
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from drcnn.data.annotations import DataError
from studies.definition.errors import FetchError
from studies.run_study import main
from studies.transfer import datasets
from studies.transfer.datasets import RemoteFolder, check_datasets, download_datasets, localise
from tests.damage import flip_bit


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A folder of a store with two files."""
    folder = tmp_path / "store" / "VOC2007"
    (folder / "JPEGImages").mkdir(parents=True)
    (folder / "list.txt").write_text("first")
    (folder / "JPEGImages" / "one.jpg").write_text("second")
    return folder


def seen(store: Path, tmp_path: Path) -> RemoteFolder:
    """As the driver hands it to a node."""
    _, (remote,) = localise(f"voc:file://{store}", tmp_path / "cache")
    found: RemoteFolder = pickle.loads(pickle.dumps(remote))
    return found


def draft(remote: RemoteFolder) -> Path:
    return remote.folder.with_name(f".{remote.folder.name}.draft")


def fill_disk(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=free))


def test_a_killed_download_is_continued(store: Path, tmp_path: Path) -> None:
    remote = seen(store, tmp_path)
    (draft(remote) / "JPEGImages").mkdir(parents=True)
    (draft(remote) / "list.txt").write_text("FIRST")
    (draft(remote) / "JPEGImages" / "one.jpg").write_text("sec")
    download_datasets([remote])
    assert (remote.folder / "list.txt").read_text() == "FIRST"
    assert (remote.folder / "JPEGImages" / "one.jpg").read_text() == "second"
    assert not draft(remote).exists()


def test_files_come_as_they_are(store: Path, tmp_path: Path) -> None:
    (store / "packed.gz").write_bytes(gzip.compress(b"packed"))
    (store / "empty").touch()
    remote = seen(store, tmp_path)
    download_datasets([remote])
    assert gzip.decompress((remote.folder / "packed.gz").read_bytes()) == b"packed"
    assert (remote.folder / "empty").read_bytes() == b""


def write_sums(folder: Path) -> None:
    """As cluster/README.md says."""
    command = "find . -type f ! -name SHA256SUMS -print0 | xargs -0 sha256sum > SHA256SUMS"
    assert command in (Path(__file__).parents[3] / "cluster/README.md").read_text()
    subprocess.run(["bash", "-c", command], cwd=folder, check=True)


def damage_copies(monkeypatch: pytest.MonkeyPatch, name: str, times: int) -> list[str]:
    """Flip a bit in a file the first times that it comes; returns a list that tells of all copies."""
    copy, copies = shutil.copyfileobj, list[str]()

    def copy_badly(source: Any, target: Any, length: int) -> None:
        copy(source, target, length)
        copies.append(Path(target.name).name)
        if copies[-1] == name and copies.count(name) <= times:
            target.flush()
            flip_bit(Path(target.name))

    monkeypatch.setattr("shutil.copyfileobj", copy_badly)
    return copies


def test_a_file_that_came_damaged_is_fetched_again(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sums(store)
    remote = seen(store, tmp_path)
    copies = damage_copies(monkeypatch, "one.jpg", times=1)
    download_datasets([remote])
    assert (remote.folder / "JPEGImages" / "one.jpg").read_text() == "second"
    assert sorted(copies) == ["SHA256SUMS", "list.txt", "one.jpg", "one.jpg"]


def test_a_file_that_stays_damaged_is_named_and_what_is_whole_is_kept(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sums(store)
    remote = seen(store, tmp_path)
    copies = damage_copies(monkeypatch, "one.jpg", times=3)
    with pytest.raises(
        FetchError, match=r"VOC2007/JPEGImages/one\.jpg does not match its checksum in SHA256"
    ):
        download_datasets([remote])
    assert not remote.folder.exists()
    # It is what a later attempt begins with: neither believed nor fetched in vain.
    download_datasets([remote])
    assert (remote.folder / "JPEGImages" / "one.jpg").read_text() == "second"
    assert copies.count("one.jpg") == 4


def test_what_a_killed_download_left_is_verified(store: Path, tmp_path: Path) -> None:
    write_sums(store)
    remote = seen(store, tmp_path)
    draft(remote).mkdir(parents=True)
    (draft(remote) / "list.txt").write_text("FIRST")
    download_datasets([remote])
    assert (remote.folder / "list.txt").read_text() == "first"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("late.jpg", b"pixels", r"SHA256SUMS lacks 1 files, such as late\.jpg; make it again"),
        ("list.txt", None, r"1 files of SHA256SUMS are not in the store, such as list\.txt; upload them"),
        ("SHA256SUMS", b"no checksum", r"SHA256SUMS:1 is 'no checksum'; expected 64 hex digits"),
        ("list.txt", b"firsT", r"list\.txt does not match its checksum"),
    ],
)
def test_checksums_of_other_files_are_refused(
    store: Path, tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    write_sums(store)
    (store / name).unlink(missing_ok=True)
    if content is not None:
        (store / name).write_bytes(content)
    with pytest.raises(FetchError, match=message):
        download_datasets([seen(store, tmp_path)])


def test_an_error_while_downloading_is_no_fault_of_the_data(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of the data would be the trial's for good; this is tried again, and what is here is kept."""
    remote = seen(store, tmp_path)
    copy = shutil.copyfileobj

    def fail_on_the_second(source: Any, target: Any, length: int) -> None:
        if Path(target.name).name != "one.jpg":
            copy(source, target, length)
            return
        # Not before the other one is there: what has not begun by then is not begun any more.
        until = time.monotonic() + 10
        while not has_first() and time.monotonic() < until:
            time.sleep(0.01)
        raise OSError(28, "No space left on device")

    def has_first() -> bool:
        path = draft(remote) / "list.txt"
        return path.exists() and path.read_text() == "first"

    monkeypatch.setattr("shutil.copyfileobj", fail_on_the_second)
    with pytest.raises(OSError, match=r"store/VOC2007 cannot be downloaded on .* No space left") as caught:
        download_datasets([remote])
    assert not isinstance(caught.value, DataError)
    assert (draft(remote) / "list.txt").read_text() == "first"
    monkeypatch.undo()
    download_datasets([remote])
    assert (remote.folder / "JPEGImages" / "one.jpg").read_text() == "second"


def test_a_disk_that_is_too_small_is_known_before(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = seen(store, tmp_path)
    draft(remote).mkdir(parents=True)
    (draft(remote) / "list.txt").write_text("first")
    fill_disk(monkeypatch, free=5)
    for attempt in (check_datasets, download_datasets):
        with pytest.raises(FetchError, match=r"store/VOC2007: 0\.0 GB are still .* but .*/cache on .* free"):
            attempt([remote])
    assert [path.name for path in draft(remote).iterdir()] == ["list.txt"]
    fill_disk(monkeypatch, free=6)
    download_datasets([remote])


def test_a_store_that_has_changed_meanwhile_is_told(store: Path, tmp_path: Path) -> None:
    remote = seen(store, tmp_path)
    (store / "list.txt").write_text("other")
    for attempt in (check_datasets, download_datasets):
        with pytest.raises(FetchError, match="has changed since the study was started"):
            attempt([remote])


def test_a_long_download_is_announced(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(datasets, "LARGE", 10)
    remote = seen(store, tmp_path)
    download_datasets([remote])
    download_datasets([remote])
    without = "; no SHA256SUMS there: verified by size only"
    assert capsys.readouterr().out == f"Downloading {store}: 2 files, 0.0 GB{without}\n"


def test_a_check_downloads_nothing(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remote = seen(store, tmp_path)
    check_datasets([remote])
    assert not remote.folder.exists()
    assert not draft(remote).exists()
    download_datasets([remote])
    # Nothing is asked of the store for what is here.
    fill_disk(monkeypatch, free=0)
    shutil.rmtree(store)
    check_datasets([remote])


def test_a_check_reads_a_file(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remote = seen(store, tmp_path)
    list_files = datasets._list

    def list_and_lose(*arguments: Any) -> Any:
        found = list_files(*arguments)
        shutil.rmtree(store)
        return found

    monkeypatch.setattr(datasets, "_list", list_and_lose)
    with pytest.raises(FetchError, match=r"cannot be downloaded on .*one\.jpg"):
        check_datasets([remote])


def test_the_command_line_says_it_in_one_line(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fill_disk(monkeypatch, free=0)
    output = tmp_path / "runs"
    assert main(["nms_sweep", "--data", f"voc:file://{store}", "--output", str(output)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "still to be downloaded" in error
    assert not output.exists()
