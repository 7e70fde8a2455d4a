"""Do the given numbers, combined, make the target?"""

from __future__ import annotations

import ast
import operator
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction

from posttrain.data.types import Prompt, Score
from posttrain.scoring.api import REWARDS
from posttrain.scoring.reading.boxed import boxed
from posttrain.scoring.reading.stated import behind_reasoning, tagged

LONGEST = 300  # characters of an expression
_OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_SPELLINGS = (
    (r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r"((\1)/(\2))"),
    (r"\\times|\\cdot|×|·", "*"),
    (r"\\div|÷", "/"),
    (r"−", "-"),
    (r"\\left|\\right|\$|\\[,;! ]", ""),
    (r"[\[{]", "("),
    (r"[\]}]", ")"),
)
_RESULT = re.compile(r"-?\d{1,40}(?:\.\d{1,40})?(?:/\d{1,40})?", re.ASCII)  # and not 1e999999999
_LINE = re.compile(r"[-+*/()\d\s×÷·−=]*\d[-+*/()\d\s×÷·−=]*")
_PROBLEM = re.compile(
    r"numbers?:?\s*\[([\d,\s]+)\].*?(?:equals?|target(?: of| is|:)?|make|reach|obtain)\s*(-?\d+)", re.DOTALL
)


@REWARDS.register("countdown")
@dataclass(frozen=True)
class Countdown:
    r"""1 if the last \boxed{}, <answer> or line is an expression of the given numbers, each used once, for the target.

    Numbers and target are the columns `numbers` (or `nums`) and `target`, else what the problem's text says, else those
    of the reference expression. Nothing is run: + - * / and parentheses are computed exactly.
    """

    use_all: bool = True
    """Whether every number must be used."""

    def __call__(self, completion: str, prompt: Prompt) -> Score:
        task = _task(prompt)
        if task is None:
            return Score(
                value=None, status="unparseable", detail="no columns `numbers` and `target`, and no expression"
            )
        given, target = task
        text = _expression(completion)
        found = _evaluated(text) if text else None
        if found is None:
            return Score(value=0.0, parts={"format": 0.0}, detail="no expression of + - * / and whole numbers")
        value, used = found
        fits = used == given if self.use_all else used <= given
        right = fits and value == target
        detail = "" if right else (f"its value is {value}" if fits else "other numbers than those given")
        return Score(value=float(right), correct=right, parts={"format": 1.0}, detail=detail[:200])

    def answer(self, completion: str, prompt: Prompt) -> str | None:
        """The expression that is computed."""
        return _expression(completion) or None

    def examples(self) -> Iterable[tuple[str, Prompt, float | None]]:
        columns = {"numbers": [3, 5, 2], "target": 13}
        prompt = Prompt(id="countdown", source="examples", messages=(), answer="", columns=columns)
        yield "<answer>3 * 5 - 2</answer>", prompt, 1.0
        yield "\\boxed{(3 \\times 5) - 2 = 13}", prompt, 1.0
        yield "3 * 5 - 2 = 13", prompt, 1.0
        yield "<answer>3 * 5 + 2</answer>", prompt, 0.0
        yield "<answer>13</answer>", prompt, 0.0
        yield "<answer>3 * 5 - 2 + 5 - 5</answer>", prompt, 0.0
        yield "<answer>13 = 3 * 5 - 2</answer>", prompt, 0.0
        yield "<answer>9**9**9**9</answer>", prompt, 0.0
        yield "<answer>3*5-2=1e999999999</answer>", prompt, 0.0
        yield "<answer>__import__('os').system('exit 1')</answer>", prompt, 0.0
        yield "<answer>" + "(" * 100_000 + "</answer>", prompt, 0.0
        yield "<answer>3/(5-5)</answer>", prompt, 0.0
        yield "x", Prompt(id="countdown", source="examples", messages=(), answer="?"), None


def _task(prompt: Prompt) -> tuple[Counter[int], Fraction] | None:
    columns = prompt.columns
    numbers, target = columns.get("numbers", columns.get("nums")), columns.get("target")
    if numbers is not None and target is not None:
        return Counter(int(n) for n in numbers), Fraction(str(target))
    text = "\n".join([*(m["content"] for m in prompt.messages), str(columns.get("problem", ""))])
    if found := _PROBLEM.search(text):
        return Counter(int(n) for n in re.findall(r"\d+", found[1])), Fraction(found[2])
    reference = _evaluated(prompt.answer)
    return (reference[1], reference[0]) if reference else None


def _expression(completion: str) -> str:
    completion = behind_reasoning(completion)
    for texts in (boxed(completion), tagged(completion)):
        if texts:
            return texts[-1]
    lines = [line for line in completion.strip().splitlines()[-20:] if len(line) <= LONGEST and _LINE.fullmatch(line)]
    return lines[-1] if lines else ""


def _evaluated(text: str) -> tuple[Fraction, Counter[int]] | None:
    """Value and numbers of an expression; what follows an equals sign must be its value."""
    if len(text) > LONGEST:
        return None
    for pattern, replacement in _SPELLINGS:
        text = re.sub(pattern, replacement, text)
    left, equals, right = text.partition("=")
    if not re.fullmatch(r"[-+*/()\d\s]+", left) or "//" in left or "**" in left:
        return None
    used: Counter[int] = Counter()
    try:
        value = _value(ast.parse(left.strip(), mode="eval").body, used)
        if equals and not (_RESULT.fullmatch(right.strip()) and Fraction(right.strip()) == value):
            return None
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None
    return value, used


def _value(node: ast.expr, used: Counter[int]) -> Fraction:
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_value(node.left, used), _value(node.right, used))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand, used)
    if isinstance(node, ast.Constant) and type(node.value) is int:
        used[node.value] += 1
        return Fraction(node.value)
    raise ValueError(f"{type(node).__name__} is no arithmetic")
