"""Does the code pass the tests?

The candidate runs in a process of its own that reaches nothing (`posttrain.scoring.sandbox`), and never holds an expected
value: its output, or the plain values that its functions return, are compared in another process.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Gt, Lt

from posttrain.config.problems import Problem
from posttrain.data.types import Prompt, Score
from posttrain.scoring.api import REWARDS
from posttrain.scoring.sandbox import selftest
from posttrain.scoring.sandbox.judge import Tested, run_program, run_tests
from posttrain.scoring.sandbox.launch import Limits, SandboxError
from posttrain.scoring.sandbox.sources import Plan, Unusable, plan
from posttrain_rewards._cases import Cases, cases, same_output
from posttrain_rewards._fences import block

if TYPE_CHECKING:
    from posttrain.config.recipe import Recipe

LONGEST = 1 << 17  # characters of code


@REWARDS.register("code")
@dataclass(frozen=True)
class Code:
    """1 if the last fenced block of Python passes all tests, else 0. Without a block the value is 0.

    A block without a language counts where no block is marked as Python.

    Tests are a list of asserts, a list of {input, output} or {inputs, outputs} for a program that reads and prints, or
    source with `unittest` classes, functions and classes as for pytest, or a function check(candidate); also as JSON
    text. The standard library can be imported, nothing else; of pytest there are raises, approx, mark.parametrize and
    skips. Functions that tests use and do not define come from the source that the question gives (or the column
    `prompt`), if it begins `entry_point`, else from the candidate; built-in ones are Python's unless one is tested.

    Functions are called in another process, with copies. What a call does to a list, dictionary, set or deque that it is
    given is done to the test's own when it returns or raises; not what it does to one in a tuple, what a generator or
    coroutine does later, nor to a second name for a row of a list. Objects of the candidate's classes are compared with
    each other by their attributes, if the class has an `__eq__`, or by their own < and >, and with a plain value never;
    `obj + obj` works, `obj * 3` and methods of its subclasses of plain types do not. Tests that are skipped before they
    ask anything leave the total; others have failed.

    Tests that cannot be run are status "unparseable", a sandbox that fails is "error"; where no sandbox can be had,
    nothing is run and the workers refuse to start.
    """

    tests: str = ""
    """Column with the tests; empty: tests, test_list, test, input_output or test_cases, else the answer."""
    mode: Literal["auto", "asserts", "stdio", "unittest"] = "auto"
    """What the tests must be; auto: whatever they are."""
    fraction: bool = False
    """The value is the share of tests passed; otherwise the first failure ends the run."""
    timeout: Annotated[float, Gt(0)] = 4.0
    """Seconds for all tests of a candidate together, without the start of its processes; below scoring.timeout."""
    memory_mb: Annotated[int, Ge(128)] = 1024
    """Address space of the candidate."""
    scratch_mb: Annotated[int, Ge(1)] = 16
    """Size of its scratch folder, where it starts and which alone it can write to."""
    threads: Annotated[int, Ge(1)] = 128
    """Threads it may run at once; with more it is killed. Processes it cannot start at all."""
    tolerance: Annotated[float, Ge(0), Lt(1)] = 1e-6
    """Difference of printed decimals, relative or absolute, that still counts as right."""
    modules: tuple[str, ...] = ("solution", "candidate", "main", "submission", "your_module")
    """Names under which test source may import the candidate."""

    def prepare(self) -> None:
        """Raises selftest.Unavailable where code cannot be run safely."""
        selftest.shared()

    def conflicts(self, at: str, recipe: Recipe) -> Iterator[Problem]:
        limit = recipe.scoring.timeout
        if self.timeout >= limit:
            yield Problem(
                (f"{at}.timeout", "scoring.timeout"),
                f"timeout={self.timeout:g} is not below scoring.timeout={limit:g}: endless code would count as not judged "
                f"instead of wrong. Set scoring.timeout={self.timeout + 1:g} or more, or a shorter timeout here.",
            )

    def __call__(self, completion: str, prompt: Prompt) -> Score:
        try:
            tests = cases(prompt, self.tests, self.mode)
            made = _plan(tests.texts, tests.entry, self.modules, tests.helpers) if tests.texts else None
        except Unusable as error:
            return Score(value=None, status="unparseable", detail=str(error))
        code = block(completion)
        if code is None:
            return Score(value=0.0, parts={"format": 0.0, "passed": 0.0}, detail="no closed code block")
        try:
            tested = self._tested(code, tests, made)
        except Unusable as error:
            return Score(value=None, status="unparseable", detail=str(error))
        except SandboxError as error:
            return Score(value=None, status="error", detail=f"sandbox: {error}")
        return self._score(tested)

    def examples(self) -> Iterable[tuple[str, Prompt, float | None]]:
        def about(tests: object, **columns: object) -> Prompt:
            return Prompt(id="code", source="examples", messages=(), answer="", columns={"tests": tests, **columns})

        def fenced(code: str) -> str:
            return f"So:\n```python\n{code}\n```\n"

        double = about(["assert double(2) == 4", "assert double(-1) == -2"])
        yield fenced("def double(x):\n    return 2 * x"), double, 1.0
        yield fenced("def double(x):\n    return x + 2"), double, 0.5 if self.fraction else 0.0
        yield "def double(x): return 2 * x", double, 0.0
        yield fenced("import os\nos._exit(0)"), double, 0.0
        yield fenced("class Same:\n    def __eq__(self, o): return True\ndef double(x): return Same()"), double, 0.0
        yield fenced("def double(x)"), double, 0.0
        echo = about([{"input": "3\n", "output": "6\n"}, {"input": "5\n", "output": "10"}])
        yield fenced("print(2 * int(input()))"), echo, 1.0
        yield fenced("print(6)"), echo, 0.5 if self.fraction else 0.0
        source = "import unittest\nclass Test(unittest.TestCase):\n    def test(self): self.assertEqual(double(2), 4)"
        yield fenced("def double(x):\n    return 2 * x"), about(source), 1.0
        yield fenced("def double(x):\n    raise SystemExit(0)"), about(source), 0.0
        check = "def check(candidate):\n    assert candidate(2) == 4"
        yield fenced("def double(x):\n    return 2 * x"), about(check, entry_point="double"), 1.0
        yield fenced("def double(x):\n    return 2 * x"), about("assert ("), None

    def _tested(self, code: str, tests: Cases, made: Plan | None) -> Tested:
        if len(code) > LONGEST:
            return Tested(0, 1, f"code of {len(code)} characters, at most {LONGEST} are run")
        limits = Limits(self.memory_mb, int(self.timeout) + 2, self.scratch_mb, self.threads)
        if made is not None:
            return run_tests(selftest.shared(), code, made, limits, self.timeout, stop=not self.fraction)
        left, passed, detail, timeout = self.timeout, 0, "", False
        for number, pair in enumerate(tests.pairs, 1):
            if left <= 0:
                return Tested(passed, len(tests.pairs), detail or f"test {number}: time limit", timeout=True)
            most = max(1 << 20, 2 * len(pair.wanted))
            printed = run_program(selftest.shared(), code, pair.given, limits, left, most)
            left -= printed.seconds
            if not printed.error and same_output(pair.wanted, printed.text, self.tolerance):
                passed += 1
                continue
            timeout = timeout or printed.timeout
            detail = detail or f"test {number}: {printed.error or 'printed ' + ascii(printed.text[-80:])}"
            if not self.fraction:
                break
        return Tested(passed, len(tests.pairs), detail, timeout)

    def _score(self, tested: Tested) -> Score:
        right = 0 < tested.total == tested.passed
        share = tested.passed / tested.total
        parts = {"format": 1.0, "passed": share, "timeout": float(tested.timeout)}
        detail = "" if right else f"{tested.passed} of {tested.total} tests passed; {tested.detail}"
        return Score(value=share if self.fraction else float(right), correct=right, parts=parts, detail=detail)


@functools.lru_cache(maxsize=1 << 10)
def _plan(texts: tuple[str, ...], entry: str, modules: tuple[str, ...], helpers: str) -> Plan:
    return plan(texts, entry, modules, helpers)
