"""Download VOC or COCO from their official sources: resumed after a stop, checked, and safely unpacked."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from drcnn.data.annotations import DataError
from drcnn.data.files.unpack import unpack

__all__ = ["ARCHIVES", "Archive", "download"]

TRIES = 5
TIMEOUT = 60.0  # seconds without a byte
CHUNK = 1 << 20
# Unpacked, an archive of JPEG files is as large as it was.
UNPACKED = 1.05


@dataclass(frozen=True)
class Archive:
    """A file to download.

    Attributes:
        url: where it is.
        md5: of its content.
        size: bytes.
    """

    url: str
    md5: str
    size: int

    @property
    def name(self) -> str:
        """The file's name."""
        return self.url.rpartition("/")[2]


VOC, COCO = "http://host.robots.ox.ac.uk/pascal/VOC", "http://images.cocodataset.org"
# The MD5 sums are those that torchvision (VOC) and TensorFlow's and Paddle's loaders (COCO) check; the hosts
# publish none. Sizes are what the hosts send.
ARCHIVES: dict[str, tuple[Archive, ...]] = {
    "voc": (
        Archive(f"{VOC}/voc2007/VOCtrainval_06-Nov-2007.tar", "c52e279531787c972589f7e41ab4ae64", 460032000),
        Archive(f"{VOC}/voc2007/VOCtest_06-Nov-2007.tar", "b6e924de25625d8de591ea690078ad9f", 451020800),
        Archive(f"{VOC}/voc2012/VOCtrainval_11-May-2012.tar", "6cd6e144f989b92b3379bac3b3de84fd", 1999639040),
    ),
    "coco": (
        Archive(
            f"{COCO}/annotations/annotations_trainval2017.zip", "f4bbac642086de4f52a3fdda2de5fa2c", 252907541
        ),
        Archive(f"{COCO}/zips/val2017.zip", "442b8da7639aecaf257c1dceb8ba8c80", 815585330),
        Archive(f"{COCO}/zips/train2017.zip", "cced6f7f71b7629ddf16f17bbcfab6b2", 19336861798),
    ),
}


def download(
    archives: Sequence[Archive], output: Path, report: Callable[[str], None], *, wait: float = 5.0
) -> None:
    """Download archives and unpack them into ``output``; what an earlier call finished is not done again.

    Args:
        archives: to download, in this order.
        output: a folder; an archive lies in it until it is unpacked.
        report: is told a line about each step.
        wait: seconds before the first further try; doubled for each one after it.

    Raises:
        DataError: an archive has another MD5 or holds a path out of its folder; it is deleted.
        OSError: the host cannot be reached or the disk is full; another call goes on.
    """
    output.mkdir(parents=True, exist_ok=True)
    missing = [archive for archive in archives if not _mark(output, archive).exists()]
    _check_disk(missing, output)
    for archive in archives:
        if archive not in missing:
            report(f"{archive.name}: is here already")
            continue
        path = output / archive.name
        if not path.exists():
            _fetch_patiently(archive, path, report, wait)
        report(f"{archive.name}: checking its MD5")
        _check(path, archive)
        report(f"{archive.name}: MD5 {archive.md5} is right; unpacking")
        try:
            unpack(path, output)
        except DataError:
            path.unlink()
            raise
        _mark(output, archive).touch()
        path.unlink()


def _mark(output: Path, archive: Archive) -> Path:
    """The file that says that an archive was unpacked here."""
    return output / f".{archive.name}.unpacked"


def _check_disk(archives: Sequence[Archive], output: Path) -> None:
    """Refuse a disk that the archives do not fit on: all of them unpacked, and the largest one packed."""
    if not archives:
        return
    needed = UNPACKED * sum(archive.size for archive in archives) + max(archive.size for archive in archives)
    here = sum(path.stat().st_size for archive in archives for path in output.glob(f"{archive.name}*"))
    free = shutil.disk_usage(output).free
    if free < needed - here:
        raise OSError(
            f"{output}: {needed / 1e9:.1f} GB are needed to download and unpack, {free / 1e9:.1f} GB are free"
        )


def _fetch_patiently(archive: Archive, path: Path, report: Callable[[str], None], wait: float) -> None:
    part = path.with_name(f"{path.name}.part")
    failures = 0
    while True:
        before = _size(part)
        try:
            _fetch(archive, part, report)
            break
        except (URLError, HTTPException, TimeoutError, ConnectionError) as error:
            failures = 1 if _size(part) > before else failures + 1
            reason = error.reason if isinstance(error, URLError) else error
            if failures == TRIES or (isinstance(error, HTTPError) and error.code < 500):
                raise OSError(f"{archive.url}: {reason}; the same command goes on from here") from None
            report(f"{archive.name}: {reason}; trying again")
            time.sleep(wait * 2 ** (failures - 1))
    part.replace(path)


def _fetch(archive: Archive, part: Path, report: Callable[[str], None]) -> None:
    """Append the bytes that are missing to ``part``."""
    have = _size(part)
    if have > archive.size:
        part.unlink()
        have = 0
    if have == archive.size:
        return
    headers = {"Range": f"bytes={have}-"} if have else {}
    with urlopen(Request(archive.url, headers=headers), timeout=TIMEOUT) as response:
        # A host that does not know ranges sends everything.
        is_rest = response.status == 206
        have = have if is_rest else 0
        report(f"{archive.name}: downloading {archive.size / 1e9:.2f} GB, from byte {have:,}")
        with part.open("ab" if is_rest else "wb") as file:
            told = have
            while chunk := response.read(CHUNK):
                file.write(chunk)
                have += len(chunk)
                if have - told > max(archive.size / 20, 20e6):
                    told = have
                    report(f"{archive.name}: {have / 1e6:,.0f} of {archive.size / 1e6:,.0f} MB")
    if have < archive.size:
        raise ConnectionError(f"ended after {have:,} of {archive.size:,} bytes")


def _check(path: Path, archive: Archive) -> None:
    with path.open("rb") as file:
        md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if md5 != archive.md5:
        path.unlink()
        raise DataError(
            f"{path}: its MD5 is {md5}, expected {archive.md5}; it was deleted, so the same command "
            "downloads it again"
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
