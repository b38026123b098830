"""Decode one image, and the geometry applied to it and its boxes.

Shapes: an image is uint8[3, H, W] in RGB; boxes are float32[G, 4], xyxy absolute pixels.
"""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional

from drcnn.data.annotations import DataError

__all__ = ["decode", "flip", "read_size", "resize", "resized_sizes"]

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


def decode(source: str | bytes, name: str = "image") -> Tensor:
    """Return the pixels as uint8[3, H, W]; grey, palette and CMYK images become RGB.

    An EXIF orientation is not applied: VOC's and COCO's boxes refer to the pixels as stored.

    Args:
        source: a path, or the encoded bytes.
        name: what an error calls the image when ``source`` is bytes.

    Raises:
        DataError: the file is missing, truncated or no image.
    """
    name = source if isinstance(source, str) else name
    try:
        with Image.open(source if isinstance(source, str) else io.BytesIO(source)) as image:
            pixels = np.array(image.convert("RGB"))
    except FileNotFoundError:
        raise DataError(f"{name}: no such image file; restore it or use --on-bad-data skip") from None
    except DECODE_ERRORS as error:
        raise DataError(f"{name}: {_reason(error)}; replace it or use --on-bad-data skip") from None
    # Left as Pillow stores it, channels innermost: resizing is faster on it.
    return torch.from_numpy(pixels).permute(2, 0, 1)


def read_size(path: str) -> tuple[int, int]:
    """Return (width, height) from an image file's header, and check that the file's end is there.

    The pixels are not decoded unless the end marker of a JPEG or PNG file is not where it should be: a whole
    data set is checked in seconds.

    Raises:
        DataError: the file is missing, is no image, or stops before its end.
    """
    try:
        with open(path, "rb") as file, Image.open(file) as image:
            size, kind = image.size, image.format
            file.seek(0, io.SEEK_END)
            # Some cameras and tools leave bytes behind the end marker.
            file.seek(max(0, file.tell() - 1024))
            tail = file.read()
    except FileNotFoundError:
        raise DataError(f"{path}: no such image file; restore it or use --on-bad-data skip") from None
    except DECODE_ERRORS as error:
        raise DataError(f"{path}: {_reason(error)}; replace it or use --on-bad-data skip") from None
    end = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}.get(kind or "", b"")
    if end not in tail:
        # Cut off, or much was appended to it: decoding tells.
        decode(path)
    return size


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
    """Resize to ``size`` = (width, height), bilinear with antialiasing; the boxes move along.

    Args:
        image: uint8[3, H, W].
        boxes: float32[G, 4].
    """
    height, width = image.shape[-2:]
    if (width, height) == size:
        return image, boxes
    target = [size[1], size[0]]
    resized = functional.resize(image, target, antialias=True)
    return resized, _plain(functional.resize(_wrap(boxes, height, width), target))


def flip(image: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Mirror left and right.

    Args:
        image: uint8[3, H, W].
        boxes: float32[G, 4].
    """
    height, width = image.shape[-2:]
    mirrored = _plain(functional.horizontal_flip(_wrap(boxes, height, width)))
    return functional.horizontal_flip(image), mirrored


def _wrap(boxes: Tensor, height: int, width: int) -> tv_tensors.BoundingBoxes:
    kind = tv_tensors.BoundingBoxFormat.XYXY
    return tv_tensors.BoundingBoxes(boxes, format=kind, canvas_size=(height, width))


def _plain(boxes: tv_tensors.BoundingBoxes) -> Tensor:
    plain: Tensor = boxes.as_subclass(Tensor)
    return plain


def _reason(error: BaseException) -> str:
    text = str(error)
    if isinstance(error, UnidentifiedImageError):
        return "not an image file"
    if "truncated" in text:
        return "the image file is truncated"
    return f"cannot be decoded ({' '.join(text.split()) or type(error).__name__})"
