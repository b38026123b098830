"""What a report is made of besides its sentences: tables and pictures, and plain text that stays plain.

A table is one model for all readers: its rows are printed to the terminal and written as Markdown, from which
the page is made.

    >>> table = Table("AP by setting.", ("setting", "AP"), [("NMS_reg=0.85", Cell("37.5", "56.6, -19.1"))])
    >>> print(table.to_markdown())
    AP by setting.
    <BLANKLINE>
    | setting | AP |
    | :-- | --: |
    | NMS_reg=0.85 | 37.5 *(56.6, -19.1)* |
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import rich.table
from markupsafe import Markup
from rich.cells import cell_len
from rich.text import Text

from drcnn.plain_text import printable
from drcnn.points import MISSING

__all__ = ["Cell", "Picture", "Table", "code", "duration", "escape", "number", "sentence"]

# What could open or close markup; underscores and stars do so at the edge of a word only.
_SPECIAL = re.compile(r"[\\`\[\]~]|(?<!\s)\*|\*(?!\s)|(?<![^\W_])_|_(?![^\W_])")
# Where a line begins, these are marks of lists, rules, headings, quotes and numbered lists.
_LINE_MARK = re.compile(r"^( ?\d*)([-+](?=[\s-]|$)|#+(?=\s|$)|>|(?<=\d)[.)](?=\s|$))")
_TAG, _ENTITY = re.compile(r"<(?=[A-Za-z/!?])"), re.compile(r"&(?=#?\w+;)")


def escape(text: str) -> Markup:
    """Plain text as Markdown that shows it letter by letter, on one line."""
    text = printable(re.sub(r"\s+", " ", text))
    text = _SPECIAL.sub(r"\\\g<0>", _ENTITY.sub("&amp;", text))
    return Markup(_TAG.sub("&lt;", _LINE_MARK.sub(r"\1\\\2", text)))


def code(text: str) -> Markup:
    """Plain text as a code span."""
    # A span may hold no backticks of its own.
    return Markup("`" + printable(" ".join(text.replace("`", "'").split())) + "`")


def sentence(markdown: str) -> Markup:
    """A claim, which is Markdown already: it may hold **bold** words and `code`, but no HTML."""
    return Markup(_TAG.sub("&lt;", printable(" ".join(markdown.split()))))


@dataclass(frozen=True)
class Cell:
    """A figure or word of a table.

    Attributes:
        text: plain text, no Markdown.
        remark: plain text shown after it in brackets; empty for none.
        is_code: the text is a key or an identifier.
    """

    text: str
    remark: str = ""
    is_code: bool = False

    def __str__(self) -> str:
        return f"{self.text} ({self.remark})" if self.remark else self.text

    def to_markdown(self, *, is_strong: bool) -> str:
        """The cell as Markdown; a remark is emphasised, which the page shows in small print."""
        text: str = code(self.text) if self.is_code else escape(self.text.strip())
        text = f"**{text}**" if is_strong and text else text
        # A bar would end the cell.
        return (f"{text} *({escape(self.remark.strip())})*" if self.remark else text).replace("|", "\\|")


@dataclass(frozen=True)
class Table:
    """A table whose first column names the rows.

    Attributes:
        caption: what it shows, in plain text.
        columns: headings.
        rows: as many cells each as there are columns.
        words: the columns besides the first that hold words; all others hold figures.
        strong: the positions of the rows that stand out.
        on_remarks: the part of the caption that explains the cells' remarks.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    words: Collection[str] = ()
    strong: Collection[int] = ()
    on_remarks: str = ""

    def fitted(self, width: int) -> Table:
        """The table for a terminal of so many columns; what is left out for that, its caption says.

        First go remarks, which hold the paper's figures, then columns from the last; never the first two,
        which name a row and its state, nor the first figure.
        """
        table, left_out = self, list[str]()
        rows: list[Sequence[Cell | str]]
        if table._width > width:
            rows = [
                [Cell(cell.text) if isinstance(cell, Cell) else cell for cell in row] for row in self.rows
            ]
            table = replace(table, caption=table.caption.replace(self.on_remarks, "", 1), rows=rows)
            left_out += ["what stands in brackets"] if self.on_remarks else []
        while table._width > width and len(table.columns) > 3:
            left_out.append(table.columns[-1])
            rows = [row[:-1] for row in table.rows]
            table = replace(table, columns=table.columns[:-1], rows=rows)
        note = f" Left out here, for a wider terminal: {', '.join(left_out)}." if left_out else ""
        return replace(table, caption=table.caption + note)

    @property
    def _width(self) -> int:
        """Columns of a terminal that it takes."""
        widths = [
            max(map(cell_len, map(str, column))) for column in zip(self.columns, *self.rows, strict=True)
        ]
        return sum(widths) + 3 * len(widths) + 1

    def to_rich(self) -> rich.table.Table:
        """The table for a terminal."""
        table = rich.table.Table(title=Text(self.caption))
        for position, column in enumerate(self.columns):
            if self._holds_words(position):
                table.add_column(Text(column), overflow="fold")
            else:
                table.add_column(Text(column), justify="right", no_wrap=True)
        for position, row in enumerate(self.rows):
            style = "bold" if position in self.strong else None
            table.add_row(*(Text(printable(str(cell))) for cell in row), style=style)
        return table

    def to_markdown(self) -> Markup:
        """The caption as a paragraph, and below it a table of GitHub's Markdown."""
        rules = [":--" if self._holds_words(position) else "--:" for position in range(len(self.columns))]
        lines = [[_markdown(column) for column in self.columns], rules]
        for position, row in enumerate(self.rows):
            lines.append([_markdown(cell, is_strong=position in self.strong) for cell in row])
        body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return Markup(f"{escape(self.caption)}\n\n{body}")

    def without_empty_columns(self) -> Table:
        """The table without the columns of which no cell holds anything."""
        kept = [
            position
            for position in range(len(self.columns))
            if any(str(row[position]) not in {"", MISSING} for row in self.rows)
        ]
        rows = [[row[position] for position in kept] for row in self.rows]
        return replace(self, columns=[self.columns[position] for position in kept], rows=rows)

    def _holds_words(self, position: int) -> bool:
        return position == 0 or self.columns[position] in self.words


@dataclass(frozen=True)
class Picture:
    """A PNG file beside the report, and its twin for dark screens if it is a chart.

    Attributes:
        file: name.
        light: the file's bytes.
        dark: bytes of the twin; none for a photograph, which serves both.
        alt: what it shows, for those who do not see it; plain text.
        caption: below it; plain text.
        is_wide: a photograph that takes a line of its own; others stand two by two.
    """

    file: str
    light: bytes
    dark: bytes | None
    alt: str
    caption: str
    is_wide: bool = False

    def to_markdown(self) -> Markup:
        """The picture, and its caption as a paragraph."""
        return Markup(f"![{escape(self.alt)}]({self.file})\n\n{escape(self.caption)}")


def number(value: float, decimals: int = 1) -> str:
    """A number for people to read; a dash for one that is not known."""
    return MISSING if math.isnan(value) else f"{value:,.{decimals}f}"


def duration(seconds: float) -> str:
    """A time for people to read.

    >>> duration(40), duration(1500), duration(9000)
    ('40 s', '25 min', '2.5 h')
    """
    if seconds < 100:
        return f"{math.ceil(seconds)} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _markdown(cell: Cell | str, *, is_strong: bool = False) -> str:
    return (Cell(cell) if isinstance(cell, str) else cell).to_markdown(is_strong=is_strong)
