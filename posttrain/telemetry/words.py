"""Numbers and sampled text as words for a terminal."""

from __future__ import annotations

import math
import textwrap
import unicodedata
from collections.abc import Mapping


def clock(seconds: float) -> str:
    """0:07, 3:05, 2:15:00."""
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{left:02d}" if hours else f"{minutes}:{left:02d}"


def printable(text: str, encoding: str = "utf-8") -> str:
    """A model may sample anything, the codes that repaint a terminal included: none of them reaches it."""
    clean = "".join("\N{REPLACEMENT CHARACTER}" if _is_control(c) else c for c in text)
    return clean.encode(encoding, "replace").decode(encoding)


def _is_control(character: str) -> bool:
    """Control codes, marks that turn the writing direction, halves of surrogate pairs."""
    return character not in "\n\t" and unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def one_line(text: str, length: int) -> str:
    """For a cell: newlines become spaces, the middle goes when it is long (the answer stands at the end)."""
    flat = " ".join(text.split())
    if len(flat) <= length:
        return flat
    head = (length - 5) * 2 // 3
    return f"{flat[:head]} ... {flat[len(flat) - (length - 5 - head) :]}"


def wrapped(text: str, width: int, head: str = "", indent: str = "  ") -> list[str]:
    """Lines of at most `width`, the later ones set in below the head."""
    return textwrap.wrap(
        head + " ".join(text.split()),
        width=max(40, width),
        initial_indent=indent,
        subsequent_indent=indent + " " * len(head),
        break_on_hyphens=False,
        break_long_words=True,
    )


def number(metrics: Mapping[str, float], key: str, pattern: str) -> str:
    """A dash where the step has no such number."""
    value = metrics.get(key)
    return "-" if value is None or math.isnan(value) else format(value, pattern)
