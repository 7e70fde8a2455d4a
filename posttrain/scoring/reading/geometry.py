r"""Names of figures: `\angle ABC` is angle CBA, and not angle BAC."""

from __future__ import annotations

import re

from posttrain.scoring.reading.answers import unwrapped

_FIGURE = re.compile(
    r"(?:\\(?P<sign>m?angle|measuredangle|triangle|overline|overleftrightarrow|odot)|(?P<word>angle|triangle|segment|line|point|circle))\s*"
    r"\{?\s*(?P<letters>[A-Z](?:\s*[A-Z])*)\s*\}?",
    re.IGNORECASE,
)
_KINDS = {
    "measuredangle": "angle",
    "mangle": "angle",
    "overline": "segment",
    "overleftrightarrow": "line",
    "odot": "circle",
}


def figure(text: str) -> tuple[str, str] | None:
    """Its kind and its letters in one order; the kind is empty where only letters are given. None for anything else."""
    bare = unwrapped(text)
    if re.fullmatch(r"[A-Z]{1,4}", bare):
        return "", bare
    found = _FIGURE.fullmatch(bare)
    if found is None or not found["letters"].isupper():
        return None
    said = (found["sign"] or found["word"]).lower()
    kind, letters = _KINDS.get(said, said), re.sub(r"\s", "", found["letters"])
    alone = len(letters) == 1 and kind in ("segment", "triangle")  # \\overline{A} is a complement or a conjugate
    return None if alone else (kind, _ordered(kind, letters))


def same_figure(gold: str, answer: str) -> bool | None:
    """None where neither is more than letters, or one is something else."""
    ours, theirs = figure(gold), figure(answer)
    if ours is None or theirs is None or not (ours[0] or theirs[0]):
        return None
    if ours[0] and theirs[0]:
        return ours == theirs
    kind = ours[0] or theirs[0]
    return _ordered(kind, ours[1]) == _ordered(kind, theirs[1])


def _ordered(kind: str, letters: str) -> str:
    """Angles and segments read both ways; the corners of a triangle come in any order."""
    if kind == "triangle":
        return "".join(sorted(letters))
    return min(letters, letters[::-1]) if kind in ("angle", "segment", "line") else letters
