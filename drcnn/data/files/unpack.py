"""Unpack tar and zip archives: nothing is written outside of the folder, and no link or device is made."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path, PurePosixPath

from drcnn.data.annotations import DataError

__all__ = ["unpack"]


def unpack(path: Path, folder: Path) -> None:
    """Unpack an archive into a folder, over what an interrupted call left.

    Raises:
        DataError: it has a member that would lie elsewhere or is no plain file or folder; nothing has been
            unpacked then. Or it is damaged.
    """
    try:
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                _require_safe(path, [member.filename for member in archive.infolist()])
                archive.extractall(folder)
        else:
            with tarfile.open(path) as tar:
                members = tar.getmembers()
                _require_safe(path, [member.name for member in members])
                odd = [member.name for member in members if not (member.isfile() or member.isdir())]
                if odd:
                    raise DataError(f"{path}: {odd[0]!r} is a link or a device, which is refused")
                tar.extractall(folder, filter="data")
    except (tarfile.TarError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: cannot be unpacked ({error}); download it again") from None


def _require_safe(path: Path, names: list[str]) -> None:
    for name in names:
        place = PurePosixPath(name.replace("\\", "/"))
        if place.is_absolute() or ".." in place.parts or any(":" in part for part in place.parts[:1]):
            raise DataError(f"{path}: its member {name!r} would lie outside of the folder, which is refused")
