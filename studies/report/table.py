"""The one model of a table: the same rows in the terminal and in the report's Markdown, and so in its HTML.

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
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import rich.table
from markupsafe import Markup
from rich.text import Text

from studies.definition.metrics import MISSING
from studies.report.markdown import code, escape

__all__ = ["Cell", "Table", "number"]


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
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    words: Collection[str] = ()
    strong: Collection[int] = ()

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
            table.add_row(*(Text(str(cell)) for cell in row), style=style)
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


def number(value: float, decimals: int = 1) -> str:
    """A number for people to read; a dash for one that is not known."""
    return MISSING if math.isnan(value) else f"{value:,.{decimals}f}"


def _markdown(cell: Cell | str, *, is_strong: bool = False) -> str:
    return (Cell(cell) if isinstance(cell, str) else cell).to_markdown(is_strong=is_strong)
