from __future__ import annotations

import html.parser
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from studies.definition.plan import Plan, Trial
from studies.report.rendering import render_markdown

Write = Callable[[Plan, Sequence[Trial]], str]


def test_a_paragraph_is_one_line_however_its_template_is_wrapped() -> None:
    facts = SimpleNamespace(plan=SimpleNamespace(margin=0.5))
    lines = render_markdown("how_to_read.md.j2", facts=facts).splitlines()
    assert lines[0].startswith("A detector draws boxes")
    assert lines[0].endswith("The words used:")
    assert all(line.startswith("- **") for line in lines[2:])


class _Links(html.parser.HTMLParser):
    """Open tags must be closed in order; collects what a browser would fetch, and texts for the blind."""

    VOID = frozenset({"meta", "img", "source", "br", "link"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.alts: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.add(tag)
        self.fetched += [attributes[name] or "" for name in ("src", "srcset") if name in attributes]
        if tag == "img":
            self.alts.append(attributes.get("alt") or "")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_self_contained(searched: tuple[Plan, list[Trial]], write: Write) -> None:
    plan, trials = searched
    write(plan, trials)
    page = (plan.folder / "report.html").read_text(encoding="utf-8")
    links = _Links()
    links.feed(page)
    assert links.open == []
    assert links.fetched
    assert all(source.startswith("data:image/png;base64,") for source in links.fetched)
    assert all(len(alt) > 20 for alt in links.alts)
    assert not links.tags & {"script", "link", "iframe"}
    assert "url(" not in page
    assert "@import" not in page


def test_the_same_results_give_the_same_bytes(searched: tuple[Plan, list[Trial]], write: Write) -> None:
    plan, trials = searched
    write(plan, trials)
    first = {path.name: path.read_bytes() for path in plan.folder.iterdir()}
    write(plan, trials)
    assert {path.name: path.read_bytes() for path in plan.folder.iterdir()} == first


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to open the page in")
def test_a_browser_shows_the_page_light_and_dark(
    searched: tuple[Plan, list[Trial]], write: Write, tmp_path: Path
) -> None:
    plan, trials = searched
    write(plan, trials)
    # 0 is dark, 1 is light.
    corners = [_screenshot(plan.folder / "report.html", tmp_path, scheme) for scheme in (0, 1)]
    assert [int(np.mean(corner)) for corner in corners] == [23, 255]


def _screenshot(page: Path, folder: Path, scheme: int) -> tuple[int, ...]:
    """Open a page in a browser of its own; the colour of its upper left corner."""
    assert CHROMIUM is not None
    picture = folder / f"{scheme}.png"
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1000,3000"]
    command += [f"--user-data-dir={folder / 'profile'}", f"--blink-settings=preferredColorScheme={scheme}"]
    subprocess.run(
        [*command, f"--screenshot={picture}", page.as_uri()], check=True, timeout=120, capture_output=True
    )
    with Image.open(picture) as image:
        # Something is drawn below the heading.
        assert len(image.convert("RGB").getcolors(1 << 24) or []) > 50
        return tuple(image.convert("RGB").getpixel((2, 2)))
