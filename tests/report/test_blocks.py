from __future__ import annotations

import io
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from drcnn.plain_text import printable
from drcnn.report.blocks import Cell, Table, escape
from drcnn.report.page import render_page

ERROR = "cannot open <a href='x'> `y` | **z** ![p](http://x/p.png) [q](http://x)"
TABLE = Table(
    "Errors",
    ("trial", "error", "id", "AP"),
    [("one|two", ERROR, Cell("0|f", is_code=True), Cell("37.5", "56.6, -19.1")), ("3", "", "", "-1.5")],
    words=("error", "id"),
    strong={1},
)


def as_page(body: str) -> str:
    return render_page(f"# Title\n\nLine\n\n{body}\n", [])


def test_what_others_wrote_is_shown_as_it_is() -> None:
    text = TABLE.to_markdown()
    assert "| one\\|two | cannot open &lt;a href='x'> \\`y\\` \\| \\*\\*z\\*\\* " in text
    shown = as_page(f"It failed: {escape(ERROR)}\n\n{text}").partition("<main>")[2]
    assert "cannot open &lt;a href='x'&gt; `y` | **z** ![p](http://x/p.png) [q](http://x)" in shown
    assert shown.count("<strong>") == 2  # the two cells of the row that stands out
    assert not re.search("<(a|img) ", shown)


def test_a_page_names_columns_and_rows_and_shows_true_minus_signs() -> None:
    shown = as_page(TABLE.to_markdown())
    assert '<th style="text-align:right" scope="col">AP</th>' in shown
    assert '<th style="text-align:left" scope="row">one|two</th>' in shown
    assert "37.5 <em>(56.6, −19.1)</em>" in shown
    assert "<code>0|f</code>" in shown
    region = re.search(
        'role="region" tabindex="0" aria-labelledby="(.+?)"><table>\n<caption id="(.+?)">', shown
    )
    assert region
    assert region[1] == region[2]


def test_a_terminal_shows_the_same_cells() -> None:
    text = io.StringIO()
    Console(file=text, width=200).print(TABLE.to_rich())
    assert ERROR in text.getvalue()
    assert "37.5 (56.6, -19.1)" in text.getvalue()


def test_a_narrow_terminal_loses_brackets_first_then_columns_but_never_names_and_states() -> None:
    name, figures = "NMS_reg=0.85 NMS_cls=0.75 seed=1", [Cell("37.5", "56.6, -19.1")] * 4
    columns = ("trial", "status", "AP", "AP50", "AP80", "AP90")
    rows = [(name, Cell("finished"), *figures)]
    table = Table(
        "AP; in brackets the paper.", columns, rows, {"status"}, on_remarks="; in brackets the paper"
    )
    assert table.fitted(160) == table
    expected = {80: 6, 60: 3, 30: 3}
    for width, count in expected.items():
        text = io.StringIO()
        Console(file=text, width=width).print(table.fitted(width).to_rich())
        lines = text.getvalue().splitlines()
        assert max(map(len, lines)) <= width
        assert len(table.fitted(width).columns) == count
        assert "56.6" not in text.getvalue()
        assert "finished" in text.getvalue()
        assert "Left out" in " ".join(text.getvalue().split())
    assert (
        table.fitted(60).caption
        == "AP. Left out here, for a wider terminal: what stands in brackets, AP90, AP80, AP50."
    )


@settings(deadline=None)
@given(st.text())
@pytest.mark.parametrize("place", ["{}", "see {} there", "- {}", "a table\n\n| a |\n| :-- |\n| {} |"])
def test_any_text_is_shown_letter_by_letter(place: str, text: str) -> None:
    escaped = escape(text)
    if place.startswith("a table"):
        escaped = Cell(text).to_markdown(is_strong=False)
    shown = as_page(place.format(escaped)).partition("<main>")[2]
    plain = printable(" ".join(text.split()))
    expected = plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
    assert expected.replace("−", "-") in shown.replace("−", "-")


@settings(deadline=None)
@given(st.text(alphabet="ab \\`*_[]()<>!&;#+-=.1|~:/", min_size=1))
def test_no_markup_of_others_gets_through(text: str) -> None:
    shown = as_page(escape(text)).partition("<main>")[2].partition("</main>")[0]
    assert re.fullmatch(r"\s*(<p>[^<]*</p>\s*)?", shown)
