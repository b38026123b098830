"""Which pictures and videos a command was given: files, and the pictures in folders; never an address."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from drcnn.data.annotations import DataError
from drcnn.file_names import typed_path

__all__ = ["PictureFile", "find_pictures"]

# Read from folders. A file that is named itself is read whatever its suffix says.
PICTURES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm", ".jp2"}
VIDEOS = {".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv"}


@dataclass(frozen=True)
class PictureFile:
    """A picture or video.

    Attributes:
        path: absolute.
        name: its path below the folder that all inputs share, with ``/``: unique among them.
    """

    path: Path
    name: str

    @property
    def is_video(self) -> bool:
        """Whether its suffix is that of a video."""
        return self.path.suffix.lower() in VIDEOS


def find_pictures(inputs: Sequence[str], *, without: Path) -> list[PictureFile]:
    """Return the pictures and videos that these files and folders are and hold, each once.

    Args:
        inputs: files, and folders, which are searched with all folders in them; names that begin with a dot
            are passed over there.
        without: the folder of the results, which is not searched; if it is an input itself, the pictures
            that an earlier command wrote into it are not.

    Raises:
        DataError: an input does not exist or is an address, or a folder holds no picture.
    """
    own = {without.resolve()}
    if (without / "predictions.json").is_file():
        own.add((without / "pictures").resolve())
    roots: list[Path] = []
    files: dict[Path, None] = {}
    for text in inputs:
        path = _existing(text)
        roots.append(path if path.is_dir() else path.parent)
        found = list(_in_folder(path, own)) if path.is_dir() else [path]
        if not found:
            kinds = " ".join(sorted(PICTURES | VIDEOS))
            raise DataError(f"{text}: the folder holds no picture and no video ({kinds})")
        files |= dict.fromkeys(found)
    shared = Path(os.path.commonpath(roots))
    return [PictureFile(path, path.relative_to(shared).as_posix()) for path in files]


def _existing(text: str) -> Path:
    path = typed_path(text)
    if path.exists():
        return Path(os.path.normpath(path.absolute()))
    if "://" in text:
        raise DataError(f"{text}: addresses are not read; download the file and give its path")
    raise DataError(f"{text}: no such file or folder; expected pictures, folders of pictures, or a video")


def _in_folder(folder: Path, without: Collection[Path]) -> Iterator[Path]:
    for top, folders, names in os.walk(folder):
        folders[:] = sorted(
            name for name in folders if name[0] != "." and Path(top, name).resolve() not in without
        )
        for name in sorted(names):
            if name[0] != "." and Path(name).suffix.lower() in PICTURES | VIDEOS:
                yield Path(top, name)
