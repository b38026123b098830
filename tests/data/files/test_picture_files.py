from __future__ import annotations

from pathlib import Path

import pytest

from drcnn.data.annotations import DataError
from drcnn.data.files.picture_files import find_pictures


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for name in ("b.jpg", "a.PNG", "sub/a.PNG", "notes.txt", ".hidden.jpg", ".cache/c.jpg", "sub/clip.MP4"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def names(inputs: list[str], without: Path = Path("/nowhere")) -> list[str]:
    return [file.name for file in find_pictures(inputs, without=without)]


def test_a_folder_is_searched_for_pictures_and_videos(photos: Path) -> None:
    assert names([str(photos)]) == ["a.PNG", "b.jpg", "sub/a.PNG", "sub/clip.MP4"]
    assert [file.is_video for file in find_pictures([str(photos)], without=photos)] == [False] * 3 + [True]


def test_names_lie_below_the_folder_that_all_inputs_share(photos: Path) -> None:
    assert names([str(photos / "sub"), str(photos / "b.jpg")]) == ["sub/a.PNG", "sub/clip.MP4", "b.jpg"]
    assert names([str(photos / "b.jpg")]) == ["b.jpg"]
    assert names([str(photos / "b.jpg"), str(photos / "sub/../b.jpg")]) == ["b.jpg"]


def test_a_named_file_is_taken_whatever_its_suffix(photos: Path) -> None:
    assert names([str(photos / "notes.txt")]) == ["notes.txt"]


def test_results_in_the_folder_are_no_input(photos: Path) -> None:
    (photos / "found/pictures").mkdir(parents=True)
    (photos / "found/pictures/b.jpg").touch()
    assert "found/pictures/b.jpg" not in names([str(photos)], without=photos / "found")


def test_results_are_no_input_by_whatever_path_they_are_named(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "found/pictures").mkdir(parents=True)
    (photos / "found/pictures/b.jpg").touch()
    monkeypatch.chdir(photos / "sub")
    expected = ["a.PNG", "b.jpg", "sub/a.PNG", "sub/clip.MP4"]
    assert names([".."], without=Path("../found")) == expected
    (tmp_path / "link").symlink_to(photos)
    assert names([".."], without=tmp_path / "link/found") == expected


def test_results_beside_the_pictures_are_no_input_the_second_time(photos: Path) -> None:
    (photos / "pictures").mkdir()
    (photos / "pictures/b.jpg").touch()
    assert "pictures/b.jpg" in names([str(photos)], without=photos)
    (photos / "predictions.json").touch()
    assert "pictures/b.jpg" not in names([str(photos)], without=photos)


def test_relative_paths_are_found_too(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos)
    assert names(["."]) == ["a.PNG", "b.jpg", "sub/a.PNG", "sub/clip.MP4"]
    assert names(["sub", "b.jpg"], without=Path("found")) == ["sub/a.PNG", "sub/clip.MP4", "b.jpg"]


def test_what_is_no_picture_is_refused(photos: Path) -> None:
    with pytest.raises(DataError, match=r"^https://example\.org/a\.jpg: addresses are not read; download"):
        find_pictures(["https://example.org/a.jpg"], without=photos)
    with pytest.raises(DataError, match=r"gone\.jpg: no such file or folder"):
        find_pictures([str(photos / "gone.jpg")], without=photos)
    (photos / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: the folder holds no picture and no video \(\.avi"):
        find_pictures([str(photos / "empty")], without=photos)
