"""Draw boxes with their names into images.

Boxes are float[4], xyxy in pixels of the drawn image.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

__all__ = ["Canvas", "png"]

Floats = NDArray[np.floating]


class Canvas:
    """An image to draw on.

    Args:
        source: of the image: its path, or the encoded file.
        side: pixels, what its longer side becomes.
        text: pixels, the height of names.

    Attributes:
        image: as drawn so far.
        scale: what to multiply a box of the original image with.
    """

    def __init__(self, source: str | bytes, side: int, text: int = 17) -> None:
        with Image.open(source if isinstance(source, str) else io.BytesIO(source)) as stored:
            self.scale = side / max(stored.size)
            size = (max(1, round(stored.width * self.scale)), max(1, round(stored.height * self.scale)))
            self.image = stored.convert("RGB").resize(size, Image.Resampling.BICUBIC)
        self._pen = ImageDraw.Draw(self.image)
        self._font = ImageFont.load_default(size=text)

    def frame(self, box: Floats, color: str, width: int, inset: int = 0) -> None:
        """Draw a frame, clipped to the image, ``inset`` pixels inside of the box."""
        x1, y1, x2, y2 = box.tolist()
        right, bottom = self.image.width - 1.0, self.image.height - 1.0
        left, top = max(0.0, x1) + inset, max(0.0, y1) + inset
        corners = (left, top, max(left, min(right, x2) - inset), max(top, min(bottom, y2) - inset))
        self._pen.rectangle(corners, outline=color, width=width)

    def write(self, text: str, box: Floats, color: str, *, is_below: bool = False) -> None:
        """Write at a box's upper edge, or at its lower one, on a field of this colour."""
        width, height = self.image.size
        left, top, right, bottom = self._pen.textbbox((0, 0), text, font=self._font)
        x = min(max(0.0, box[0]), max(0.0, width - right - 6))
        y = min(box[3], height - bottom - 6.0) if is_below else max(0.0, box[1] - bottom - 6)
        self._pen.rectangle((x, y, x + right - left + 6, y + bottom - top + 8), fill=color)
        self._pen.text((x + 3, y + 1), text, fill="#000000", font=self._font)


def png(image: Image.Image) -> bytes:
    """Return a picture as a PNG file of 128 colours."""
    target = io.BytesIO()
    image.quantize(128).save(target, format="PNG", optimize=True)
    return target.getvalue()
