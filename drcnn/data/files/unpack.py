"""Unpack tar and zip archives: nothing outside of the folder, no link or device, no more than is expected."""

from __future__ import annotations

import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from drcnn.data.annotations import DataError

__all__ = ["unpack"]


# How much larger the content may be: JSON shrinks to a tenth, JPEG files not at all, bombs to a thousandth.
MOST_TIMES = 20


def unpack(path: Path, folder: Path) -> None:
    """Unpack an archive into a folder, over what an interrupted call left.

    Raises:
        DataError: it has a member that would lie elsewhere or is no plain file or folder, or its content is
            far larger than itself; nothing has been unpacked then. Or it is damaged.
    """
    most = MOST_TIMES * path.stat().st_size
    try:
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                _require_safe(path, [member.filename for member in archive.infolist()])
                _require_size(path, sum(member.file_size for member in archive.infolist()), most)
                archive.extractall(folder)
        else:
            with tarfile.open(path) as tar:
                members, size = [], 0
                for member in tar:
                    members.append(member)
                    size += member.size
                    _require_size(path, size, most)
                _require_safe(path, [member.name for member in members])
                odd = [member.name for member in members if not (member.isfile() or member.isdir())]
                if odd:
                    raise DataError(f"{path}: {odd[0]!r} is a link or a device, which is refused")
                tar.extractall(folder, filter="data")
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise DataError(f"{path}: cannot be unpacked ({error}); download it again") from None


def _require_size(path: Path, size: int, most: int) -> None:
    if size > most:
        raise DataError(f"{path}: would unpack to {size / 1e9:.1f} GB or more, which is refused")


def _require_safe(path: Path, names: list[str]) -> None:
    for name in names:
        place = PurePosixPath(name.replace("\\", "/"))
        if place.is_absolute() or ".." in place.parts or any(":" in part for part in place.parts[:1]):
            raise DataError(f"{path}: its member {name!r} would lie outside of the folder, which is refused")
