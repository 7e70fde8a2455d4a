"""Computer algebra: math-verify on one expression at a time, and numbers put in for letters where it gives up."""

from __future__ import annotations

import cmath
import functools
import logging
import re
from typing import Any

from posttrain.scoring.reading.answers import oversized, plain

_UNUSABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")
_THOUSANDS = re.compile(r"(?<![\d,.])\d{1,3}(?:[ ]\d{3})+(?![\d,])")
_COMMAS = re.compile(r"(?<![\d,.])\d{1,3}(?:,\d{3})+(?![\d,])")
_MIXED = re.compile(r"(?<![\d.}/])(\d+)[^\S\r\n]+(\d+)\s*/\s*(\d+)(?!\d)")
_BARE_POINT = re.compile(r"(?<=\d)\.(?=\s*(?:[/+*\\)}-]|$))")
_SCIENTIFIC = re.compile(r"(?<![A-Za-z\\])(\d+\.?\d*|\.\d+)[eE]([-+]?\d+)(?![A-Za-z\d])")
_REPEATING = re.compile(r"(\d*)\.(\d*)\\(?:overline|bar|dot)\s*(?:\{(\d+)\}|(\d))")
_LAST_LETTER = re.compile(r"^(?!.*(?:\\begin|\\text|[,=<>])).*[\s\w})][a-zA-Z]$", re.DOTALL)
_ANGLES = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-zA-Z])")
_DEGREES = re.compile(r"(\d+(?:\.\d+)?)\s*\^\s*\{?\s*\\circ\s*\}?")
_DERIVATIVE = re.compile(r"\\partial|\\frac\s*\{\s*d[\s^}a-zA-Z]|\\d?dot(?![a-zA-Z])|'|\\prime")
_PRIMED = re.compile(r"([a-zA-Z])(?:_\{?(\w+)\}?)?\s*('+)")
_TRANSPOSED = re.compile(r"\^\s*(?:T|\{\s*(?:\\text\s*\{)?\s*(?:T|\\top)\s*\}?\s*\}|\\(?:top|intercal)(?![a-zA-Z]))")
# nothing special about any but 3
_POINTS = (0.7310585, 1.6180339, 2.4142135, -0.5671432, -1.3247179, 3.0, 7.3890561, -4.1231056)
# what sympy raises where an expression has no value, or none that it can work out
NO_VALUE = (
    TypeError, ValueError, AttributeError, OverflowError, ZeroDivisionError, NotImplementedError, RecursionError,
)  # fmt: skip
LARGEST = 120  # operations in an expression that is still tried with numbers


def readable_form(text: str) -> str:
    """The answer in a form that math-verify reads as it was meant."""
    text = _UNUSABLE.sub(" ", plain(text)).replace("$", "").replace("**", "^").replace("−", "-")
    text = re.sub(r"_(\w)", r"_{\1}", text)
    if "\\text" not in text:  # math-verify drops primes: y' as another letter than y
        text = _PRIMED.sub(lambda m: f"{m[1]}_{{{m[2] or ''}{900 + len(m[3])}}}", text)
    text = _TRANSPOSED.sub("^{(T)}", text)  # and ^T, but not in parentheses
    text = _REPEATING.sub(_repeating, text)
    if _ANGLES.search(text):
        text = _DEGREES.sub(r"(\\frac{\1\\pi}{180})", text)
    text = _BARE_POINT.sub("", text)
    text = _THOUSANDS.sub(lambda m: m.group().replace(" ", ""), text)
    text = _COMMAS.sub(lambda m: m.group().replace(",", ""), text)
    text = _MIXED.sub(r"\1\\frac{\2}{\3}", text).replace("\n", " ")
    text = _SCIENTIFIC.sub(r"\1 \\times 10^{\2}", text)
    text = text.strip().rstrip("\\")
    # math-verify takes a last letter for a unit and drops it, but not in parentheses
    return f"({text})" if _LAST_LETTER.search(text) else text


def _repeating(found: re.Match[str]) -> str:
    """0.1\\overline{6} as a fraction."""
    whole, fixed, cycle = found[1] or "0", found[2], found[3] or found[4]
    top = int(whole + fixed + cycle) - int(whole + fixed)
    return f"\\frac{{{top}}}{{{(10 ** len(cycle) - 1) * 10 ** len(fixed)}}}"


@functools.cache
def library() -> Any:
    """math-verify, imported at first use (sympy takes a second) and told not to warn about what is meant."""
    import math_verify

    for name in ("math_verify.parser", "math_verify.grader", "latex2sympy2_extended"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return math_verify


@functools.lru_cache(maxsize=1 << 13)
def parsed(text: str) -> Any:
    """The sympy object, or None."""
    config = (library().LatexExtractionConfig(boxed_match_priority=-1),)
    found = library().parse(f"${text}$", config, parsing_timeout=None, extraction_mode="first_match")
    return found[0] if found and not isinstance(found[0], str) else None


@functools.lru_cache(maxsize=1 << 14)
def equal(gold: str, answer: str) -> bool:
    """Whether two expressions are the same; what would take for ever is not tried and not equal."""
    gold, answer = readable_form(gold), readable_form(answer)
    if oversized(answer) and not oversized(gold):
        return False
    ours, theirs = parsed(gold), parsed(answer)
    if ours is None or theirs is None or gold.count("'") != answer.count("'"):
        return False
    if _DERIVATIVE.search(gold) or _DERIVATIVE.search(answer):  # df/dx of a letter f would be computed: 0
        return bool(ours == theirs)
    if _far(ours, theirs):
        return False
    if library().verify(ours, theirs, timeout_seconds=None):
        return not _only_rounded_away(ours, theirs)
    return not oversized(gold) and _agree(ours, theirs)


@functools.lru_cache(maxsize=1 << 12)
def same_equation(gold: tuple[str, str], answer: tuple[str, str]) -> bool:
    """Whether one equation is the other times a constant that is not 0."""
    texts = [readable_form(side) for side in (*gold, *answer)]
    if any(map(oversized, texts)) or any(parsed(text) is None for text in texts):
        return False
    if any(_DERIVATIVE.search(text) for text in texts):
        return {texts[0].replace(" ", ""), texts[1].replace(" ", "")} == {t.replace(" ", "") for t in texts[2:]}
    a, b, c, d = (parsed(text) for text in texts)
    try:
        ours, theirs = a - b, c - d
        if ours.free_symbols != theirs.free_symbols or ours == 0 or theirs == 0:
            return False
        one, two = _values(ours, theirs, 1.37)
        ratio = two / one
    except NO_VALUE:
        return False
    if ratio == 0 or not cmath.isfinite(ratio):
        return False
    return _agree(ours, theirs, ratio)


_RELATION = re.compile(r"(\\le|\\ge)(?![a-zA-Z])|(<|>)")


@functools.lru_cache(maxsize=1 << 12)
def same_inequality(gold: str, answer: str) -> bool:
    """Whether one inequality is the other times a constant, turned round where that is negative."""
    ours, theirs = _less(gold), _less(answer)
    if ours is None or theirs is None or ours[1] != theirs[1]:
        return False
    try:
        one, two = _values(ours[0], theirs[0], 1.37)
        ratio = two / one
    except NO_VALUE:
        return False
    return cmath.isfinite(ratio) and abs(ratio.imag) < 1e-12 and ratio.real > 0 and _agree(ours[0], theirs[0], ratio)


def _less(text: str) -> tuple[Any, bool] | None:
    """`a < b` as a - b, and whether equality counts; None for anything but one relation."""
    relations = _RELATION.findall(text)
    if len(relations) != 1 or oversized(text):
        return None
    sign = relations[0][0] or relations[0][1]
    left, right = (parsed(readable_form(side)) for side in text.split(sign))
    try:
        return (right - left if sign in ("\\ge", ">") else left - right), "\\" in sign
    except TypeError:
        return None


def _agree(ours: Any, theirs: Any, ratio: complex = 1.0) -> bool:
    """Whether both have the same value wherever they are tried: expressions of the same letters, or numbers."""
    try:
        ours, theirs = _plainly(ours), _plainly(theirs)
        if not _comparable(ours, theirs) or not hasattr(ours, "is_number") or not hasattr(theirs, "is_number"):
            return False
        if not ours.free_symbols and ratio == 1.0 and (apart := (ours - theirs).doit()).is_Rational:
            return bool(apart == 0)
        for point in _POINTS if ours.free_symbols else (0.0,):
            one, two = _values(ours, theirs, point)
            one *= ratio
            if not (cmath.isfinite(one) and cmath.isfinite(two)):
                return False
            if abs(one - two) > 1e-9 * max(abs(one), abs(two), 1e-30):
                return False
    except NO_VALUE:
        return False
    return True


def _far(ours: Any, theirs: Any) -> bool:
    """Whether expressions of the same letters differ clearly at two places: most wrong answers do, and simplifying their
    difference, which would say the same, takes a hundred times as long."""
    if not (hasattr(ours, "evalf") and hasattr(theirs, "evalf")):  # a set, or a relation
        return False
    try:
        ours, theirs = _plainly(ours), _plainly(theirs)
        if not _comparable(ours, theirs):
            return False
        pairs = [_values(ours, theirs, at) for at in (_POINTS[:2] if ours.free_symbols else (0.0,))]
    except NO_VALUE:
        return False
    return all(
        cmath.isfinite(one) and cmath.isfinite(two) and abs(one - two) > 1e-2 * max(abs(one), abs(two), 1e-3)
        for one, two in pairs
    )


def _comparable(ours: Any, theirs: Any) -> bool:
    return bool(ours.free_symbols == theirs.free_symbols and ours.count_ops() + theirs.count_ops() <= LARGEST)


def _plainly(expression: Any) -> Any:
    """`i` alone among the letters is the imaginary unit; math-verify sees it only right behind a digit.

    Letters of a name are one letter, whatever the parser assumes of them: beside an index i it takes n for whole.
    """
    if hasattr(expression, "xreplace"):
        assumed = [letter for letter in expression.free_symbols if letter != type(letter)(letter.name)]
        expression = expression.xreplace({letter: type(letter)(letter.name) for letter in assumed})
    letters = list(expression.free_symbols)
    return expression.subs(letters[0], 1j) if [str(s) for s in letters] == ["i"] else expression


def _values(ours: Any, theirs: Any, start: float) -> tuple[complex, complex]:
    """Both with a different number for every letter, in no simple relation to one another; whole ones where it must be."""
    letters = sorted(ours.free_symbols, key=str)
    whole = any(re.search("factorial|binomial|Sum|Product", str(expression)) for expression in (ours, theirs))
    shares = [(0.6180339 * i) % 1 for i in range(len(letters))]
    values = [round(5 * abs(start)) + i if whole else start * (1 + 1.3 * x) + x for i, x in enumerate(shares)]
    given = dict(zip(letters, values, strict=True))
    return complex(ours.subs(given).evalf()), complex(theirs.subs(given).evalf())


def _only_rounded_away(gold: Any, answer: Any) -> bool:
    """math-verify rounds to six decimals, which makes small ones 0; they must agree relatively."""
    if not (getattr(gold, "is_number", False) and getattr(answer, "is_number", False)):
        return False
    try:
        one, two = gold.doit().evalf(15), answer.doit().evalf(15)  # sympy's own: 1/2^2024 is no zero there
        largest = max(abs(one), abs(two))
        return bool(0 < largest < 0.01 and abs(one - two) > 1e-4 * largest)
    except (TypeError, ValueError, OverflowError, AttributeError):
        return False
