"""From Markdown to a self-contained page, which holds its pictures and fetches nothing."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict
from markupsafe import Markup

from drcnn.report.blocks import Picture

__all__ = ["render_page"]

_TEMPLATES = FileSystemLoader(Path(__file__).with_name("templates"))
_MINUS = re.compile(r"(?<![\w.)-])-(?=\d)")


def render_page(markdown: str, pictures: Sequence[Picture]) -> str:
    """Return the whole page.

    Args:
        markdown: the report: a title and what belongs to it, then sections.
        pictures: those it shows; of any other picture only the description is left.
    """
    # No HTML and no links: the report has none, and other people's text must bring none.
    parser = MarkdownIt("commonmark", {"html": False}, renderer_cls=_PageRenderer)
    parser.enable("table").disable(["link", "autolink", "reference"])
    tokens = _arranged(parser.parse(markdown))
    env = {picture.file: picture for picture in pictures}
    # All above the first section is the page's header; the contents follow it. Without sections, the title's
    # heading and the paragraph below it, of three tokens each.
    sections = next(
        (at for at, token in enumerate(tokens) if (token.type, token.tag) == ("heading_open", "h2")),
        6,
    )
    parts = (tokens[:sections], tokens[sections:])
    header, body = (parser.renderer.render(part, parser.options, env) for part in parts)
    contents = [
        (token.attrs["id"], _plain(tokens[at + 1]))
        for at, token in enumerate(tokens)
        if token.tag == "h2" and token.nesting == 1
    ]
    environment = Environment(loader=_TEMPLATES, autoescape=True, undefined=StrictUndefined)
    return environment.get_template("page.html.j2").render(
        title=_plain(tokens[1]), header=Markup(header), contents=contents, body=Markup(body)
    )


def _arranged(tokens: Sequence[Token]) -> list[Token]:
    """Markdown's blocks as the page has them.

    A table stands in a region that scrolls, with its caption, the paragraph before it, inside. A picture and
    its caption, the paragraph after it, are a figure.
    """
    arranged: list[Token] = []
    for at, token in enumerate(tokens):
        arranged.append(token)
        match token.type:
            case "heading_open":
                slug = re.sub(r"[^a-z0-9]+", "-", _plain(tokens[at + 1]).lower()).strip("-")
                token.attrSet("id", slug)
            case "blockquote_open":
                token.tag, token.attrs = "div", {"class": "lead"}
            case "blockquote_close":
                token.tag = "div"
            case "table_open":
                caption_open, caption, caption_close, table = arranged[-4:]
                caption_open.tag = caption_close.tag = "caption"
                caption_open.attrSet("id", f"table-{at}")
                # A wide table scrolls under its caption, which this holds in place.
                span = Token("span_open", "span", 1), Token("span_close", "span", -1)
                caption.children = [span[0], *(caption.children or []), span[1]]
                region = Token("region_open", "div", 1, {"class": "wide", "role": "region", "tabindex": 0})
                region.attrSet("aria-labelledby", f"table-{at}")
                arranged[-4:] = [region, table, caption_open, caption, caption_close]
            case "table_close":
                arranged.append(Token("region_close", "div", -1))
            case "th_open":
                token.attrSet("scope", "col")
            case "td_open" if tokens[at - 1].type == "tr_open":
                token.tag = tokens[at + 2].tag = "th"
                token.attrSet("scope", "row")
            case "paragraph_close" if _is_picture(tokens[at - 1]):
                arranged[-3].tag = "figure"
                arranged.pop()
            case "paragraph_close" if at > 3 and _is_picture(tokens[at - 4]):
                arranged[-3].tag = token.tag = "figcaption"
                arranged.append(Token("figure_close", "figure", -1))
    return arranged


class _PageRenderer(RendererHTML):
    """HTML with pictures for light and dark screens, and true minus signs."""

    def image(self, tokens: Sequence[Token], at: int, options: OptionsDict, env: EnvType) -> str:
        picture: Picture | None = env.get(str(tokens[at].attrs["src"]))
        alt = escapeHtml(_plain(tokens[at]))
        if picture is None:
            return alt
        if picture.dark is None:
            return _image("wide-photo" if picture.is_wide else "photo", picture.light, alt)
        # Not <picture>: a browser that prints a dark page keeps the source that it chose for the screen.
        return _image("light", picture.light, alt) + _image("dark", picture.dark, alt)

    def text(self, tokens: Sequence[Token], at: int, options: OptionsDict, env: EnvType) -> str:
        return escapeHtml(_MINUS.sub("−", tokens[at].content))


def _is_picture(inline: Token) -> bool:
    return [child.type for child in inline.children or []] == ["image"]


def _image(kind: str, png: bytes, alt: str) -> str:
    # A PNG file names its width and height in its first chunk.
    width, height = (int.from_bytes(png[start : start + 4], "big") for start in (16, 20))
    data = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return f'<img class="{kind}" src="{data}" width="{width}" height="{height}" alt="{alt}">'


def _plain(inline: Token) -> str:
    """The text of a heading or picture without its markup."""
    return "".join(child.content for child in inline.children or [])
