r"""`\begin{cases}`: equations that hold together, or a function in pieces."""

from __future__ import annotations

import re

_CASES = re.compile(
    r"(?P<before>[^{}]*=)?\s*\\begin\{(?:cases|aligned|array)\}(?:\{[clr|\s]*\})?(?P<body>.*)\\end\{\w+\}", re.DOTALL
)
_ROW = re.compile(r"\\\\(?:\[[^\]]*\])?")
_IF = re.compile(r"[,;\s]*(?:\\text\s*\{\s*,?\s*(?:if|for|when)\s*\}|(?<![a-zA-Z])(?:if|for|when)(?![a-zA-Z]))\s*")
_ELSE = re.compile(r"[,;.\s]*(?:\\text\s*\{\s*)?(?:otherwise|else)[\s}.]*")


def equations(text: str) -> list[str] | None:
    """The equations of a system, each without what only sets it out; None for anything else."""
    rows = _rows(text)
    if rows is None or rows[0] or any(_piece(row) for row in rows[1]):
        return None
    sides = [row.replace("&", "").strip().rstrip(",;.") for row in rows[1]]
    return sides if all("=" in side for side in sides) else None


def pieces(text: str) -> list[tuple[str, str]] | None:
    """Value and condition of every piece of a function, the condition empty for `otherwise`; None for anything else."""
    rows = _rows(text)
    found = [_piece(row) for row in rows[1]] if rows else []
    return [piece for piece in found if piece] if found and all(found) else None


def _rows(text: str) -> tuple[str, list[str]] | None:
    found = _CASES.fullmatch(text.strip())
    if found is None or "\\begin" in found["body"]:
        return None
    rows = [row.strip() for row in _ROW.split(found["body"]) if row.strip()]
    return (found["before"] or "", rows) if rows else None


def _piece(row: str) -> tuple[str, str] | None:
    value, mark, condition = row.partition("&")
    if not mark:
        if (found := _IF.search(row)) is None:
            return None
        value, condition = row[: found.start()], row[found.end() :]
    if _ELSE.fullmatch(condition):
        return value.strip(" ,;"), ""
    condition = _IF.sub("", condition, count=1).replace("&", "").strip(" ,;.")
    return (value.strip(" ,;"), condition) if re.search(r"[=<>]|\\(?:[lg]e|ne|in)(?![a-zA-Z])", condition) else None
