r"""Is the last `\boxed{}` equal to the reference answer?

math-verify decides, fed one answer at a time by our own extraction and without its time-outs (they are
signals; the scorer kills a worker instead). Around it stand exact readings of plain numbers and of words:
they are fast, and math-verify reads `3 1/2` as 2, `1e-7` as e - 7 and `east` as a product of letters equal
to `seat`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Lt

from posttrain.data.types import Prompt, Score
from posttrain.scoring.api import REWARDS
from posttrain.scoring.reading.answers import oversized, tight
from posttrain.scoring.reading.boxed import boxed, together
from posttrain.scoring.reading.latex import mended
from posttrain.scoring.reading.sentence import undressed
from posttrain.scoring.reading.stated import behind_reasoning, lenient
from posttrain_rewards._algebra import library
from posttrain_rewards._equality import readable, same

# a worked solution as reference, not just its answer
_WORKED = re.compile(r"####|<answer>|\b[Aa]nswer\b\**\s*(?:is|:)")
_WORDS = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")
_SHORT = 1000  # characters of a completion that may be nothing but the reference, such as `odd $n$`
_LONGEST = 25  # words of a reference that is still an answer
_LOOKED_AT = 16  # values of a wrong answer, for whether it can be read, and boxes beside it: there may be a thousand
_WORKED_OUT = re.compile(
    r"\\(?:lim|i*int|sum|prod)(?![a-zA-Z]).*\}[^{}]*=|\\(?:lim|i*int|sum|prod)(?![a-zA-Z])[^=]*=[^{}]*$"
)
_UNUSABLE = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f\\ud800-\\udfff]")

# Judged once before the workers are forked (by each of them where another reward prevents that): the parser and the
# algebra behind it set themselves up at the first use of each kind, which takes a second in all, and a worker that
# takes the place of a killed one finds it done.
_FIRST = (
    ("2\\sqrt{3}", "\\sqrt{12}"),
    ("\\sqrt{2}+\\sqrt{3}", "3"),
    ("x^2-1", "(x-1)(x+1)"),
    ("x^2-1", "x^2+1"),
    ("\\frac{\\pi}{4}", "0.785"),
    ("\\frac{a}{b}+c", "\\frac{a+bc}{b}"),
    ("\\frac{n(n+1)}{2}", "n^2"),
    ("y=2x+1", "2x-y+1=0"),
    ("y=2x+1", "y=3x"),
    ("x>2", "(2,\\infty)"),
    ("\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", "\\begin{pmatrix}1&2\\\\3&5\\end{pmatrix}"),
    ("(1,2)\\cup(3,4)", "\\{1,2\\}"),
    ("\\log_2 3", "\\frac{\\ln 3}{\\ln 2}"),
    ("\\sin x\\cos x", "\\frac{1}{2}\\sin 2x"),
    ("2+3i", "3i-2"),
    ("e^{2}", "7.389"),
    ("\\lfloor x\\rfloor", "|x|"),
    ("\\binom{5}{2}", "3!"),
    ("f(x)=x^2", "1/0"),
    ("\\sum_{k=1}^{n}k", "\\frac{n(n+1)}{2}"),
    ("\\text{east}", "exec(open(x))"),
)


@REWARDS.register("math")
@dataclass(frozen=True)
class Math:
    r"""1 if the last `\boxed{}` equals the reference answer, else 0.

    Where a completion ends its reasoning with `</think>`, only what stands behind it is looked at.
    The reference may be plain (`72`, `1,234`, `\frac{1}{2}`), in a box, or a worked solution that ends with the
    answer. Boxes joined by `and` or a comma are also read as one answer of several values. Without a box the answer
    is looked for in the text, or the value is 0 where `extraction` is strict; the part `format` says whether there is
    a box. An answer that cannot be read, such as `\frac{}`, is wrong, and so is one too large to be worked out; the part
    `parsed` is 0 for both, 1 for other answers. With a reference that cannot be read nothing is judged (status
    "unparseable").
    """

    max_length: Annotated[int, Ge(1)] = 2000
    """Characters of a boxed answer above which it is wrong unread."""
    extraction: Literal["strict", "lenient"] = "lenient"
    """strict: a box or nothing, for prompts that ask for a box; lenient: without a box <answer>, `answer is ...`, a
    completion that is only the answer, or the last formula or number, as math-verify does."""
    tolerance: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Relative difference between plain numbers that still counts as right; 0: equal to six decimals."""

    def prepare(self) -> None:
        library()
        for one, other in _FIRST:
            for gold, answer in ((one, other), (other, one)):
                Math.__call__(
                    self, f"\\boxed{{{answer}}}", Prompt(id="first", source="first", messages=(), answer=gold)
                )

    def __call__(self, completion: str, prompt: Prompt) -> Score:
        completion = behind_reasoning(mended(completion))
        gold = _reference(prompt.answer)
        whole = self.extraction == "lenient" and len(completion) < _SHORT and tight(completion) == tight(gold)
        found = [gold] if whole else self._found(completion)
        if _UNUSABLE.search(gold) or not readable(gold):
            return Score(value=None, status="unparseable", detail=f"reference answer {ascii(prompt.answer)[:200]}")
        if not found:
            detail = "no answer found" if self.extraction == "lenient" else "no \\boxed{}"
            return Score(value=0.0, parts={"format": 0.0}, detail=detail)
        answer, parts = found[-1], {"format": float(bool(boxed(completion)))}
        if len(answer) > self.max_length:
            detail = f"boxed answer too long: {len(answer)} characters, max_length = {self.max_length}"
            return Score(value=0.0, parts=parts | {"parsed": 0.0}, detail=detail)
        right, read, detail = _verdict(gold, answer, self.tolerance)
        if answer:
            parts["parsed"] = float(read)
        if not right and len(found) > 1 and (several := together(completion)) and len(several) <= self.max_length:
            right, _, detail = _verdict(gold, several, self.tolerance)
            if right:
                parts["parsed"] = 1.0
                return Score(value=1.0, correct=True, parts=parts, detail="several boxes, read as one answer")
        others = {
            other for other in found[-_LOOKED_AT:] if len(other) <= self.max_length and tight(other) != tight(answer)
        }
        if others:
            shown = ", ".join(ascii(other)[1:-1][:40] for other in sorted(others)[:3])
            detail = f"several boxed answers, the last counts; others: {shown}" + (f"; {detail}" if detail else "")
        return Score(value=float(right), correct=right, parts=parts, detail=detail)

    def answer(self, completion: str, prompt: Prompt) -> str | None:
        """What is compared with the reference."""
        found = self._found(behind_reasoning(mended(completion)))
        return found[-1] if found else None

    def _found(self, completion: str) -> list[str]:
        if found := boxed(completion):
            return [undressed(content) for content in found]
        return lenient(completion) if self.extraction == "lenient" else []

    def examples(self) -> Iterable[tuple[str, Prompt, float | None]]:
        def about(answer: str) -> Prompt:
            return Prompt(id=f"math-{answer[:8]}", source="examples", messages=(), answer=answer)

        half = about("\\frac{1}{2}")
        yield "so \\boxed{0.5}", half, 1.0
        yield "so \\boxed{2}", half, 0.0
        yield "so it is 1/2", half, float(self.extraction == "lenient")
        yield "\\boxed{2} no, \\boxed{\\frac12}", half, 1.0
        yield "\\boxed{1234}", about("1,234"), 1.0
        yield "\\boxed{" * 10_000, half, 0.0
        yield "\\boxed{9^{9^{9^{9}}}}", half, 0.0
        yield "\\boxed{9**9**9**9}", half, 0.0
        yield "\\boxed{\x00\ud800}", half, 0.0
        yield "\\boxed{1}", about("\\frac{"), None


@functools.lru_cache(maxsize=1 << 14)
def _reference(answer: str) -> str:
    answer = mended(answer)
    inner = boxed(answer)
    if not inner:
        worked = _WORKED.search(answer) or len(_WORDS.findall(answer)) > _LONGEST
        return ((lenient(answer) if worked else []) or [answer.strip()])[-1]
    return together(answer) or inner[-1]


@functools.lru_cache(maxsize=1 << 14)
def _verdict(gold: str, answer: str, tolerance: float) -> tuple[bool, bool, str]:
    """Whether the answer is right, whether it could be read, and a remark. Cached: the samples of a group often agree."""
    if tight(answer) == tight(gold):
        return True, True, ""
    if _UNUSABLE.search(answer):
        return False, False, "control characters or lone surrogates in the answer"
    if (reason := oversized(computed(answer))) and not oversized(gold):
        return False, False, f"not evaluated: {reason}"
    right = same(gold, answer, tolerance)  # it keeps what it parsed, so that looking once more is cheap
    return right, right or readable(answer, _LOOKED_AT), ""


def computed(answer: str) -> str:
    """What is compared of an answer such as `\\int_0^1 x\\,dx = 1/2`: nobody works out its left side."""
    text = answer.strip().lstrip("$ ")
    return text.rpartition("=")[2] if _WORKED_OUT.match(text) else answer
