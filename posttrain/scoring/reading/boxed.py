r"""The contents of `\boxed{}` in a completion, by brace matching in linear time."""

from __future__ import annotations

import functools
import re

# `\\` is a line break unless `boxed` follows it (models double the backslash); `\{` and `\}` are printed
# braces; a run of braces is one token, for some texts end in 10^5 of them
_TOKEN = re.compile(r"\\(?:boxed|fbox)\s*\{|\\\\(?!boxed|fbox)|\\[{}]|\{+|\}+")
_MOST = 256  # boxes of a kind that are looked at, from the end, if one of them is complete: more are a repetition


def boxed(text: str) -> list[str]:
    r"""The contents of every complete `\boxed{}` or `\fbox{}`, in the order they open; nested too. Of many the last."""
    return _contents(text, _spans(text))


@functools.lru_cache(maxsize=4)  # a reward asks several things about one completion
def _spans(text: str) -> list[tuple[int, int]]:
    first = min((at for at in (text.find("\\boxed"), text.find("\\fbox")) if at >= 0), default=-1)
    if first < 0 or text.find("}", first) < 0:
        return []
    late = max(first, _late(text, "\\boxed"), _late(text, "\\fbox"))
    return _complete(text, late) or (_complete(text, first) if late > first else [])


def _late(text: str, name: str) -> int:
    """Where the last boxes of a kind begin that are looked at; -1 where all are."""
    at = len(text)
    for _ in range(_MOST):
        if (at := text.rfind(name, 0, at)) < 0:
            break
    return at


def _complete(text: str, start: int) -> list[tuple[int, int]]:
    """Where the contents of the boxes begin and end that open at `start` or later."""
    found: list[tuple[int, int]] = []
    stack: list[tuple[int, int]] = []  # where the content of an open box begins, or -1 and a number of other braces
    for token in _TOKEN.finditer(text, start):
        said = token.group()
        if said[0] == "}":
            _close(stack, token.start(), len(said), found)
        elif said[0] == "{":
            stack.append((-1, len(said)))
        elif said[-1] == "{" and said != "\\{":
            stack.append((token.end(), 1))
    return sorted(found)


def _close(stack: list[tuple[int, int]], at: int, count: int, found: list[tuple[int, int]]) -> None:
    """Takes `count` open braces from the stack; the boxes among them end there."""
    end = at + count
    while stack and at < end:
        begin, braces = stack.pop()
        if begin >= 0:
            found.append((begin, at))
        elif braces > end - at:
            stack.append((-1, braces - (end - at)))
        at += braces


def _contents(text: str, spans: list[tuple[int, int]]) -> list[str]:
    # nested spans share their characters: the outer of 10^5 nested boxes would cost 10^10, so only so many
    # are cut out
    budget = 4 * len(text) + 1000
    contents: list[str] = []
    for begin, end in reversed(spans):
        budget -= end - begin
        if budget < 0:
            break
        contents.append(text[begin:end].strip())
    return contents[::-1]


_SEPARATOR = re.compile(
    r"(?:[$\s.,;&]|\\[()\[\],;: ]|\\q?quad|\\(?:text|mathrm|mbox)\s*\{[^{}]*\}|[A-Za-z()]|=|_\{?\w\}?|\*\*)*"
)
_CORRECTION = re.compile(
    r"\b(?:but|no|not|then|actually|wait|instead|rather|or rather|so|thus|hence|therefore|is|be)\b", re.I
)
_WORD = re.compile(r"[A-Za-z]{2,}")
_BETWEEN = 60  # characters between two boxes of one answer, at most


def together(text: str) -> str | None:
    r"""The last boxes as one answer if they stand in one: `\boxed{1} and \boxed{2}`; None for a single box."""
    outer: list[tuple[int, int]] = []
    for begin, end in _spans(text)[-64:]:
        if not outer or begin > outer[-1][1]:
            outer.append((begin, end))
    run = outer[-1:]
    for begin, end in outer[-2::-1]:
        gap = re.sub(r"\\(?:boxed|fbox)\s*\{$", "", text[end + 1 : run[0][0]])
        if len(gap) > _BETWEEN or not joins(gap):
            break
        run.insert(0, (begin, end))
    parts = _contents(text, run)
    return ", ".join(parts) if len(run) > 1 and len(parts) == len(run) and all(parts) else None


def joins(gap: str) -> bool:
    """Whether this between two boxes says that both are the answer."""
    said = re.sub(r"\\(?:text|mathrm|mbox|q?quad)(?![a-z])", " ", gap)
    if "." in gap or "\n\n" in gap or not _SEPARATOR.fullmatch(gap) or _CORRECTION.search(said):
        return False
    words = _WORD.findall(said)
    return not words or (len(words) <= 4 and re.search(r"\b(?:and|or)\b|,", said) is not None)
