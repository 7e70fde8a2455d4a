r"""The contents of `\boxed{}` in a completion, by brace matching in linear time."""

from __future__ import annotations

import re

# `\\` is a line break unless `boxed` follows it (models double the backslash); `\{` and `\}` are printed
# braces
_TOKEN = re.compile(r"\\(?:boxed|fbox)\s*\{|\\\\(?!boxed|fbox)|\\[{}]|[{}]")


def boxed(text: str) -> list[str]:
    r"""The contents of every complete `\boxed{}` or `\fbox{}`, in the order they open; nested too."""
    start = min((at for at in (text.find("\\boxed"), text.find("\\fbox")) if at >= 0), default=-1)
    if start < 0:
        return []
    found: list[tuple[int, int]] = []
    stack: list[int] = []  # where the content of an open box begins, or -1 for any other brace
    for token in _TOKEN.finditer(text, start):
        if token.group() == "}":
            if stack and (begin := stack.pop()) >= 0:
                found.append((begin, token.start()))
        elif token.group()[-1] == "{" and token.group() != "\\{":
            stack.append(token.end() if len(token.group()) > 1 else -1)
    found.sort()
    return _contents(text, found)


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
