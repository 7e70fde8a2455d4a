r"""Is the last `\boxed{}` equal to the reference answer?

math-verify decides, fed one answer at a time by our own extraction and without its time-outs (they are
signals; the scorer kills a worker instead). Around it stand exact readings of plain numbers and of words:
they are fast, and math-verify reads `3 1/2` as 2, `1e-7` as e - 7 and `east` as a product of letters equal
to `seat`.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge

from posttrain.data.types import Prompt, Score
from posttrain.scoring.answers import close, number, oversized, plain, tight, unwrapped, words
from posttrain.scoring.api import REWARDS
from posttrain.scoring.boxed import boxed

Kind = Literal["number", "words", "algebra", "unreadable"]

_UNUSABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")
_SUBSCRIPT = re.compile(r"[0-9A-F]_\{?\(?(\d+|\\text\{\w+\})\)?\}?$")
_CLOCK = re.compile(r"\d{1,2}:\d{2}(?::\d{2})?(?:\s*[ap]\.?m\.?)?", re.IGNORECASE)
_THOUSANDS = re.compile(r"(?<![\d,.])\d{1,3}(?:[ ]\d{3})+(?![\d,])")
_MIXED = re.compile(r"(?<![\d.}/])(\d+)\s+(\d+)\s*/\s*(\d+)(?!\d)")
_BARE_POINT = re.compile(r"(?<=\d)\.(?=\s*(?:[/+*\\)}-]|$))")
_SCIENTIFIC = re.compile(r"(?<![A-Za-z\\])(\d+\.?\d*|\.\d+)[eE]([-+]?\d+)(?![A-Za-z\d])")


@REWARDS.register("math")
@dataclass(frozen=True)
class Math:
    r"""1 if the last `\boxed{}` equals the reference answer, else 0.

    The reference may be plain (`72`, `1,234`, `\frac{1}{2}`) or itself in a box. Without a box the value is
    0. With a reference that cannot be read nothing is judged (status "unparseable").
    """

    max_length: Annotated[int, Ge(1)] = 2000
    """Characters of a boxed answer above which it is wrong unread."""

    def prepare(self) -> None:
        _algebra()

    def __call__(self, completion: str, prompt: Prompt) -> Score:
        found = boxed(completion)
        gold = _reference(prompt.answer)
        if _kind(gold) == "unreadable":
            return Score(value=None, status="unparseable", detail=f"reference answer {ascii(prompt.answer)[:200]}")
        if not found:
            return Score(value=0.0, parts={"format": 0.0}, detail="no \\boxed{}")
        answer = found[-1]
        if len(answer) > self.max_length:
            detail = f"boxed answer too long: {len(answer)} characters, max_length = {self.max_length}"
            return Score(value=0.0, parts={"format": 1.0}, detail=detail)
        right, detail = _verdict(gold, answer)
        others = {other for other in found if len(other) <= self.max_length and tight(other) != tight(answer)}
        if others:
            shown = ", ".join(ascii(other)[1:-1][:40] for other in sorted(others)[:3])
            detail = f"several boxed answers, the last counts; others: {shown}" + (f"; {detail}" if detail else "")
        return Score(value=float(right), correct=right, parts={"format": 1.0}, detail=detail)

    def examples(self) -> Iterable[tuple[str, Prompt, float | None]]:
        def about(answer: str) -> Prompt:
            return Prompt(id=f"math-{answer[:8]}", source="examples", messages=(), answer=answer)

        half = about("\\frac{1}{2}")
        yield "so \\boxed{0.5}", half, 1.0
        yield "so \\boxed{2}", half, 0.0
        yield "so it is 1/2", half, 0.0
        yield "\\boxed{2} no, \\boxed{\\frac12}", half, 1.0
        yield "\\boxed{1234}", about("1,234"), 1.0
        yield "\\boxed{" * 10_000, half, 0.0
        yield "\\boxed{9^{9^{9^{9}}}}", half, 0.0
        yield "\\boxed{9**9**9**9}", half, 0.0
        yield "\\boxed{\x00\ud800}", half, 0.0
        yield "\\boxed{1}", about("\\frac{"), None


@functools.lru_cache(maxsize=1 << 14)
def _reference(answer: str) -> str:
    inner = boxed(answer)
    return inner[-1] if inner else answer.strip()


@functools.lru_cache(maxsize=1 << 14)
def _kind(gold: str) -> Kind:
    """How a reference is read; by itself alone, so that right and wrong answers are treated alike."""
    if not tight(gold) or _UNUSABLE.search(gold):
        return "unreadable"
    if number(plain(gold)) is not None:
        return "number"
    if words(gold) is not None or _CLOCK.fullmatch(unwrapped(gold)):
        return "words"
    return "algebra" if _parsed(_for_algebra(gold)) is not None else "unreadable"


@functools.lru_cache(maxsize=1 << 14)
def _verdict(gold: str, answer: str) -> tuple[bool, str]:
    """Whether the answer is right, and a remark. Cached: the samples of a group often agree."""
    if tight(answer) == tight(gold):
        return True, ""
    if _UNUSABLE.search(answer):
        return False, "control characters or lone surrogates in the answer"
    kind = _kind(gold)
    if kind == "words":
        return _same_words(gold, answer), ""
    ours, theirs = number(plain(gold)), number(plain(answer))
    if ours is not None and theirs is not None:
        exact = ours[1] and theirs[1]
        return (ours[0] == theirs[0] if exact else close(ours[0], theirs[0])), ""
    if (reason := oversized(_for_algebra(answer))) and not oversized(_for_algebra(gold)):
        return False, f"not evaluated: {reason}"
    if words(answer) is not None and not any(c.isalpha() for c in re.sub(r"\\[a-zA-Z]+", "", gold)):
        return False, "words for a mathematical answer"
    if _other_notation(gold, answer):
        return False, "another notation with another meaning"
    return _equal(_for_algebra(gold), _for_algebra(answer))


def _same_words(gold: str, answer: str) -> bool:
    wanted = words(gold)
    if wanted is None:  # a time of day
        return "".join(unwrapped(gold).lower().split()) == "".join(unwrapped(answer).lower().split())
    return words(answer) == wanted


def _other_notation(gold: str, answer: str) -> bool:
    """What math-verify does not see: the base of a number, set or point, clock or ratio, false equations."""
    one, two = tight(unwrapped(gold)), tight(unwrapped(answer))
    bases = [found.group(1) if (found := _SUBSCRIPT.search(text)) else "" for text in (one, two)]
    if bases[1] and bases[0] != bases[1]:
        return True
    if _CLOCK.fullmatch(two) and ":" not in one:
        return True
    sides = {side[0] for text in two.split("=") if (side := number(text)) is not None}
    if len(sides) > 1:  # `7=5`, of which the last side would count
        return True
    braces = [text.startswith("\\{") and text.endswith("\\}") for text in (one, two)]
    brackets = [text[:1] in ("(", "[") and text[-1:] in (")", "]") and "," in text for text in (one, two)]
    return (braces[0] and brackets[1]) or (brackets[0] and braces[1])


def _for_algebra(text: str) -> str:
    """The answer in a form that math-verify reads as it was meant."""
    text = _UNUSABLE.sub(" ", plain(text)).replace("\n", " ").replace("$", "").replace("**", "^").replace("−", "-")
    text = _BARE_POINT.sub("", text)
    text = _THOUSANDS.sub(lambda m: m.group().replace(" ", ""), text)
    text = _MIXED.sub(r"\1\\frac{\2}{\3}", text)
    text = _SCIENTIFIC.sub(r"\1 \\times 10^{\2}", text)
    return text.strip().rstrip("\\")


@functools.cache
def _algebra() -> Any:
    """math-verify, imported at first use (sympy takes a second) and told not to warn about what is meant."""
    import math_verify

    for name in ("math_verify.parser", "math_verify.grader", "latex2sympy2_extended"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return math_verify


@functools.lru_cache(maxsize=1 << 13)
def _parsed(text: str) -> Any:
    """The sympy object, or None."""
    library = _algebra()
    config = (library.LatexExtractionConfig(boxed_match_priority=-1),)
    found = library.parse(f"${text}$", config, parsing_timeout=None, extraction_mode="first_match")
    return found[0] if found and not isinstance(found[0], str) else None


def _equal(gold: str, answer: str) -> tuple[bool, str]:
    ours, theirs = _parsed(gold), _parsed(answer)
    if theirs is None:
        return False, "the answer cannot be read"
    if not _algebra().verify(ours, theirs, timeout_seconds=None):
        return False, ""
    if _only_rounded_away(ours, theirs):
        return False, "equal only because small numbers round to 0"
    return True, ""


def _only_rounded_away(gold: Any, answer: Any) -> bool:
    """math-verify rounds to six decimals, which makes small ones 0; they must agree relatively."""
    if not (getattr(gold, "is_number", False) and getattr(answer, "is_number", False)):
        return False
    try:
        one, two = complex(gold.doit()), complex(answer.doit())
    except (TypeError, ValueError, OverflowError, AttributeError):
        return False
    largest = max(abs(one), abs(two))
    return 0 < largest < 0.01 and abs(one - two) > 1e-4 * largest
