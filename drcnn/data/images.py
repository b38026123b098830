"""Decode an image; resize and flip it with its boxes.

Shapes: an image is uint8[3, H, W] in RGB; boxes are float32[G, 4], xyxy absolute pixels.
"""

from __future__ import annotations

import errno
import hashlib
import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from drcnn.data.annotations import DataError

__all__ = ["ImageFile", "decode", "flip", "inspect", "resize", "resized_sizes"]

# What Pillow raises for files that are truncated, damaged, or no image at all.
DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
# The numbered OSErrors that a retry does not fix. Pillow's own have no number; EINVAL comes from a damaged
# file that makes its reader seek before its start.
PERMANENT = {
    errno.EACCES,
    errno.EINVAL,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EPERM,
}
EXIF_ORIENTATION = 0x0112
# What a file may be, whatever its name says. Pillow knows more: for some it starts programs, such as
# Ghostscript for PostScript.
FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "PPM", "JPEG2000")


@dataclass(frozen=True)
class ImageFile:
    """What an image file holds, and how ``decode`` reads it.

    Attributes:
        width: pixels of the upright picture, the EXIF orientation applied; ``height`` likewise.
        orientation: of EXIF, 1 to 8; 1 leaves the pixels as they are stored.
        is_narrow: whether it is 16-bit grey whose values use fewer bits, as ``decode`` reads it.
        digest: SHA-256 of the bytes, and of how they are read where that is not as they are stored.
    """

    width: int
    height: int
    orientation: int
    is_narrow: bool
    digest: bytes

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return self.width, self.height


def decode(source: str | bytes, name: str = "image") -> Tensor:
    """Return the pixels as uint8[3, H, W]; grey, palette and CMYK images become RGB.

    An EXIF orientation is applied: labelling tools show the upright picture, and boxes refer to it. Grey
    images of 16 bits become 8; one whose largest value needs 14, 12, 10 or 8 bits is read as one of so many.

    Args:
        source: a path, or the encoded bytes.
        name: of the image in error messages if ``source`` is bytes.

    Raises:
        DataError: the file is missing, truncated or no image, or its pixels have no fixed range.
        OSError: the file system failed; the next time it may not.
    """
    name = source if isinstance(source, str) else name
    with (
        _explaining(name),
        Image.open(source if isinstance(source, str) else io.BytesIO(source), formats=FORMATS) as image,
    ):
        _require_range(image)
        orientation = _orientation(image)
        pixels = _eight_bits(image) if _is_wide(image) else np.array(image.convert("RGB"))
        pixels = _upright(pixels, orientation)
    # Keep Pillow's layout, channels innermost: resizing is faster on it.
    return torch.from_numpy(pixels).permute(2, 0, 1)


def inspect(path: str, *, decode_all: bool = False) -> ImageFile:
    """Read an image file's header, and check that the file is complete.

    The pixels are decoded only if the end marker of a JPEG or PNG file is missing, or to see how many of 16
    bits are used, so a whole data set is checked in seconds.

    Args:
        path: of the file.
        decode_all: decode every image, to find damage between header and end.

    Raises:
        DataError: the file is missing, is no image, stops before its end, or its pixels have no fixed range.
        OSError: the file system failed; the next time it may not.
    """
    with _explaining(path), open(path, "rb") as file:
        content = file.read()
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            _require_range(image)
            orientation = _orientation(image)
            width, height = image.size if orientation < 5 else image.size[::-1]
            bits = _used_bits(np.asarray(image)) if _is_wide(image) else 16
            # Some cameras and tools append bytes to the end marker.
            end = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}.get(image.format or "", b"")
    if decode_all or end not in content[-1024:]:
        # Truncated, or much was appended: decoding tells which.
        decode(path)
    digest = hashlib.sha256(content)
    if orientation != 1 or bits < 16:
        digest.update(f"orientation {orientation}, {bits} bits".encode())
    return ImageFile(width, height, orientation, bits < 16, digest.digest())


def resized_sizes(
    widths: ArrayLike, heights: ArrayLike, *, short_side: ArrayLike | None, long_side: int
) -> NDArray[np.int64]:
    """Return int64[N, 2], the (width, height) of each image after resizing with its ratio kept.

    The shorter side becomes ``short_side``, one number or one for each image, unless the longer one would
    exceed ``long_side`` (MMDetection's rule and rounding). Without ``short_side`` the sizes stay as they are.
    """
    sizes = np.stack([np.asarray(widths), np.asarray(heights)], axis=-1).astype(np.float64)
    if short_side is None:
        return sizes.astype(np.int64)
    scale = np.minimum(long_side / sizes.max(-1), np.asarray(short_side) / sizes.min(-1))
    resized: NDArray[np.int64] = np.maximum((sizes * scale[..., None] + 0.5).astype(np.int64), 1)
    return resized


def resize(image: Tensor, boxes: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Resize an image and its boxes to ``size`` = (width, height), bilinear with antialiasing.

    Args:
        image: uint8[3, H, W].
        boxes: float32[G, 4].
    """
    height, width = image.shape[-2:]
    if (width, height) == size:
        return image, boxes
    # It takes a second to load, which commands that resize no image need not wait.
    from torchvision.transforms.v2.functional import resize as resize_image

    ratios = torch.tensor([size[0] / width, size[1] / height] * 2)
    return resize_image(image, [size[1], size[0]], antialias=True), boxes * ratios


def flip(image: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Mirror an image and its boxes left to right.

    Args:
        image: uint8[3, H, W].
        boxes: float32[G, 4].
    """
    x1, y1, x2, y2 = boxes.unbind(1)
    width = image.shape[-1]
    return image.flip(-1), torch.stack((width - x2, y1, width - x1, y2), 1)


@contextmanager
def _explaining(name: str) -> Iterator[None]:
    """Turn errors of an image file into a DataError; let errors of the file system pass."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{name}: no such image file; restore it or use --on-bad-data skip") from None
    except DECODE_ERRORS as error:
        if isinstance(error, OSError) and error.errno is not None and error.errno not in PERMANENT:
            raise
        raise DataError(f"{name}: {_reason(error, name)}; replace it or use --on-bad-data skip") from None


def _is_wide(image: Image.Image) -> bool:
    """Whether it has one channel of 16 bits; Pillow would clip it at 255 and make it white."""
    # Pillow before 11 calls such a PNG file "I".
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")


def _used_bits(grey: NDArray[np.integer[Any]]) -> int:
    """How many of 16 bits the values use: 8, 10, 12, 14 or 16, the depths of cameras and scanners."""
    return max(8, -(-int(grey.max(initial=0)).bit_length() // 2) * 2)


def _eight_bits(image: Image.Image) -> NDArray[np.uint8]:
    """uint8[H, W, 3]: the highest 8 of the bits in use. Of 16-bit colours Pillow takes the higher byte."""
    wide = np.asarray(image)
    grey = (wide >> (_used_bits(wide) - 8)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def _orientation(image: Image.Image) -> int:
    """Read the EXIF orientation that is still to be applied; 1 if there is none, or it cannot be read."""
    # Pillow applies that of a TIFF file. A PNG without one in its header would be decoded to look further.
    if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
        return 1
    try:
        value = image.getexif().get(EXIF_ORIENTATION, 1)
    except DECODE_ERRORS:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Apply an EXIF orientation to uint8[H, W, 3]; 5 to 8 exchange height and width."""
    if orientation == 1:
        return pixels
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    down = slice(None, None, -1 if orientation in (3, 4, 7, 8) else 1)
    across = slice(None, None, -1 if orientation in (2, 3, 6, 7) else 1)
    return np.ascontiguousarray(pixels[down, across])


def _require_range(image: Image.Image) -> None:
    if image.mode in {"I", "F"} and not _is_wide(image):
        raise ValueError("pixels of 32 bits, whose range is not known; expected 8 or 16 bits a channel")


def _reason(error: BaseException, name: str) -> str:
    text = str(error)
    if isinstance(error, UnidentifiedImageError):
        return f"not an image file{_text_in_place(name)}"
    if "truncated" in text:
        return "the image file is truncated"
    return f"cannot be decoded ({' '.join(text.split()) or type(error).__name__})"


def _text_in_place(path: str) -> str:
    """What stands where an image should, if it is a short text; empty for other files.

    The text is not shown: a link may lead to any file.
    """
    try:
        with open(path, "rb") as file:
            text = file.read(1024).decode("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
    if not text or len(text) > 500:
        return ""
    if text.startswith("version https://git-lfs"):
        return " but a pointer of Git LFS, whose file has to be fetched (git lfs pull)"
    return " but a short text, as a link becomes that is copied as a file"
