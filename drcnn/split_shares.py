"""Shares of splits: how much of a folder without splits goes to each, decided by the content of an image.

>>> shares = split_shares("0.7/0.15/0.15")
>>> split_of(b"\\x00" * 32, shares), split_of(b"\\xff" * 32, shares)
('train', 'test')
"""

from __future__ import annotations

from itertools import accumulate

__all__ = ["checked_shares", "split_of", "split_shares"]

NAMES = ("train", "val", "test")


def split_shares(text: str) -> dict[str, float]:
    """Read ``train/val/test`` or ``train/val``.

    Raises:
        ValueError: it is not two or three numbers above 0 whose sum is 1.
    """
    try:
        numbers = [float(part) for part in text.split("/")]
    except ValueError:
        numbers = []
    is_whole = abs(sum(numbers) - 1) <= 1e-6
    if len(numbers) not in (2, 3) or not all(number > 0 for number in numbers) or not is_whole:
        raise ValueError(
            "expected the shares of train/val/test, or of train/val, each above 0 and their sum 1, such as "
            "0.7/0.15/0.15"
        )
    return dict(zip(NAMES, numbers, strict=False))


def checked_shares(text: str) -> str:
    """Return the text if ``split_shares`` can read it.

    Raises:
        ValueError: it cannot.
    """
    split_shares(text)
    return text


def split_of(digest: bytes, shares: dict[str, float]) -> str:
    """Return the split of an image. It depends on no other image, and is the same for the same content.

    Args:
        digest: SHA-256 of the image.
        shares: of the splits, of sum 1.
    """
    place = int.from_bytes(digest[:8], "big") / 2**64
    for split, end in zip(shares, accumulate(shares.values()), strict=True):
        if place < end:
            return split
    return next(reversed(shares))
