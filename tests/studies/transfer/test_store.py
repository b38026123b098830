"""Trial folders between nodes that share nothing: two folders stand for two nodes; S3's API is real."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import pytest
from pyarrow import fs

from drcnn.data.annotations import DataError
from drcnn.data.table_checksum import write_checksum
from studies.definition.errors import FetchError, StudyError
from studies.transfer.datasets import check_datasets, download_datasets, localise
from studies.transfer.retry import with_retries
from studies.transfer.store import ObjectStore, open_store
from studies.transfer.trial_store import TrialStore
from tests.damage import flip_bit


class Node:
    """A node with an output folder of its own, and a trial in it."""

    def __init__(self, uri: str, output: Path) -> None:
        # As it comes to another process.
        self.store: ObjectStore = pickle.loads(pickle.dumps(ObjectStore(uri, output)))
        self.trial = output / "trials" / "one"
        self.trial.mkdir(parents=True)

    def write(self, **files: str) -> None:
        for name, text in files.items():
            (self.trial / name.replace("_", ".")).write_text(text)

    def files(self) -> dict[str, str]:
        return {path.name: path.read_text() for path in self.trial.iterdir() if not path.name.startswith(".")}


def test_what_was_put_aside_as_damaged_stays_here(uri: str, tmp_path: Path) -> None:
    one, two = Node(uri, tmp_path / "a"), Node(uri, tmp_path / "b")
    one.write(last_safetensors="epoch 1")
    (one.trial / "last.safetensors.damaged").write_text("epoch 2")
    (one.trial / ".previous-last.safetensors").write_text("epoch 0")
    one.store.upload(one.trial)
    two.store.download(two.trial)
    assert two.files() == {"last.safetensors": "epoch 1"}
    one.store.download(one.trial)
    assert (one.trial / "last.safetensors.damaged").exists()


def test_a_trial_goes_on_where_the_other_node_left_it(uri: str, tmp_path: Path) -> None:
    one, two = Node(uri, tmp_path / "a"), Node(uri, tmp_path / "b")
    one.write(config_yaml="c", last_safetensors="epoch 1")
    (one.trial / ".lock").touch()
    one.store.upload(one.trial)
    two.store.download(two.trial)
    assert two.files() == {"config.yaml": "c", "last.safetensors": "epoch 1"}
    two.write(last_safetensors="epoch 2")
    two.store.upload(two.trial)
    # What the first one has is older, and one of its files was never kept.
    one.write(best_safetensors="lost")
    one.store.download(one.trial)
    assert one.files() == {"config.yaml": "c", "last.safetensors": "epoch 2"}
    assert (one.trial / ".lock").exists()


def test_weights_come_only_when_they_are_asked_for(uri: str, tmp_path: Path) -> None:
    node, driver = Node(uri, tmp_path / "a"), Node(uri, tmp_path / "b")
    node.write(config_yaml="c", last_safetensors="weights", result_json="{}")
    node.store.upload(node.trial)
    driver.store.download(driver.trial, weights=False)
    assert driver.files() == {"config.yaml": "c", "result.json": "{}"}
    driver.store.download(driver.trial)
    assert driver.files() == {"config.yaml": "c", "last.safetensors": "weights", "result.json": "{}"}
    # Those that are here stay.
    driver.store.download(driver.trial, weights=False)
    assert "last.safetensors" in driver.files()


def test_an_outcome_is_known_elsewhere_until_it_is_deleted(uri: str, tmp_path: Path) -> None:
    one, two = Node(uri, tmp_path / "a"), Node(uri, tmp_path / "b")
    assert one.store.ended_trials() == set()
    one.write(last_safetensors="epoch 1")
    one.store.upload(one.trial)
    assert two.store.ended_trials() == set()
    one.write(error_json="{}", last_safetensors="not asked for")
    one.store.upload(one.trial, ["error.json"])
    assert two.store.ended_trials() == {two.trial}
    two.store.download(two.trial)
    assert two.files() == {"error.json": "{}", "last.safetensors": "epoch 1"}
    two.store.delete(two.trial, ["error.json"])
    assert one.store.ended_trials() == set()
    one.store.download(one.trial)
    assert one.files() == {"last.safetensors": "epoch 1"}
    two.store.delete(two.trial)
    one.store.download(one.trial)
    assert one.files() == {}


def test_a_store_that_works_is_found_to(uri: str, tmp_path: Path) -> None:
    Node(uri, tmp_path / "a").store.check_access()


def test_access_is_tried_again_while_a_store_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Node(f"file://{tmp_path / 'store'}", tmp_path / "a").store
    pauses, read = list[float](), store._read

    def silent_at_first(key: str) -> bytes:
        if len(pauses) < 2:
            raise OSError("AWS Error NETWORK_CONNECTION during GetObject operation")
        return read(key)

    monkeypatch.setattr("studies.transfer.retry.time.sleep", pauses.append)
    monkeypatch.setattr(store, "_read", silent_at_first)
    store.check_access()
    assert pauses == [1.0, 2.0]


def test_a_prepared_table_is_stored_once(uri: str, tmp_path: Path) -> None:
    one, two = Node(uri, tmp_path / "a"), Node(uri, tmp_path / "b")
    table, fetched = tmp_path / "a/data/table", tmp_path / "b/data/table"
    save_table(table, "rows")
    one.store.upload_table(table)
    two.store.download_table(fetched)
    assert fetched.read_text() == "rows"
    fetched.write_text("mine")
    two.store.download_table(fetched)
    assert fetched.read_text() == "mine"
    with pytest.raises(OSError, match="absent"):
        two.store.download_table(tmp_path / "b/data/absent")


def test_a_table_that_came_damaged_is_fetched_again_once(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = Node(uri, tmp_path / "a"), Node(uri, tmp_path / "b")
    table, fetched = tmp_path / "a/data/table", tmp_path / "b/data/table"
    save_table(table, "rows")
    one.store.upload_table(table)
    copy, copies = fs.copy_files, []

    def copy_badly(source: str, target: str, *stores: fs.FileSystem) -> None:
        copy(source, target, *stores)
        if source.endswith("table"):
            copies.append(source)
            if len(copies) == 1:
                flip_bit(Path(target))

    monkeypatch.setattr(fs, "copy_files", copy_badly)
    two.store.download_table(fetched)
    assert fetched.read_text() == "rows"
    assert len(copies) == 2


def test_a_table_that_is_stored_damaged_is_named(uri: str, tmp_path: Path) -> None:
    one, two = Node(uri, tmp_path / "a"), Node(uri, tmp_path / "b")
    table = tmp_path / "a/data/table"
    save_table(table, "rows")
    flip_bit(table)
    one.store.upload_table(table)
    with pytest.raises(OSError, match=r"data/table in the store does not match .*table.sha256; delete both"):
        two.store.download_table(tmp_path / "b/data/table")
    assert [path.name for path in (tmp_path / "b/data").iterdir()] == ["table.sha256"]


def save_table(path: Path, text: str) -> None:
    path.parent.mkdir()
    path.write_text(text)
    write_checksum(path)


def test_a_store_that_cannot_be_written_says_so(bucket: str, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="absent"):
        ObjectStore(bucket.replace("@bucket", "@absent"), tmp_path).check_access()
    with pytest.raises(StudyError, match="expected s3://BUCKET/PREFIX"):
        open_store("ftp://host/folder", tmp_path)
    assert type(open_store(None, tmp_path)) is TrialStore


def test_datasets_are_downloaded_once_and_again_when_they_change(uri: str, tmp_path: Path) -> None:
    node = Node(uri, tmp_path / "a")
    node.write(image_jpg="pixels")
    node.store.upload(node.trial)
    before, _, query = uri.partition("?")
    where = f"{before}/trials/one" + (f"?{query}" if query else "")
    source, remotes = localise(f"voc:{where}+/local", tmp_path / "cache")
    check_datasets(remotes)
    download_datasets(remotes)
    (remote,) = remotes
    assert source == f"voc:{remote.folder}+/local"
    assert (remote.folder / "image.jpg").read_text() == "pixels"
    (remote.folder / "image.jpg").write_text("kept")
    download_datasets(remotes)
    assert (remote.folder / "image.jpg").read_text() == "kept"
    node.write(image_jpg="other pixels")
    node.store.upload(node.trial)
    assert localise(f"voc:{where}", tmp_path / "cache")[1] != remotes
    with pytest.raises(DataError, match="holds no file"):
        localise(f"coco:{where.replace('/one', '/none')}", tmp_path / "cache")
    assert localise("digits", tmp_path) == ("digits", ())


def test_a_dataset_that_is_stored_damaged_is_named(uri: str, tmp_path: Path) -> None:
    node = Node(uri, tmp_path / "a")
    digest = hashlib.sha256(b"pixels").hexdigest()
    before, _, query = uri.partition("?")
    where = f"{before}/trials/one" + (f"?{query}" if query else "")

    def download(image: str, cache: str) -> Path:
        node.write(image_jpg=image, SHA256SUMS=f"{digest}  ./image.jpg\n")
        node.store.upload(node.trial)
        _, (remote,) = localise(f"voc:{where}", tmp_path / cache)
        download_datasets([remote])
        return remote.folder

    assert (download("pixels", "one") / "image.jpg").read_text() == "pixels"
    with pytest.raises(FetchError, match=r"one/image\.jpg does not match its checksum in SHA256SUMS, also"):
        download("pixelS", "two")


def test_what_was_there_before_the_store_is_uploaded_once(uri: str, tmp_path: Path) -> None:
    trial = tmp_path / "a" / "trials" / "0123456789abcdef"
    (trial / "evaluations" / "fedcba9876543210").mkdir(parents=True)
    (trial / "result.json").write_text("{}")
    (trial / "evaluations" / "fedcba9876543210" / "result.json").write_text("{}")
    store = ObjectStore(uri, tmp_path / "a")
    store.adopt()
    assert store.ended_trials() == {trial, trial / "evaluations" / "fedcba9876543210"}
    assert "mine" not in (tmp_path / "a" / ".storage").read_text()
    # From now on the store's word counts: what it has not is not there.
    store.delete(trial)
    store.adopt()
    store.download(trial)
    assert not (trial / "result.json").exists()


def test_a_finished_trial_that_is_here_is_not_downloaded_again(uri: str, tmp_path: Path) -> None:
    one, two = Node(uri, tmp_path / "a"), Node(uri, tmp_path / "b")
    one.write(last_safetensors="epoch 9", result_json="{}")
    one.store.upload(one.trial)
    two.store.download(two.trial)
    (two.trial / "last.safetensors").write_text("epoch X")
    two.store.download(two.trial)
    assert two.files()["last.safetensors"] == "epoch X"
    one.write(result_json="[]")
    one.store.upload(one.trial)
    two.store.download(two.trial)
    assert two.files() == {"last.safetensors": "epoch 9", "result.json": "[]"}


def test_a_trial_is_archived_within_the_store(uri: str, tmp_path: Path) -> None:
    node = Node(uri, tmp_path / "a")
    node.write(last_safetensors="epoch 1")
    node.store.upload(node.trial)
    archived = tmp_path / "a" / "trials" / "old" / "one"
    node.store.archive(node.trial, archived)
    # What is here still is stored again.
    node.store.upload(node.trial)
    node.store.download(node.trial)
    assert node.files() == {"last.safetensors": "epoch 1"}
    node.store.archive(node.trial, archived)
    node.store.download(node.trial)
    assert node.files() == {}
    node.store.download(archived)
    assert (archived / "last.safetensors").read_text() == "epoch 1"


def test_a_request_is_repeated_while_the_store_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("studies.transfer.retry.time.sleep", pauses.append)
    answers: list[OSError | str] = [OSError("AWS Error SLOW_DOWN"), OSError("AWS Error NETWORK"), "here"]

    def ask() -> str:
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    assert with_retries(ask) == "here"
    assert pauses == [1, 2]
    for final in (
        FileNotFoundError(2, "no such file"),
        OSError("AWS Error ACCESS_DENIED"),
        OSError(28, "full"),
    ):
        answers[:] = [final, "not asked"]
        with pytest.raises(OSError, match=str(final.args[-1])):
            with_retries(ask)
    answers[:] = [OSError("down")] * 9
    with pytest.raises(OSError, match="down"):
        with_retries(ask, seconds=0)
    assert pauses == [1, 2]


@pytest.mark.parametrize("content", [b"\xff\xfe", None], ids=["not UTF-8", "a folder"])
def test_a_damaged_mark_of_the_store_is_written_anew(tmp_path: Path, content: bytes | None) -> None:
    node = Node(f"file://{tmp_path / 'store'}", tmp_path / "output")
    mark = tmp_path / "output" / ".storage"
    if content is None:
        mark.mkdir()
    else:
        mark.write_bytes(content)
    node.store.adopt()
    assert len(mark.read_text()) == 64


def test_files_are_deleted_by_pattern(uri: str, tmp_path: Path) -> None:
    node = Node(uri, tmp_path / "a")
    for name in ("config.yaml", "killed-0-0.txt", "killed-1-0.txt"):
        (node.trial / name).write_text("x")
    node.store.upload(node.trial)
    node.store.delete(node.trial, ["killed-*-*.txt"])
    assert [node.store.has_copy(path) for path in sorted(node.trial.iterdir())] == [True, False, False]
