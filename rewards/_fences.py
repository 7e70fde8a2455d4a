"""The code blocks of an answer in Markdown."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

# `python`, `py3`, `python3.11`, `python:solution.py`, `{python}`, `python title="a"`; not `pycon` nor `python-repl`.
_PYTHON = re.compile(r"\{?\.?(?:python|py)[\d.]*(?:[^\w.-].*)?", re.IGNORECASE)
_INSIDE = 4  # columns further right than the fence that opened: such a fence is part of the code


@dataclass(frozen=True)
class _Fence:
    mark: str  # three or more backticks or tildes
    indent: int
    info: str

    def is_in(self, opened: _Fence) -> bool:
        """Whether it is a line of the block that `opened` has opened, and no end of it."""
        return not self.mark.startswith(opened.mark) or self.indent - opened.indent >= _INSIDE


def block(completion: str) -> str | None:
    """The last closed block that is marked as Python; where none is, the last closed one without a language.

    A fence ends a block if it is of the same kind, at least as long, and has no language; with one, it opens the next.
    """
    marked, bare, opened, first = None, None, None, 0
    lines = completion.split("\n")
    for number, line in enumerate(lines):
        fence = _fence(line)
        if fence is None or (opened and fence.is_in(opened)):
            continue
        if opened is None or fence.info:  # in the second case the block before was never closed
            opened, first = fence, number + 1
            continue
        if _PYTHON.fullmatch(opened.info):
            marked = lines[first:number]
        elif not opened.info:
            bare = lines[first:number]
        opened = None
    found = bare if marked is None else marked
    return None if found is None else _code(found)


def _fence(line: str) -> _Fence | None:
    text = line.strip()
    if not text.startswith(("```", "~~~")):
        return None
    info = text.lstrip(text[0])
    if text[0] == "`" and "`" in info:  # code within a line
        return None
    blanks = line[: len(line) - len(line.lstrip())]
    return _Fence(text[: len(text) - len(info)], len(blanks.expandtabs(4)), info.strip())


def _code(lines: Sequence[str]) -> str:
    """Without the indentation that all lines share, and without a byte order mark."""
    starts = [line[: len(line) - len(line.lstrip(" \t"))] for line in lines if line.strip()]
    first, last = min(starts, default=""), max(starts, default="")  # what these share, all share
    shared = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    margin = first[: sum(1 for _ in shared)]
    text = "".join(f"{line.removeprefix(margin)}\n" for line in lines)
    return text.removeprefix("\ufeff")
