"""A document as one self-contained page: pictures inside, no scripts, nothing fetched; prints well."""

from __future__ import annotations

import base64
import html
import re
from pathlib import Path

from studies.report.document import (
    Block,
    Bullets,
    Cell,
    Code,
    Document,
    Gallery,
    Heading,
    Picture,
    Table,
    Text,
)

__all__ = ["page"]

STYLE = Path(__file__).with_name("report.css")


def page(document: Document) -> str:
    """Return the whole page."""
    headings = [block.text for block in document.blocks if isinstance(block, Heading) and block.level == 2]
    links = "".join(f'<li><a href="#{_slug(text)}">{_inline(text)}</a></li>' for text in headings)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(document.title)}</title>
<style>
{STYLE.read_text(encoding="utf-8")}</style>
</head>
<body>
<header>
<h1>{_inline(document.title)}</h1>
<p class="subtitle">{_inline(document.subtitle)}</p>
<nav aria-label="Contents"><ol>{links}</ol></nav>
</header>
<main>
{"".join(map(_block, document.blocks))}</main>
<footer>Written by drcnn. This page holds all it shows: it can be kept, sent and printed as one file.</footer>
</body>
</html>
"""


def _block(block: Block) -> str:
    match block:
        case Heading():
            found = f'<h{block.level} id="{_slug(block.text)}">{_inline(block.text)}</h{block.level}>'
        case Text():
            mark = ' class="lead"' if block.lead else ""
            found = f"<p{mark}>{_inline(block.text)}</p>"
        case Bullets():
            found = f"<ul>{''.join(f'<li>{_inline(item)}</li>' for item in block.items)}</ul>"
        case Code():
            found = f"<pre>{html.escape(block.text)}</pre>"
        case Table():
            found = _table(block)
        case Picture():
            found = _figure(block)
        case Gallery():
            found = f'<div class="gallery">{"".join(map(_figure, block.pictures))}</div>'
    return f"{found}\n"


def _table(table: Table) -> str:
    words = {table.columns[0], *table.words}
    marks = [' class="w"' if column in words else "" for column in table.columns]
    head = "".join(
        f'<th scope="col"{mark}>{_inline(column)}</th>'
        for column, mark in zip(table.columns, marks, strict=True)
    )
    rows = []
    for place, row in enumerate(table.rows):
        first, *others = (_cell(cell) for cell in row)
        cells = "".join(f"<td{mark}>{cell}</td>" for cell, mark in zip(others, marks[1:], strict=True))
        strong = ' class="strong"' if place in table.strong else ""
        rows.append(f'<tr{strong}><th scope="row" class="w">{first}</th>{cells}</tr>')
    # In a region of its own that scrolls, and that a keyboard can reach.
    label = html.escape(_bare(table.caption), quote=True)
    return (
        f'<div class="wide" role="region" tabindex="0" aria-label="{label}"><table>'
        f"<caption><span>{_inline(table.caption)}</span></caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _cell(cell: Cell) -> str:
    main, remark = cell if isinstance(cell, tuple) else (cell, "")
    return f"{_inline(main)}<small>{_inline(remark)}</small>" if remark else _inline(main)


def _figure(picture: Picture) -> str:
    images = _image(picture, picture.light, "light" if picture.dark else "")
    if picture.dark:
        # Not <picture>: a browser that prints a dark page keeps the source that it chose for the screen.
        images += _image(picture, picture.dark, "dark")
    return f"<figure>{images}<figcaption>{_inline(picture.caption)}</figcaption></figure>"


def _image(picture: Picture, png: bytes, mark: str) -> str:
    width, height = _size(png)
    alt = html.escape(picture.alt, quote=True)
    return f'<img class="{mark}" src="{_data(png)}" width="{width}" height="{height}" alt="{alt}">'


def _data(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _size(png: bytes) -> tuple[int, int]:
    """Width and height, which a PNG file names in its first chunk."""
    return int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")


def _inline(text: str) -> str:
    """Escape, with `code`, **bold** and true minus signs."""
    parts = html.escape(text, quote=False).split("`")
    for place, part in enumerate(parts):
        if place % 2:
            parts[place] = f"<code>{part}</code>"
        else:
            bold = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", part)
            parts[place] = re.sub(r"(?<![\w.)-])-(?=\d)", "−", bold)
    return "".join(parts)


def _bare(text: str) -> str:
    return text.replace("`", "").replace("**", "")


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
