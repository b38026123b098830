"""The checksums of a data set in an object store: ``SHA256SUMS`` in its folder, as ``sha256sum`` writes it.

Whoever uploads the data makes it before that, over all files; cluster/README.md has the command. A store's
own checksums would only tell that a file is as it came there, and pyarrow does not show them.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from drcnn.files import sha256_of

__all__ = ["SUMS", "has_checksum", "read_sums"]

SUMS = "SHA256SUMS"
LINE = re.compile(r"([0-9a-f]{64}) [ *](?:\./)?(.+)")


def read_sums(content: bytes, names: Collection[str]) -> dict[str, str]:
    """Return the SHA-256 of each file of a data set, as hex digits.

    Args:
        content: of the file ``SHA256SUMS``.
        names: of the files that the store has, relative to their folder.

    Raises:
        ValueError: it is no such file, or not of these files.

    >>> read_sums(b"0" * 64 + b"  ./a.jpg", ["a.jpg", "SHA256SUMS"])["a.jpg"][:4]
    '0000'
    """
    sums = {}
    for number, line in enumerate(content.decode(errors="replace").splitlines(), start=1):
        found = LINE.fullmatch(line)
        if found is None:
            raise ValueError(
                f"{SUMS}:{number} is {line[:80]!r}; expected 64 hex digits, two spaces and a path"
            )
        sums[found[2]] = found[1]
    lacking = sorted(sums.keys() - set(names) - {SUMS})
    if lacking:
        raise ValueError(
            f"{len(lacking)} files of {SUMS} are not in the store, such as {lacking[0]}; upload them"
        )
    unknown = sorted(set(names) - sums.keys() - {SUMS})
    if unknown:
        raise ValueError(f"{SUMS} lacks {len(unknown)} files, such as {unknown[0]}; make it again")
    return sums


def has_checksum(path: Path, expected: str | None) -> bool:
    """Whether a file has this SHA-256; any has, if none is expected."""
    return expected is None or sha256_of(path) == expected
