"""Splits that a folder does not have, made of those that it has.

A folder without splits is divided. Where only ``val`` is missing, it is taken from the training split. Where
``trainval`` is asked for and missing, it is both. The content of an image decides where it goes, so it stays
there when others are added.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from drcnn.config import DataConfig
from drcnn.data.annotations import Annotations, DataError
from drcnn.data.faults import DataFaults
from drcnn.data.formats.classes import concatenated
from drcnn.data.formats.folders import as_split
from drcnn.data.formats.source import Source
from drcnn.split_shares import split_of, split_shares

__all__ = ["divided", "with_missing_splits"]

TRAINVAL = "trainval"


def divided(whole: Source, where: str, text: str) -> Source:
    """Divide a source without splits, whose whole is split ``""``.

    Args:
        whole: the source.
        where: its folder, for messages.
        text: ``data.split``.
    """
    shares = split_shares(text)
    parts = {name: {name} for name in shares} | {TRAINVAL: {"train", "val"}}
    read_whole = _read_once(whole, "")

    def read(split: str, faults: DataFaults) -> Annotations:
        if split not in parts:
            raise DataError(f"{where}: no split {split!r}; data.split={text} makes {', '.join(parts)}")
        taken = _taken(read_whole(faults), shares, parts[split])
        if isinstance(taken, str):
            raise DataError(
                f"{where}: has no splits, and data.split={text} divides its {taken}; add images, or set "
                "data.split, such as 0.5/0.5 without a test split"
            )
        return taken

    return Source(
        read=read,
        files=lambda split: whole.files(""),
        find=lambda split: split if split in parts else None,
        settings=(*whole.settings, text),
        words=f"{whole.words}, without splits: divided by content, data.split={text}",
    )


def with_missing_splits(source: Source, data: DataConfig) -> Source:
    """Make ``trainval`` and ``val`` where they are asked for and missing."""
    if data.train_split == TRAINVAL and not source.find(TRAINVAL):
        train, val = source.find("train"), source.find("val")
        if train and val:
            source = _with_trainval(source, train, val)
    train, val = source.find(data.train_split), data.val_split
    if train and val and as_split(val) == "val" and not source.find(val):
        source = _with_val(source, train, val, data)
    return source


def _with_trainval(source: Source, train: str, val: str) -> Source:
    parts = (train, val)

    def read(split: str, faults: DataFaults) -> Annotations:
        if split != TRAINVAL:
            return source.read(split, faults)
        return concatenated({part: source.read(part, faults) for part in parts})

    return replace(
        source,
        read=read,
        files=lambda split: (
            [file for part in parts for file in source.files(part)]
            if split == TRAINVAL
            else source.files(split)
        ),
        find=lambda split: TRAINVAL if split == TRAINVAL else source.find(split),
        words=f"{source.words}; trainval is {train} and {val}",
    )


def _with_val(source: Source, train: str, val: str, data: DataConfig) -> Source:
    """Take ``val`` from ``train``, with the shares that both have in ``data.split``."""
    given = split_shares(data.split)
    both = given["train"] + given["val"]
    shares = {train: given["train"] / both, val: given["val"] / both}
    read_whole = _read_once(source, train)

    def read(split: str, faults: DataFaults) -> Annotations:
        if split not in shares:
            return source.read(split, faults)
        taken = _taken(read_whole(faults), shares, {split})
        if isinstance(taken, str):
            raise DataError(
                f"{data.source}: has no split {val!r}, and taking one from {train!r} by content (data.split="
                f"{data.split}) divides its {taken}; add images, or train without: --set data.val_split=null"
            )
        return taken

    return Source(
        read=read,
        files=lambda split: source.files(train if split in shares else split),
        find=lambda split: val if as_split(split) == "val" else source.find(split),
        settings=(*source.settings, data.split, train, val),
        words=f"{source.words}; it has no {val}, so {shares[val]:.0%} of {train} are, by content "
        "(data.val_split=null: none)",
    )


def _read_once(source: Source, name: str) -> Callable[[DataFaults], Annotations]:
    """Read a split for the parts that are made of it; whoever is first gets its faults."""
    tables: list[Annotations] = []

    def read(faults: DataFaults) -> Annotations:
        if not tables:
            tables.append(source.read(name, faults))
        return tables[0]

    return read


def _taken(table: Annotations, shares: Mapping[str, float], wanted: set[str]) -> Annotations | str:
    """Return the images of the wanted parts; if there is none, what there is, for a message."""
    splits = [split_of(bytes(digest), dict(shares)) for digest in table.digests]
    rows = [row for row, own in enumerate(splits) if own in wanted]
    if rows:
        return table.take(rows)
    counts = ", ".join(f"{name} {splits.count(name)}" for name in shares)
    return f"{len(table)} images by their content into {counts}"
