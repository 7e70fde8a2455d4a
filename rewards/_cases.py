"""The tests of a coding problem, in the shapes in which data sets hold them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.data.types import Prompt
from posttrain.scoring.sandbox.sources import Unusable
from posttrain_rewards._fences import block

COLUMNS = ("tests", "test_list", "test", "input_output", "test_cases")
SETUP = ("test_imports", "test_setup_code")
ENTRY = "entry_point"
HELPERS = "prompt"  # where it is source: the functions above the one that is asked for
_IN = ("input", "stdin", "inputs")
_OUT = ("output", "stdout", "expected_output", "outputs")


@dataclass(frozen=True)
class Pair:
    """Input of a program, and what it must print."""

    given: str
    wanted: str


@dataclass(frozen=True)
class Cases:
    """Either pairs, or test source with the name of what it tests."""

    pairs: tuple[Pair, ...] = ()
    texts: tuple[str, ...] = ()
    entry: str = ""
    helpers: str = ""


def cases(prompt: Prompt, column: str, mode: str) -> Cases:
    """The tests of a problem: from `column`, else the first column of a usual name, else the answer. Raises Unusable."""
    found = _read(_value(prompt, column))
    if isinstance(found, Mapping):
        found = _columnwise(found)
    if isinstance(found, str):
        found = [found]
    if not isinstance(found, Sequence) or not found:
        raise Unusable(f"no tests: {type(found).__name__} {str(found)[:80]!r}")
    if all(isinstance(item, Mapping) for item in found):
        kind, made = "stdio", Cases(pairs=tuple(_pair(item) for item in found))
    elif all(isinstance(item, str) for item in found):
        entry = str(prompt.columns.get(ENTRY) or "")
        kind, made = _kind(found), Cases(texts=(*_setup(prompt), *found), entry=entry, helpers=_helpers(prompt))
    else:
        raise Unusable("tests are a list of asserts, a list of {input, output}, {inputs, outputs}, or test source")
    if mode not in ("auto", kind):
        raise Unusable(f"the tests are {kind}, mode is {mode}")
    return made


def _value(prompt: Prompt, column: str) -> Any:
    if column:
        if column not in prompt.columns:
            raise Unusable(
                f"no column {column!r}; name it in task.columns. There are: {', '.join(prompt.columns) or 'none'}"
            )
        return prompt.columns[column]
    for name in COLUMNS:
        if prompt.columns.get(name):
            return prompt.columns[name]
    if not prompt.answer.strip():
        raise Unusable(f"no tests: none of the columns {', '.join(COLUMNS)}, and no answer")
    return prompt.answer


def _read(value: Any) -> Any:
    """Text that is JSON of a list or an object as that."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _columnwise(found: Mapping[str, Any]) -> Any:
    """{inputs: [...], outputs: [...]} as rows; {test_cases: ...} as what is in it."""
    if str(found.get("language") or "python").lower() not in ("python", "python3", "py"):
        raise Unusable(f"tests for {found['language']}; candidates are Python")
    if "test_cases" in found:
        return _read(found["test_cases"])
    _refuse_calls(found)
    inputs = next((found[name] for name in _IN if name in found), None)
    outputs = next((found[name] for name in _OUT if name in found), None)
    if isinstance(inputs, str) and isinstance(outputs, str):
        inputs, outputs = [inputs], [outputs]
    if not isinstance(inputs, Sequence) or not isinstance(outputs, Sequence) or len(inputs) != len(outputs):
        raise Unusable("tests need as many inputs as outputs: {inputs: [...], outputs: [...]}")
    return [{"input": i, "output": o} for i, o in zip(inputs, outputs, strict=True)]


def _refuse_calls(item: Mapping[str, Any]) -> None:
    kind = str(item.get("testtype") or item.get("type") or "")
    if item.get("fn_name") or "func" in kind:
        raise Unusable("tests of a function by its arguments are no input and output; write them as asserts")


def _pair(item: Mapping[str, Any]) -> Pair:
    _refuse_calls(item)
    given = next((item[name] for name in _IN if name in item), "")
    wanted = next((item[name] for name in _OUT if name in item), None)
    if wanted is None:
        raise Unusable(f"a test has no output: {str(dict(item))[:80]}")
    return Pair(_text(given), _text(wanted))


def _text(value: Any) -> str:
    """Input and output may be given as lists of lines."""
    return "\n".join(map(str, value)) + "\n" if isinstance(value, list | tuple) else str(value)


def _setup(prompt: Prompt) -> list[str]:
    texts: list[str] = []
    for name in SETUP:
        value = prompt.columns.get(name) or []
        lines = [value] if isinstance(value, str) else value
        if not isinstance(lines, Sequence) or not all(isinstance(line, str) for line in lines):
            raise Unusable(f"column {name!r} is source or a list of lines, not {type(value).__name__}")
        texts += lines
    return texts


def _helpers(prompt: Prompt) -> str:
    """What may be the source that the answer goes on with: a column's, else that of the question."""
    question = str(prompt.messages[-1].get("content", "")) if prompt.messages else ""
    return str(prompt.columns.get(HELPERS) or block(question) or question)


def _kind(texts: Sequence[str]) -> str:
    return "unittest" if any(re.search(r"\bTestCase\b", text) for text in texts) else "asserts"


def same_output(wanted: str, printed: str, tolerance: float) -> bool:
    """Equal line by line without blanks around, blank lines and differences in spacing; decimals within `tolerance`.

    The tolerance is relative and absolute, and only for what the expected output writes as a decimal.
    """
    left, right = _lines(wanted), _lines(printed)
    if len(left) != len(right):
        return False
    return all(
        len(a) == len(b) and all(_same(x, y, tolerance) for x, y in zip(a, b, strict=True))
        for a, b in zip(left, right, strict=True)
    )


def _lines(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if line.strip()]


_DECIMAL = re.compile(r"[-+]?\d*\.?\d+(?:[eE][-+]?\d+)?|[-+]?\d+\.", re.ASCII)


def _same(wanted: str, printed: str, tolerance: float) -> bool:
    if wanted == printed:
        return True
    if not tolerance or wanted.lstrip("+-").isdigit() or len(printed) > 400:
        return False
    if not _DECIMAL.fullmatch(wanted) or not _DECIMAL.fullmatch(printed):
        return False
    return math.isclose(float(wanted), float(printed), rel_tol=tolerance, abs_tol=tolerance)
