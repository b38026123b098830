"""JSON files that carry a checksum of their own content, so that a wrong bit is noticed and not believed.

The checksum is one more key of the object. A file without it, as earlier versions wrote them, is read as it
is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drcnn.files import write_text

__all__ = ["DamagedFileError", "read_sealed", "write_sealed"]

SEAL = "sha256"


class DamagedFileError(ValueError):
    """A file that does not hold what was written to it; the message is one line and names it."""


def write_sealed(path: Path, content: Mapping[str, Any]) -> None:
    """Replace a file by a JSON object with its checksum.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     write_sealed(Path(folder, "a.json"), {"epoch": 3})
    ...     read_sealed(Path(folder, "a.json"))
    {'epoch': 3}
    """
    plain = json.loads(json.dumps(content))
    write_text(path, json.dumps({**plain, SEAL: _checksum(plain)}, indent=1) + "\n")


def read_sealed(path: Path) -> dict[str, Any]:
    """Read such a file.

    Raises:
        FileNotFoundError, NotADirectoryError: there is none.
        DamagedFileError: it is no JSON object, or not the one that was written.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except IsADirectoryError:
        raise DamagedFileError(f"{path} is damaged: it is a folder") from None
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(f"{path} is damaged: no JSON ({' '.join(str(error).split())[:100]})") from None
    if not isinstance(content, dict):
        raise DamagedFileError(f"{path} is damaged: no JSON object")
    seal = content.pop(SEAL, None)
    if seal is not None and seal != _checksum(content):
        raise DamagedFileError(f"{path} is damaged: its content does not match its checksum")
    return content


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
