"""Markdown from templates: what a template prints is escaped unless it is Markdown already.

A template holds the report's words. A value that it prints, such as a path or an error, is other people's
text and must not be read as markup, so Jinja's autoescape is on, with Markdown's escapes in place of HTML's:

    >>> str(escape("loss *not* finite <b>"))
    'loss \\\\*not\\\\* finite &lt;b>'
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from studies.definition.labels import parameter_name
from studies.definition.metrics import points

__all__ = ["TEMPLATES", "code", "escape", "render_markdown", "sentence"]

TEMPLATES = Path(__file__).with_name("templates")
# What could open or close markup; underscores and stars do so at the edge of a word only.
_SPECIAL = re.compile(r"[\\`\[\]~]|(?<!\s)\*|\*(?!\s)|(?<![^\W_])_|_(?![^\W_])")
# Where a line begins, these are marks of lists, rules, headings, quotes and numbered lists.
_LINE_MARK = re.compile(r"^( ?\d*)([-+](?=[\s-]|$)|#+(?=\s|$)|>|(?<=\d)[.)](?=\s|$))")
_TAG, _ENTITY = re.compile(r"<(?=[A-Za-z/!?])"), re.compile(r"&(?=#?\w+;)")


def escape(text: str) -> Markup:
    """Plain text as Markdown that shows it letter by letter, on one line."""
    text = _SPECIAL.sub(r"\\\g<0>", _ENTITY.sub("&amp;", re.sub(r"\s+", " ", text)))
    return Markup(_TAG.sub("&lt;", _LINE_MARK.sub(r"\1\\\2", text)))


def code(text: str) -> Markup:
    """Plain text as a code span."""
    # A span may hold no backticks of its own.
    return Markup("`" + " ".join(text.replace("`", "'").split()) + "`")


def sentence(markdown: str) -> Markup:
    """A claim, which is Markdown already: it may hold **bold** words and `code`, but no HTML."""
    return Markup(_TAG.sub("&lt;", " ".join(markdown.split())))


def render_markdown(template: str, **facts: Any) -> str:
    """Fill a template in and put every paragraph on a line of its own, however the template is wrapped."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        finalize=lambda value: value if isinstance(value, Markup) else escape(str(value)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "code": code,
        "listed": _listed,
        "parameter": parameter_name,
        "points": points,
        "sentence": sentence,
    }
    text = environment.get_template(template).render(facts)
    return "\n\n".join(map(_unwrap, re.split(r"\n\s*\n", text.strip()))) + "\n"


def _unwrap(block: str) -> str:
    if block.startswith(("|", "```")):
        return block
    return re.sub(r"\s*\n\s*(?!- )", " ", block)


def _listed(words: Sequence[str], last: str = "and") -> str:
    """A list in words, such as 'a, b and c'."""
    *others, final = words
    return f"{', '.join(others)} {last} {final}" if others else final
