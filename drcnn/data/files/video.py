"""Frames of a video, and a video of frames, through the optional package PyAV."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drcnn.data.annotations import DataError

__all__ = ["frames", "writing"]

# Frames a second of a file that does not say.
USUAL_RATE = Fraction(25)


def frames(path: Path) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    """Yield every frame as (seconds from the beginning, uint8[H, W, 3] in RGB).

    Raises:
        DataError: PyAV is not installed, or the file is damaged or no video; the frames before the fault are
            yielded first.
    """
    av = _av(path)
    try:
        with av.open(str(path)) as container:
            for number, frame in enumerate(container.decode(video=0)):
                seconds = number / USUAL_RATE if frame.time is None else frame.time
                yield float(seconds), frame.to_ndarray(format="rgb24")
    except (av.FFmpegError, IndexError) as error:
        raise DataError(f"{path}: cannot be read as a video ({error})") from None


@contextmanager
def writing(path: Path, like: Path) -> Iterator[Callable[[NDArray[np.uint8]], None]]:
    """Open an MP4 file (H.264) and yield a function that adds a frame, uint8[H, W, 3].

    It gets as many frames a second as the video ``like``. A side of an odd number of pixels loses its last
    one: H.264 stores colours for two by two.

    Raises:
        DataError: PyAV is not installed, or ``like`` is no video.
    """
    av = _av(like)
    with av.open(str(path), "w", format="mp4") as container:
        stream: Any = None

        def add(picture: NDArray[np.uint8]) -> None:
            nonlocal stream
            height, width = (side - side % 2 for side in picture.shape[:2])
            if stream is None:
                stream = container.add_stream("libx264", rate=_rate(av, like))
                stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            pixels = np.ascontiguousarray(picture[:height, :width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))

        yield add
        if stream is not None:
            container.mux(stream.encode())


def _rate(av: ModuleType, path: Path) -> Fraction:
    with av.open(str(path)) as container:
        rate: Fraction | None = container.streams.video[0].average_rate
        return rate or USUAL_RATE


def _av(path: Path) -> ModuleType:
    try:
        import av
    except ImportError:
        raise DataError(f"{path}: reading a video needs PyAV: pip install 'drcnn[video]'") from None
    module: ModuleType = av
    return module
