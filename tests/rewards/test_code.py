"""`code` on right and wrong candidates, in all shapes of tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from posttrain.config.errors import ConfigError
from posttrain.config.load import load_recipe
from posttrain.config.registries import REWARDS
from posttrain.data.types import Prompt, Score
from posttrain.scoring.api import judge
from posttrain_rewards._cases import same_output
from posttrain_rewards.code import Code


def judged(completion: str, answer: str = "", settings: dict[str, Any] | None = None, **columns: Any) -> Score:
    prompt = Prompt(id="p", source="t", messages=(), answer=answer, columns=columns)
    return judge(REWARDS.build({"use": "code", **(settings or {})}, "reward"), completion, prompt)


def run(code: str, tests: Any, settings: dict[str, Any] | None = None, **columns: Any) -> Score:
    return judged(f"```python\n{code}\n```", "", settings, tests=tests, **columns)


ADD = "def add(a, b):\n    return a + b"
STACK = """
class Empty(Exception):
    pass

class Stack:
    limit = 3
    def __init__(self, *items): self.items = list(items)
    def push(self, x): self.items.append(x); return self
    def pop(self):
        if not self.items: raise Empty('nothing left')
        return self.items.pop()
    def __len__(self): return len(self.items)
    def __iter__(self): return iter(self.items)
    def __getitem__(self, i): return self.items[i]
    def __add__(self, other): return Stack(*self.items, *other.items)
    def __repr__(self): return f'Stack({self.items})'
    @property
    def top(self): return self.items[-1]
"""


def right(group: str, file: str = "code_right.txt") -> dict[str, list[str]]:
    """Candidates by name, of this file all right; behind each come its tests."""
    text = Path(__file__).with_name(file).read_text(encoding="utf-8")
    parts = [part.partition("\n") for part in text.split("## ")[1:]]
    return {t.split(": ", 1)[1]: body.split("\n--\n") for t, _, body in parts if t.startswith(f"{group}: ")}


FUNCTIONS, PROGRAMS = right("function"), right("program")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_right_code_passes(name: str) -> None:
    code, *tests = FUNCTIONS[name]
    found = run(code, tests)
    assert (found.value, found.correct, found.status) == (1.0, True, "ok"), found.detail


CHECK = """
METADATA = {'author': 'x'}

def check(candidate):
    '''Some of them.'''
    assert candidate(1, 2) == 3
    assert candidate(2, 2) == 4, "second"
    for i in range(3):
        assert candidate(i, 0) == i
"""
UNITTEST = """
import unittest
from solution import Stack, Empty

class TestStack(unittest.TestCase):
    @classmethod
    def setUpClass(cls): cls.start = [1, 2]
    def setUp(self): self.stack = Stack(*self.start)
    def test_pop(self):
        self.assertEqual(self.stack.pop(), 2)
        self.assertEqual(len(self.stack), 1)
    def test_empty(self):
        with self.assertRaises(Empty): Stack().pop()
        with self.assertRaisesRegex(Empty, 'nothing'): Stack().pop()
    def test_many(self):
        for i in range(2):
            with self.subTest(i=i): self.assertEqual(self.stack[i], i + 1)
    def test_raises(self): self.assertRaises(TypeError, self.stack.pop, 5)
    @unittest.skip('not now')
    def test_later(self): self.fail()

if __name__ == '__main__':
    unittest.main()
"""


def test_the_shape_of_human_eval() -> None:
    assert run(ADD, CHECK, entry_point="add").value == 1.0
    assert run(ADD, CHECK + "\ncheck(add)").value == 1.0
    half = run("def add(a, b): return 3", CHECK, {"fraction": True}, entry_point="add")
    assert (half.value, half.correct) == (pytest.approx(1 / 3), False)
    assert "no column says" in run(ADD, CHECK).detail


def test_the_shape_of_mbpp() -> None:
    found = judged(
        f"```\n{ADD}\n```",
        test_list=["assert add(one, 2) == 3"],
        test_setup_code="one = 1",
        test_imports=["import math"],
    )
    assert found.value == 1.0, found.detail


def test_unittest_source() -> None:
    assert run(STACK, UNITTEST).value == 1.0
    wrong = STACK.replace("return self.items.pop()", "return self.items.pop(0)")
    found = run(wrong, UNITTEST, {"fraction": True})
    assert (found.value, found.parts["passed"]) == (0.75, 0.75)
    assert "test_pop" in found.detail
    assert "2" in found.detail
    assert "not defined" in run(ADD, UNITTEST.replace("from solution import Stack, Empty\n", "")).detail


SKIPS = """
import unittest
class Test(unittest.TestCase):
    def test_add(self): self.assertEqual(add(1, 2), 3)
    def test_later(self): self.skipTest('not now')
    @unittest.expectedFailure
    def test_known(self): self.assertEqual(add(1, 2), 5)
    def test_parts(self):
        for i in range(3):
            with self.subTest(i=i):
                if i == 1: self.skipTest('not this one')
                self.assertEqual(add(i, 1), i + 1)
"""


def test_skips_and_expected_failures_count_as_for_unittest() -> None:
    assert run(ADD, SKIPS).value == 1.0
    assert run("def add(a, b): return 3 if b == 2 else 0", SKIPS, {"fraction": True}).value == pytest.approx(2 / 3)
    assert run("def add(a, b): return 5", SKIPS, {"fraction": True}).value == 0.0  # what nobody expects
    assert run("import os\ndef add(a, b): os._exit(0)", SKIPS, {"fraction": True}).value == 0.0
    raised = run("import unittest\ndef add(a, b): raise unittest.SkipTest", SKIPS, {"fraction": True})
    assert raised.value == pytest.approx(1 / 3)  # the expected failure
    later = "import unittest\nclass Test(unittest.TestCase):\n    def test(self):\n        {}self.skipTest('later')"
    later += "\n        self.assertEqual(add(1, 2), 3)"
    assert run(ADD, later.format("")).status == "unparseable"
    asked = run(ADD, later.format("add(1, 2); "))
    assert (asked.value, asked.status) == (0.0, "ok")
    assert "skipped after a question" in asked.detail


PAIRS = [
    {"input": "2\n3 4\n5 6\n", "output": "7\n11\n"},
    {"input": "1\n1 1\n", "output": "2\n"},
    {"input": "0\n", "output": ""},
]


@pytest.mark.parametrize("name", PROGRAMS)
def test_right_programs_pass(name: str) -> None:
    (code,) = PROGRAMS[name]
    for tests in (
        PAIRS,
        json.dumps(PAIRS),
        {"language": "python", "test_cases": [{**p, "type": "stdin_stdout"} for p in PAIRS]},
        {"inputs": [p["input"] for p in PAIRS], "outputs": [p["output"] for p in PAIRS]},
    ):
        found = run(code, tests)
        assert (found.value, found.correct) == (1.0, True), found.detail


def test_a_share_of_the_pairs() -> None:
    found = run("print(2)", PAIRS, {"fraction": True})
    assert (found.value, found.correct) == (pytest.approx(1 / 3), False)
    assert run("print(2)", PAIRS).value == 0.0
    slow = "if input() == '2':\n    while True: pass\nprint(2)"
    found = run(slow, PAIRS, {"fraction": True, "timeout": 1.0})
    assert (found.value, found.parts["timeout"]) == (0.0, 1.0)  # the time is for all of them


@pytest.mark.parametrize(
    ("wanted", "printed", "same"),
    [
        ("1 2\n3\n", "1  2 \n3", True),
        ("1 2\n3\n", "1\n2 3\n", False),
        ("0.5", "0.5000001", True),
        ("0.5", "0.6", False),
        ("1000000.0", "1000000.5", True),
        ("3", "3.0", False),
        ("3", "3.0000001", False),
        ("100000000", "100000001", False),
        ("inf", "infinity", False),
        ("1.0", "nan", False),
        ("1.0", "1e400", False),
        ("yes", "YES", False),
        ("", "", True),
        ("", "x", False),
        ("1.0", "1." + "0" * 10**6, False),
    ],
)
def test_output_is_compared_line_by_line(wanted: str, printed: str, same: bool) -> None:
    assert same_output(wanted, printed, 1e-6) == same


def test_a_missing_column_is_named() -> None:
    found = judged("```\nx\n```", settings={"tests": "cases"}, other=1)
    assert found.status == "unparseable"
    assert "no column 'cases'" in found.detail
    assert "other" in found.detail
    assert "mode is stdio" in run(ADD, ["assert add(1, 2) == 3"], {"mode": "stdio"}).detail
    assert judged(f"```\n{ADD}\n```", "assert add(1, 2) == 3").value == 1.0  # the answer, where there is no column


@pytest.mark.parametrize(
    ("code", "detail"),
    [
        ("def add(a, b): return a - b", "assert add(1, 2) == 3: AssertionError; the last call returned -1"),
        ("def add(a, b): return a + c", "NameError: name 'c' is not defined"),
        ("def plus(a, b): return a + b", "name 'add' is not defined"),
        ("def add(a, b)", "SyntaxError"),
        ("raise ValueError('at once')", "ValueError: at once (line 1)"),
        ("import numpy\ndef add(a, b): return a + b", "ModuleNotFoundError"),
        ("def add(a, b): return a + b\x00", "null bytes"),
        ("x" * 200_000, "characters"),
    ],
)
def test_wrong_code_says_what_is_wrong(code: str, detail: str) -> None:
    found = run(code, ["assert add(1, 2) == 3"])
    assert (found.value, found.correct, found.status) == (0.0, False, "ok")
    assert detail in found.detail


def test_the_candidate_cannot_blame_the_tests() -> None:
    """What it could return to make the driver pass something that cannot cross."""
    tests = ["assert g(f(1)) == 2"]
    for body in (
        "yield 1",
        "return ValueError",
        "return lambda: 1",
        "raise ValueError",
        "return iter([1])",
        "return print",
    ):
        found = run(f"def g(x): return 1\ndef f(x): {body}", tests)
        assert (found.value, found.status) == (0.0, "ok"), body
    deep = "def g(x): return 1\ndef f(x):\n    a = []\n    for _ in range(199): a = [a]\n    return a"
    found = run(deep, ["assert g([[[f(1)]]]) == 2"])
    assert (found.value, found.status) == (0.0, "ok")


def test_an_endless_candidate_is_wrong_before_its_worker_is_killed() -> None:
    with pytest.raises(ConfigError, match=r"reward.correct.timeout: timeout=5 is not below scoring.timeout=5"):
        load_recipe("quickstart", ["reward.correct={use: code, timeout: 5}"])
    recipe = load_recipe("quickstart", ["reward.correct={use: code}"]).recipe
    (problem,) = Code(timeout=5.0).conflicts("reward.correct", recipe)
    assert problem.keys == ("reward.correct.timeout", "scoring.timeout")
    assert not list(Code().conflicts("reward.correct", recipe))
