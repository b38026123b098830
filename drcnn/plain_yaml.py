"""Read YAML that anybody may have written: plain values only, and one error for whatever is wrong with it.

PyYAML's safe loader keeps code out, but lets a few lines of aliases stand for gigabytes, nests without end,
and raises a dozen kinds of errors for scalars of the wrong form.

>>> read_yaml("[6, 8]")
[6, 8]
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import yaml

from drcnn.plain_text import UNPRINTABLE, printable

__all__ = ["YamlError", "compose_yaml", "construct_yaml", "read_yaml"]

# Safe, and with libyaml ten times as fast.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# Far above any study file or data.yaml, far below what takes memory or a deep stack.
MOST_LETTERS, MOST_NODES, DEEPEST = 1 << 20, 100_000, 32
# No setting has more digits; some of the later arithmetic is of floats.
LONGEST_NUMBER = 40
# What composing and constructing raise besides YAML's own errors, as for "!!int ''" or "2001-99-99".
_RAISED = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


class YamlError(ValueError):
    """Text that cannot be used; the message is one line.

    Attributes:
        line: where, from 1; none if that is not known.
    """

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(printable(" ".join(message.split())[:300]))
        self.line = line


def read_yaml(text: str) -> Any:
    """Return the value of a document; ``None`` if it is empty.

    Raises:
        YamlError: as ``compose_yaml`` and ``construct_yaml`` do.
    """
    return construct_yaml(compose_yaml(text))


def compose_yaml(text: str) -> yaml.Node | None:
    """Return the nodes of a document, which know their lines; ``None`` if it is empty.

    Raises:
        YamlError: it is not YAML, too large or too deeply nested, aliases would make it large, or a text in
            it holds control characters.
    """
    if len(text) > MOST_LETTERS:
        raise YamlError(f"has {len(text):,} letters, expected at most {MOST_LETTERS:,}")
    try:
        node: yaml.Node | None = yaml.compose(text, Loader=_LOADER)
        if node is not None:
            _require_plain(node)
    except YamlError:
        raise
    except yaml.YAMLError as error:
        raise _explained(error, text.count("\n") + 1) from None
    except _RAISED as error:
        raise YamlError(f"not YAML: {error or type(error).__name__}") from None
    return node


def construct_yaml(node: yaml.Node | None) -> Any:
    """Return the value of composed nodes.

    Raises:
        YamlError: a value has not the form of its tag, or a tag that is not YAML's own.
    """
    if node is None:
        return None
    try:
        return yaml.constructor.SafeConstructor().construct_document(node)
    except yaml.YAMLError as error:
        raise _explained(error) from None
    except _RAISED as error:
        raise YamlError(f"a value is not of its kind: {error or type(error).__name__}") from None


def _explained(error: yaml.YAMLError, lines: float = math.inf) -> YamlError:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or error
    # What is missing at the end, libyaml misses in the line after the last.
    return YamlError(f"not YAML: {problem}", int(min(mark.line + 1, lines)) if mark else None)


def _require_plain(root: yaml.Node) -> None:
    """Refuse what is too large or too deep with all aliases written out, and text with control characters."""
    known: dict[int, tuple[int, int]] = {}

    def measure(node: yaml.Node) -> tuple[int, int]:
        """The number of nodes, and of levels."""
        if id(node) not in known:
            # Until it is known: an alias inside of what it stands for is endless.
            known[id(node)] = MOST_NODES + 1, 0
            _require_printable(node)
            sizes = [measure(child) for child in _children(node)]
            known[id(node)] = (
                1 + sum(nodes for nodes, _ in sizes),
                1 + max((levels for _, levels in sizes), default=0),
            )
        return known[id(node)]

    nodes, levels = measure(root)
    if nodes > MOST_NODES:
        raise YamlError(f"holds more than {MOST_NODES:,} values once its aliases are written out")
    if levels > DEEPEST:
        raise YamlError(f"is nested {levels} deep, expected at most {DEEPEST}")


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from (key, value)
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def _require_printable(node: yaml.Node) -> None:
    if not isinstance(node, yaml.ScalarNode):
        return
    line = node.start_mark.line + 1
    if UNPRINTABLE.search(node.value):
        raise YamlError(f"{node.value[:80]!r} holds control characters; remove them", line)
    if node.tag.endswith((":int", ":float")) and len(node.value) > LONGEST_NUMBER:
        raise YamlError(f"{node.value[:20]}... is a number of {len(node.value)} digits", line)
