"""Whether two single values are the same: numbers, amounts with units, percentages, words, times of day, formulas."""

from __future__ import annotations

import re
from fractions import Fraction

from posttrain.scoring.reading import units
from posttrain.scoring.reading.answers import (
    RATIO,
    close,
    improper,
    number,
    plain,
    same_ratio,
    spelled,
    tight,
    unwrapped,
    words,
)
from posttrain.scoring.reading.clock import same_time
from posttrain.scoring.reading.geometry import same_figure
from posttrain.scoring.reading.latex import clean
from posttrain_rewards import _algebra as algebra

SUBSCRIPT = re.compile(r"([0-9A-F]+)_\{?\(?(\d+|\\text\{\w+\})\)?\}?$")
_ROMAN = re.compile(r"[IVX]{2,5}")
_FRACTION = re.compile(r"[-+]?(?:\d+/\d+|\\frac\{?\d+\}?\{?\d+\}?)")
_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}?")
_MINUTES = re.compile(r"(\d+)\s*\^\s*\{?\\circ\s*\}?\s*(\d+(?:\.\d+)?)\s*'(?:\s*(\d+(?:\.\d+)?)\s*'')?$")
_LETTERS = re.compile(r"[A-Za-z]{2,}")


def same_value(gold: str, answer: str, tolerance: float) -> bool:
    """Each with its percent sign, unit and words around it."""
    gold, answer = spelled(gold), spelled(answer)
    bare = [unwrapped(text) for text in (gold, answer)]
    if tight(gold) == tight(answer) or (bare[0] == bare[1] and _LETTERS.fullmatch(bare[0])):
        return True
    if all(map(_ROMAN.fullmatch, bare)):  # IV is not VI
        return False
    if (timely := same_time(gold, answer)) is not None:
        return timely
    if (drawn := same_figure(gold, answer)) is not None:
        return drawn
    if (angles := [_MINUTES.sub(_degrees, text) for text in (gold, answer)]) != [gold, answer]:
        return same_value(angles[0], angles[1], tolerance)
    gold, answer = units.unled(gold, answer)
    if (wanted := words(gold)) is not None:
        return words(answer) == wanted
    return _same_amount(gold, answer, tolerance)


def _degrees(found: re.Match[str]) -> str:
    """45 degrees and 30 minutes as 45.5 degrees."""
    whole, minutes, seconds = (Fraction(part or 0) for part in found.groups())
    return f"{float(whole + minutes / 60 + seconds / 3600):.10g}^\\circ"


def _same_amount(gold: str, answer: str, tolerance: float) -> bool:
    percents = [text.rstrip().endswith("%") for text in (gold, answer)]
    gold, answer = (text.rstrip().removesuffix("%").strip() for text in (gold, answer))
    taken = [units.take(text) for text in (gold, answer)]
    scaled = [unit.split() for _, unit in taken if unit and units.changing(unit)]
    if scaled:  # 5 halves are 5 halves and nothing else that can be told from words
        return len(scaled) == 2 and scaled[0] == scaled[1] and plain_equal(taken[0][0], taken[1][0], tolerance)
    (ours, our_unit), (theirs, their_unit) = without_unit(gold), without_unit(answer)
    if any(percents) and (our_unit or their_unit):
        return False
    if percents[0] != percents[1]:
        return _same_share(ours, theirs, percents[0], tolerance)
    if "degree" in (our_unit, their_unit) and our_unit != their_unit and "\\pi" in ours + theirs:  # and radians
        ours, theirs = (
            f"\\frac{{({x})\\pi}}{{180}}" if u == "degree" else x for x, u in ((ours, our_unit), (theirs, their_unit))
        )
        return "\\pi" not in gold + answer or plain_equal(ours, theirs, tolerance)
    factor = _conversion(our_unit, their_unit)
    if factor is None:
        return False
    return plain_equal(ours, theirs, tolerance) if factor == 1 else _number_equal(ours, theirs, tolerance, factor)


def _same_share(ours: str, theirs: str, gold_is_percent: bool, tolerance: float) -> bool:
    """One of the two is a percentage: 0.5 for 50%, 50 for 50%, and 50% for 50, which cannot be a share of 1.

    A reference that is written as a fraction is a share, unless the answer is written alike: 4 4/9 % is not 40/9.
    """
    if _number_equal(ours, theirs, tolerance, Fraction(100) if gold_is_percent else Fraction(1, 100)):
        return True
    found = number(plain(ours))
    written = tight(ours) == tight(theirs) or not _FRACTION.fullmatch(tight(ours))
    whole = gold_is_percent or (written and found is not None and abs(found[0]) > 1)
    return whole and plain_equal(ours, theirs, tolerance)


def without_unit(text: str) -> tuple[str, str]:
    value, unit = units.take(text)
    known = units.read(unit) is not None
    counts = known or (re.search(r"\d|\\pi|\\sqrt", value) and not units.changing(unit))
    return (value, unit) if unit and counts else (text, "")


def _conversion(gold: str, answer: str) -> Fraction | None:
    """By how much the answer is to be multiplied; None if it measures something else."""
    if not gold or not answer:
        return Fraction(1)
    ours, theirs = units.read(gold), units.read(answer)
    if ours is None:  # students, units: whatever is counted
        return Fraction(1)
    if theirs is None or ours[0] != theirs[0]:
        return None
    return theirs[1] / ours[1]


def _number_equal(gold: str, answer: str, tolerance: float, factor: Fraction) -> bool:
    ours, theirs = number(plain(gold)), number(plain(answer))
    if ours is None or theirs is None:
        return False
    return _close(ours, (theirs[0] * factor, theirs[1]), tolerance, "")


def _close(ours: tuple[Fraction, bool], theirs: tuple[Fraction, bool], tolerance: float, written: str) -> bool:
    if tolerance and abs(ours[0] - theirs[0]) <= Fraction(tolerance) * abs(ours[0]):
        return True
    if ours[1] and theirs[1]:
        return ours[0] == theirs[0]
    if ours[1] and ours[0].denominator == 1:  # 0.9999999 is not 1, 3.0 is 3
        return abs(ours[0] - theirs[0]) <= Fraction(1, 10**12) * abs(ours[0])
    return close(ours[0], theirs[0])


def _said(text: str) -> set[str]:
    return {" ".join(said.lower().split()) for said in _TEXT.findall(text)}


def plain_equal(gold: str, answer: str, tolerance: float) -> bool:
    """Without units and words."""
    gold, answer = clean(gold), clean(answer)
    one, two = tight(gold), tight(answer)
    if one == two:
        return bool(one)
    ours_based, theirs_based = SUBSCRIPT.fullmatch(one), SUBSCRIPT.fullmatch(two)
    if ours_based and theirs_based:
        return ours_based[1] == theirs_based[1] and spelled(ours_based[2]) == spelled(theirs_based[2])
    if ours_based or theirs_based:  # the base may be left out, not added
        return ours_based is not None and ours_based[1] == two
    ours, theirs = number(plain(gold)), number(plain(answer))
    if ours is not None and theirs is not None:
        return _close(ours, theirs, tolerance, two)
    if improper(plain(answer)):
        return False
    if RATIO.fullmatch(one) or RATIO.fullmatch(two):
        return same_ratio(one, two)
    if one.count(":") == two.count(":") == 1:
        gold, answer = (f"\\frac{{{above}}}{{{below}}}" for above, _, below in (x.partition(":") for x in (one, two)))
    if (
        words(answer) is not None
        or _said(answer) - _said(gold)
        or any(map(units.changing, _said(gold) - _said(answer)))
    ):
        return False
    return algebra.equal(gold, answer)
