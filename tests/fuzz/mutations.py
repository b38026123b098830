"""Damage done to valid inputs: trees with extreme values, texts with other words, files with flipped bits."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

__all__ = ["EXTREMES", "bytes_of", "cases", "fails_only_with", "file_of", "text_of", "tree_of"]

# A few hundred in the usual run; the profile ``long`` asks for more.
EXAMPLES = max(200, settings.default.max_examples if settings.default else 0)
cases = settings(
    max_examples=EXAMPLES,
    deadline=None,
    # The folder of a test is written anew by each case.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def _nested(levels: int) -> Any:
    tree: Any = 1
    for _ in range(levels):
        tree = [tree]
    return tree


EXTREMES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, -(2**63), 2**64, 10**200, 10**400, 0.5, -0.0, 1e-320, 1e308, -1e308,
    float("nan"), float("inf"), float("-inf"), "", " ", "0", "nan", "1e999", "\0", "\ud800", "\x1b[2J",
    "\u202etxt", "a\nb", "../../etc/passwd", "/etc/passwd", "C:\\x", "a" * 5000, "9" * 5000, "<script>",
    "$x^$",
    "9" * 400 + "x", [], {}, [[]], {"": None}, {"a": {}}, [0, 0, 0, 0], [1e308] * 4, [10**400] * 4,
    [float("nan")] * 4, list(range(50)), _nested(60),
)  # fmt: skip
# The same, as a text file may have them.
TOKENS = (
    "", " ", "0", "-1", "1e999", "nan", "inf", "9" * 400, "0x" + "f" * 5000, "\0", "\x1b[2J", "\u202e",
    "\ufeff",
    "a" * 5000, "../..", "/etc/passwd", "&a", "*a", "&a [*a]", "!!int ''", "!!python/object:os.system x",
    "2001-99-99", "!!timestamp x", "!!binary x", "%YAML 9.9", "---", "...", "? [a]: b", "<<: *a", "[" * 500,
    "{" * 500, "]", "}", ":", ",", "-", "|", ">", "'", '"', "#", "\t", "\n", "\r", "<!DOCTYPE x>", "&lt;",
    "&#27;", "&#x9b;", "<a>" * 500, "</annotation>", "<![CDATA[", "]]>",
    "<?xml version='1.0' encoding='hex'?>",
    "e" * 100 + "=", "1_0", "190:20:30", "~", "null", "true",
)  # fmt: skip
WORD = re.compile(r"[^\s,:=\[\]{}<>/\"']+|[\[\]{}:,<>=]")

Tree = TypeVar("Tree")
Place = tuple[Any, Any]


def fails_only_with(*errors: type[Exception]) -> Any:
    """Let the project's errors pass, whose message is what a person can read."""
    return _Expected(errors)


class _Expected:
    def __init__(self, errors: tuple[type[Exception], ...]) -> None:
        self.errors = errors

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, self.errors):
            return False
        is_ours = type(error).__module__.startswith(("drcnn.", "studies."))
        assert is_ours, f"{type(error).__name__} is no error of the project"
        assert str(error).strip()
        assert len(str(error)) < 20_000, "a message that nobody reads"
        return True


def _places(tree: Any) -> Iterator[Place]:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield tree, key
        yield from _places(value)


def _replace(holder: Any, key: Any, draw: Callable[..., Any]) -> None:
    holder[key] = copy.deepcopy(draw(st.sampled_from(EXTREMES)))


def _delete(holder: Any, key: Any, draw: Callable[..., Any]) -> None:
    del holder[key]


def _duplicate(holder: Any, key: Any, draw: Callable[..., Any]) -> None:
    if isinstance(holder, list):
        holder.insert(key, copy.deepcopy(holder[key]))
    else:
        holder[draw(st.sampled_from(["", "id", "\0", "seed=1", "a" * 300]))] = copy.deepcopy(holder[key])


def _wrap(holder: Any, key: Any, draw: Callable[..., Any]) -> None:
    holder[key] = draw(st.sampled_from([list, str, lambda value: {"x": value}]))(
        [holder[key]] if draw(st.booleans()) else str(holder[key])
    )


@st.composite
def tree_of(draw: Callable[..., Any], valid: Any) -> Any:
    """A valid tree of lists and mappings, with one to four places replaced, left out, doubled or wrapped."""
    tree = copy.deepcopy(valid)
    for _ in range(draw(st.integers(1, 4))):
        places = list(_places(tree))
        if not places:
            break
        holder, key = places[draw(st.integers(0, len(places) - 1))]
        draw(st.sampled_from([_replace, _replace, _replace, _delete, _duplicate, _wrap]))(holder, key, draw)
    return tree


@st.composite
def text_of(draw: Callable[..., Any], valid: str) -> str:
    """A valid text with one to four words replaced by others or by tokens that mean something, or cut off."""
    text = valid
    for _ in range(draw(st.integers(1, 4))):
        words = list(WORD.finditer(text))
        if not words:
            break
        word = words[draw(st.integers(0, len(words) - 1))]
        new = draw(
            st.one_of(
                st.sampled_from(TOKENS),
                st.sampled_from([found[0] for found in words]),
                st.text(max_size=8),
            )
        )
        start = word.end() if draw(st.booleans()) else word.start()
        text = text[:start] + new + text[word.end() :]
    return text[: draw(st.integers(0, len(text)))] if draw(st.integers(0, 9)) == 0 else text


@st.composite
def bytes_of(draw: Callable[..., Any], valid: bytes) -> bytes:
    """A valid file with bytes flipped, cut out, doubled or cut off at its end."""
    content = bytearray(valid)
    for _ in range(draw(st.integers(1, 4))):
        if not content:
            break
        at = draw(st.integers(0, len(content) - 1))
        until = min(len(content), at + draw(st.integers(1, 64)))
        match draw(st.sampled_from(["flip", "flip", "cut", "double", "truncate", "fill"])):
            case "flip":
                content[at] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del content[at:until]
            case "double":
                content[at:at] = content[at:until]
            case "truncate":
                del content[at:]
            case _:
                content[at:until] = bytes([draw(st.sampled_from([0, 255, 0x1B]))]) * (until - at)
    return bytes(content)


def file_of(valid: str) -> st.SearchStrategy[bytes]:
    """A valid text file, damaged in one of both ways."""
    return st.one_of(
        bytes_of(valid.encode()), text_of(valid).map(lambda text: text.encode("utf-8", "surrogatepass"))
    )
