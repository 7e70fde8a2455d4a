"""Whether two short answers are the same one, as far as their spelling tells: no algebra, and never for long."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache

from posttrain.scoring.reading.answers import number, tight, unwrapped
from posttrain.scoring.reading.latex import clean
from posttrain.scoring.reading.units import changing, read, take

LONGEST = 2000  # characters of an answer whose meaning is looked for
_NAMED = re.compile(r"\\?[a-zA-Z]+(?:_\{?\w+\}?|\([a-z]\))?\s*=\s*(?P<value>[^=]+)")  # x = 3, f(x) = 3
_FRACTION = re.compile(r"\\frac\s*(?:\{([^{}]*)\}\s*\{([^{}]*)\}|(\w)\s*(\w))")
_TIMES = re.compile(r"\\(?:cdot|times)(?![a-zA-Z])|\*|[\s{}]")
_GROUPED = re.compile(r"\((\\?\w+)\)")
_ROUNDED = Fraction(1, 1000)  # of a number by which a decimal may be off
_NESTED = 8  # fractions in fractions that are looked at


@dataclass(frozen=True)
class Meaning:
    """A number with its unit, or a formula or words without what means nothing."""

    value: Fraction | str
    unit: str = ""
    exact: bool = field(default=True, compare=False)


@lru_cache(maxsize=1024)
def meaning(answer: str) -> Meaning:
    """What two answers share that are written differently: `x = 5\\text{ cm}` is 5, in centimeters."""
    if len(answer) > LONGEST:
        return Meaning(answer)
    text = clean(answer).strip()
    if named := _NAMED.fullmatch(text):
        text = named["value"].strip()
    value, unit = take(text)
    if unit and (changing(unit) or not value):
        value, unit = text, ""
    if value.endswith("%"):
        value, unit = value[:-1].rstrip("\\ "), "%"
    found = number(tight(value))
    if found is None:
        return Meaning(_formula(unwrapped(text)))
    return Meaning(found[0], unit, found[1])


def alike(one: Meaning, other: Meaning) -> bool:
    """Whether they may be the same answer. What only one of them says, such as a unit, is no difference."""
    if isinstance(one.value, str) or isinstance(other.value, str):
        return one.value == other.value
    if "%" in (one.unit, other.unit):
        return any(_near(a, b, one, other) for a in _shares(one) for b in _shares(other))
    if one.unit and other.unit and one.unit != other.unit:
        ours, theirs = read(one.unit), read(other.unit)
        if ours is None or theirs is None or ours[0] != theirs[0]:
            return False
        return _near(one.value * ours[1], other.value * theirs[1], one, other)
    return _near(one.value, other.value, one, other)


def kinds(answers: Iterable[str]) -> int:
    """How many different answers these are."""
    known: list[Meaning] = []
    for found in dict.fromkeys(map(meaning, answers)):
        if not any(alike(found, other) for other in known):
            known.append(found)
    return len(known)


def _shares(found: Meaning) -> list[Fraction]:
    """50% is 0.5, and what is called 50 elsewhere."""
    assert isinstance(found.value, Fraction)
    return [found.value, found.value / 100] if found.unit == "%" else [found.value]


def _near(a: Fraction, b: Fraction, one: Meaning, other: Meaning) -> bool:
    if one.exact and other.exact:
        return a == b
    return abs(a - b) <= _ROUNDED * max(abs(a), abs(b))


def _formula(text: str) -> str:
    """\\frac{\\pi}{2} as \\pi/2: fractions with a slash, no products, braces or blanks, no single thing in parentheses."""
    for _ in range(_NESTED):
        text, count = _FRACTION.subn(lambda f: f"({f[1] or f[3] or ''})/({f[2] or f[4] or ''})", text)
        if not count:
            break
    return _GROUPED.sub(r"\1", _TIMES.sub("", text))
