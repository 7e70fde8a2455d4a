"""Whether an answer is the reference: first by what kind of thing they are, then value by value."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

from posttrain.scoring.reading import units
from posttrain.scoring.reading.answers import (
    RATIO,
    choice,
    decimal_comma,
    depth,
    letters,
    listed,
    number,
    plain,
    tight,
    words,
)
from posttrain.scoring.reading.clock import is_time
from posttrain.scoring.reading.latex import clean, general
from posttrain.scoring.reading.shapes import Shape, nameless, shape
from posttrain_rewards import _algebra as algebra
from posttrain_rewards._values import SUBSCRIPT, plain_equal, same_value, without_unit

_TO = re.compile(r"(?<=[\d}])\s*\\text\{\s*to\s*\}\s*(?=[\d\\])|(?<=\d)\s+to\s+(?=\d)")
_PARSED = 1000  # characters of a reference that is still parsed
_PADDED = re.compile(r",\s*0\d")  # no number of a list begins with 0
_CHOSEN = re.compile(
    r"^(?:\\text\{\s*)?(?:\(([A-J])\)(?:\s+\}?|\}?(?:\s+|(?=\\)))|([A-J])[.:)]\s*\}?(?=\s))\s*(?P<rest>(?![,;+*/^=&)-]|and\b|or\b)\S.*)$",
    re.DOTALL,
)


def same(gold: str, answer: str, tolerance: float = 0.0) -> bool:
    """Both as they are written in their boxes."""
    one, two = general(clean(gold)), general(clean(answer))
    if any((parts := read(one)) and parts == read(two) for read in (listed, letters)):
        return True
    ratios = [_TO.sub(":", text) for text in (one, two)]
    if ratios != [one, two] and all(":" in text for text in ratios):  # 1 to 2 is 1:2, but no quotient
        return plain_equal(*ratios, tolerance)
    if (total := units.total(one)) and (other := units.total(two)) and max(total.terms, other.terms) > 1:
        return total[:2] == other[:2]
    whole = _no_numbers(one) or _CHOSEN.match(one) or _CHOSEN.match(two)  # a sentence may hold commas
    if whole and _single(one, two, tolerance):
        return True
    found = shape(two)
    reference = shape(one)
    if _matches(reference, found, tolerance):
        return True
    for ours, theirs in ((decimal_comma(one), two), (one, decimal_comma(two))):  # 2,74 for 2.74, never for 2,74
        if ours and theirs and "," not in ours + theirs and "." in ours and "." in theirs:
            return plain_equal(ours, theirs, tolerance)
    if "," in one and (reference.kind == "atom" or found.kind == "atom"):  # 100,200,300 may be three numbers
        return not _PADDED.search(one + two) and _matches(
            shape(one, thousands=False), shape(two, thousands=False), tolerance
        )
    return False


@functools.lru_cache(maxsize=1 << 14)
def readable(gold: str, most: int | None = None) -> bool:
    """Whether every value of a reference, or its first `most`, can be read; by itself alone, so that right and wrong
    answers are treated alike."""
    text = clean(gold)
    return bool(tight(text)) and (_is_words(text) or all(_readable(leaf) for leaf in _leaves(shape(text))[:most]))


def _leaves(found: Shape) -> list[str]:
    return [found.text] if not found.items else [leaf for item in found.items for leaf in _leaves(item)]


def _readable(text: str) -> bool:
    value, _ = without_unit(text.removesuffix("%"))
    bare = tight(value)
    if not bare:
        return False
    if number(plain(value)) is not None or _is_words(value) or SUBSCRIPT.fullmatch(bare) or RATIO.fullmatch(bare):
        return True
    if len(value) > _PARSED or depth(value) > 32:  # minutes in the parser, and no answer
        return False
    return algebra.parsed(algebra.readable_form(value)) is not None or bare in ("\\emptyset", "\\infty", "-\\infty")


def _is_words(text: str) -> bool:
    return _no_numbers(text) or choice(text) is not None or _CHOSEN.match(text) is not None


def _no_numbers(text: str) -> bool:
    return words(text) is not None or is_time(text)


def _matches(gold: Shape, answer: Shape, tolerance: float) -> bool:
    if "false" in (gold.kind, answer.kind):
        return False
    if _clash(gold.name, answer.name):  # y = x + 1 may be said as x = y - 1
        return (gold.name in answer.text and answer.name in gold.text) and algebra.same_equation(
            (gold.name, gold.text), (answer.name, answer.text)
        )
    if "different" in (gold.kind, answer.kind):
        return bool(gold.text and answer.text) and (
            tight(gold.text) == tight(answer.text) or algebra.same_inequality(gold.text, answer.text)
        )

    def each(ours: Sequence[Shape], theirs: Sequence[Shape]) -> bool:
        return len(ours) == len(theirs) and all(_matches(a, b, tolerance) for a, b in zip(ours, theirs, strict=True))

    kinds = (gold.kind, answer.kind)
    match kinds:
        case ("atom", "atom"):
            if _single(gold.text, answer.text, tolerance):
                return True
            return bool(gold.name and answer.name) and algebra.same_equation(
                (gold.name, gold.text), (answer.name, answer.text)
            )
        case ("atom" | "equation", "atom" | "equation"):
            return _equations(gold, answer, tolerance)
        case ("list" | "set", "list" | "set") | ("union", "union"):
            return _some_order(gold.items, _once(answer.items), tolerance)
        case ("set" | "list", "atom" | "equation"):
            return len(gold.items) == 1 and _matches(gold.items[0], answer, tolerance)
        case ("atom", "set" | "list"):
            return len(answer.items) == 1 and "empty" not in gold.text and _matches(gold, answer.items[0], tolerance)
        case ("tuple", "list"):
            return _in_order_of_names(answer) and each(gold.items, [nameless(item) for item in answer.items])
        case ("list", "tuple"):
            return each([nameless(item) for item in gold.items], answer.items)
        case ("interval", "interval") | ("tuple", "tuple"):
            return gold.closed == answer.closed and each(gold.items, answer.items)
        case ("interval", "tuple") | ("tuple", "interval"):
            return gold.closed == answer.closed and len(gold.items) == 2 and each(gold.items, answer.items)
        case ("interval", "union"):
            return len(answer.items) == 1 and _matches(gold, answer.items[0], tolerance)
        case ("matrix", "matrix"):
            return gold.width == answer.width and each(gold.items, answer.items)
        case ("matrix", "atom") | ("atom", "matrix"):
            return "\\begin" in gold.text and "\\begin" in answer.text and algebra.equal(gold.text, answer.text)
        case ("matrix", "tuple") | ("tuple", "matrix"):
            return 1 in (gold.width, answer.width) and each(gold.items, answer.items)
        case ("matrix", "interval"):  # [1, 2] as a vector
            return gold.width in (1, 2) and answer.closed == (True, True) and each(gold.items, answer.items)
        case ("residues", "residues"):
            return gold.text == answer.text
        case ("residues", "atom"):
            return len(gold.items) == 1 and _single(gold.items[0].text, answer.text, tolerance)
        case ("atom", "residues"):
            return len(answer.items) == 1 and _single(gold.text, answer.items[0].text, tolerance)
        case ("pieces", "pieces"):
            return _some_order(gold.items, answer.items, tolerance)
    return False


def _in_order_of_names(found: Shape) -> bool:
    """`x=2, y=4` as the point (2, 4); `2, 4` likewise."""
    names = [item.name for item in found.items]
    return not any(names) or (all(names) and names == sorted(set(names)))


def _once(items: Sequence[Shape]) -> Sequence[Shape]:
    """Points listed twice count once; numbers do not: 2, 2, 3 are not 2, 3."""
    return tuple(dict.fromkeys(items)) if all(item.kind == "tuple" for item in items) else items


def _some_order(gold: Sequence[Shape], answer: Sequence[Shape], tolerance: float) -> bool:
    left = list(answer)
    if len(gold) != len(left) or len(left) > 64:
        return False
    for ours in gold:
        found = next((i for i, theirs in enumerate(left) if _matches(ours, theirs, tolerance)), None)
        if found is None:
            return False
        del left[found]
    return True


def _clash(gold: str, answer: str) -> bool:
    """Names of different things: x = 5 is not y = 5, but f(x) = x + 1 is y = x + 1."""
    if not gold or not answer:
        return False
    ours, theirs = (re.sub(r"[|\s]|\([^()]*\)|_\{?\w+\}?|\\text|[{}]", "", name).lower() for name in (gold, answer))
    calls = [name.endswith(")") for name in (gold, answer)]
    if all(calls) and ours == theirs and all(re.search(r"\(.*\d.*\)", name) for name in (gold, answer)):  # P(X=0), f(2)
        return re.sub(r"[\s{}]", "", gold) != re.sub(r"[\s{}]", "", answer)
    primes = ours.count("'") != theirs.count("'")
    return ours != theirs and (primes or not (any(calls) and "y" in (ours, theirs)))


def _equations(gold: Shape, answer: Shape, tolerance: float) -> bool:
    """An equation against another one, or against a value."""
    if gold.kind == "atom" and not gold.name:  # 2 + 3 = 5 for 5, and a + b = 5, but not 2x = 5
        left, right = answer.items[0].text, answer.items[1].text
        letters = set(re.findall(r"(?<![a-zA-Z\\])[a-zA-Z](?![a-zA-Z])", re.sub(r"\\[a-zA-Z]+|_\{?\w+\}?", "", left)))
        if not letters:
            return _single(gold.text, right, tolerance) and _single(gold.text, left, tolerance)
        alone = len(letters) == 1 and not re.fullmatch(r"\|[^|]*\|", left.strip())
        return not alone and right.strip() != "0" and _single(gold.text, right, tolerance)
    sides = [
        (found.items[0].text, found.items[1].text) if found.kind == "equation" else (found.name, found.text)
        for found in (gold, answer)
    ]
    return all(all(pair) for pair in sides) and algebra.same_equation(sides[0], sides[1])


def _single(gold: str, answer: str, tolerance: float) -> bool:
    """Two single values, or letters of a choice and what they stand for."""
    if tight(gold) == tight(answer):
        return True
    if (letter := choice(gold)) is not None:
        chosen = _CHOSEN.match(answer)
        return letter == ((chosen[1] or chosen[2]).lower() if chosen else choice(answer, bare=True))
    if chosen := _CHOSEN.match(gold):  # a letter and what it stands for: either will do
        letter, rest = (chosen[1] or chosen[2]).lower(), clean(chosen["rest"])
        if other := _CHOSEN.match(answer):  # (A) 6 is not (A) 5
            return letter == (other[1] or other[2]).lower() and same(rest, clean(other["rest"]), tolerance)
        return letter == choice(answer) or _single(rest, answer, tolerance)
    if chosen := _CHOSEN.match(answer):
        answer = clean(chosen["rest"])
    return same_value(gold, answer, tolerance)
