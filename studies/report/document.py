"""A document as a list of blocks, and its Markdown; ``studies.report.page`` makes a page of the same blocks.

Text may hold `code` in backticks and **bold** words, nothing else; everything else in it is shown as it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = [
    "Block",
    "Bullets",
    "Cell",
    "Code",
    "Document",
    "Gallery",
    "Heading",
    "Picture",
    "Table",
    "Text",
    "literal",
]

Cell = str | tuple[str, str]  # a figure, or a figure and a remark on it


@dataclass(frozen=True)
class Heading:
    """The title of a part (level 2) or of a piece of it (level 3)."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Text:
    """A paragraph; ``lead`` marks the one to read if only one is read."""

    text: str
    lead: bool = False


@dataclass(frozen=True)
class Bullets:
    """A list."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Code:
    """Lines to be typed or copied."""

    text: str


@dataclass(frozen=True)
class Table:
    """A table; the first column names the rows.

    Attributes:
        caption: what it shows.
        columns: headings.
        rows: as many cells each.
        words: columns that hold words; the first one does, others hold figures unless named here.
        strong: rows to stand out, by position.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    words: tuple[str, ...] = ()
    strong: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Picture:
    """A PNG file beside the document, and its twin for dark screens if it is a chart.

    Attributes:
        file: name.
        light: the file's bytes.
        dark: bytes of the twin; none if one picture serves both.
        alt: what it shows, for those who do not see it.
        caption: below it.
    """

    file: str
    light: bytes
    dark: bytes | None
    alt: str
    caption: str


@dataclass(frozen=True)
class Gallery:
    """Small pictures side by side."""

    pictures: tuple[Picture, ...]


Block = Heading | Text | Bullets | Code | Table | Picture | Gallery


@dataclass(frozen=True)
class Document:
    """A title, a line below it, and blocks."""

    title: str
    subtitle: str
    blocks: tuple[Block, ...]

    def pictures(self) -> list[Picture]:
        """All pictures, in order."""
        found: list[Picture] = []
        for block in self.blocks:
            if isinstance(block, Picture):
                found.append(block)
            elif isinstance(block, Gallery):
                found.extend(block.pictures)
        return found

    def markdown(self) -> str:
        """The whole as GitHub-flavoured Markdown; pictures are links to their files."""
        parts = [f"# {_plain(self.title)}", _plain(self.subtitle), *map(_markdown, self.blocks)]
        return "\n\n".join(parts) + "\n"


def literal(text: str) -> str:
    """Other people's text, such as an error, without what a document reads as its own marks."""
    return " ".join(text.replace("`", "'").replace("**", "* *").split())


def _markdown(block: Block) -> str:
    match block:
        case Heading():
            found = f"{'#' * block.level} {_plain(block.text)}"
        case Text():
            found = _plain(block.text)
        case Bullets():
            found = "\n".join(f"- {_plain(item)}" for item in block.items)
        case Code():
            found = f"```\n{block.text}\n```"
        case Table():
            found = _table(block)
        case Picture():
            found = f"![{_label(block.alt)}]({block.file})\n\n{_plain(block.caption)}"
        case Gallery():
            found = "\n\n".join(map(_markdown, block.pictures))
    return found


def _table(table: Table) -> str:
    words = {table.columns[0], *table.words}
    rules = [":--" if column in words else "--:" for column in table.columns]
    rows = [
        tuple(_cell(cell, strong=place in table.strong) for cell in row)
        for place, row in enumerate(table.rows)
    ]
    lines = [map(_in_table, table.columns), rules, *rows]
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{_plain(table.caption)}\n\n{body}"


def _cell(cell: Cell, *, strong: bool) -> str:
    main, remark = cell if isinstance(cell, tuple) else (cell, "")
    main = _in_table(main)
    if strong and main:
        main = f"**{main}**"
    return f"{main} ({_in_table(remark)})" if remark else main


def _in_table(text: str) -> str:
    return _plain(text).replace("|", "\\|")


def _plain(text: str) -> str:
    # Errors and paths may hold what Markdown would take for a tag.
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", " ".join(text.split()))


def _label(text: str) -> str:
    return _plain(text).replace("[", "(").replace("]", ")")
