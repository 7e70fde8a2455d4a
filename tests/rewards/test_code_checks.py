"""No check of the tests fails unnoticed, and tests that cannot be run as they are meant judge nobody."""

from __future__ import annotations

from typing import Any

import pytest
from test_code import ADD, right, run

from posttrain.data.types import Prompt
from posttrain_rewards.code import Code

WRONG = right("function", "code_wrong.txt")


@pytest.mark.parametrize("name", WRONG)
def test_a_check_that_fails_anywhere_is_noticed(name: str) -> None:
    code, *tests = WRONG[name]
    found = run(code, tests)
    assert (found.value, found.correct, found.status) == (0.0, False, "ok"), found.detail
    assert (run(code, tests, {"fraction": True}).value or 0.0) < 1.0


def test_helpers_come_from_the_problem() -> None:
    prompt = """
import math

def poly(xs: list, x: float):
    \"\"\"Evaluates it.\"\"\"
    return sum([coeff * math.pow(x, i) for i, coeff in enumerate(xs)])


def find_zero(xs: list):
    \"\"\" Finds a zero. \"\"\"
"""
    check = "def check(candidate):\n    assert math.fabs(poly([1, 2], candidate([1, 2]))) < 1e-4"
    right, wrong = "def find_zero(xs): return -xs[0] / xs[1]", "poly = lambda *a: 0\ndef find_zero(xs): return 0"
    columns: dict[str, Any] = {"entry_point": "find_zero", "prompt": prompt}
    assert run(right, check, **columns).value == 1.0
    assert run(wrong, check, **columns).value == 0.0
    assert run(right, check, **{**columns, "prompt": "Find a zero."}).value == 0.0  # who has it, then?
    for question in (prompt, f"Complete this:\n```python\n{prompt}\n```\n"):
        messages = ({"role": "user", "content": question},)
        asked = Prompt(id="p", source="t", messages=messages, answer=check, columns={"entry_point": "find_zero"})
        scores = [Code()(f"```python\n{code}\n```", asked).value for code in (right, wrong)]
        assert scores == [1.0, 0.0]
    beside = prompt.replace("def find_zero(xs: list):\n", "def find_zero(xs: list):\n    return 1\ndef g():\n")
    assert run(right, check, entry_point="find_zero", prompt=beside).value == 1.0  # never what is asked for


def test_tests_that_are_called_and_those_that_are_not_count_once() -> None:
    tests = "def test_a(): assert add(1, 2) == 3\ndef test_b(): assert add(0, 0) == 0\ntest_a()"
    found = run("def add(a, b): return 0", tests, {"fraction": True})
    assert found.value == pytest.approx(1 / 3)  # the call that failed is one of three
    marks = "import pytest\n@pytest.mark.parametrize('x', [0, 1, 2, 3])\ndef test_add(x): assert add(x, 1) == x + 1"
    assert run("def add(a, b): return 2", marks, {"fraction": True}).value == 0.25


def test_a_long_sum() -> None:
    for terms in (900, 2000):
        assert run("def f(x): return x", [f"assert f({terms}) == " + "+".join(["1"] * terms)]).value == 1.0


@pytest.mark.parametrize(
    ("tests", "why"),
    [
        ("assert (", "not Python"),
        ([], "no tests"),
        ([1, 2], "a list of asserts"),
        (["x = add(1, 2)"], "no assert"),
        (["assert 1 == 1"], "no name of the candidate"),
        ([{"input": "1"}], "no output"),
        ({"inputs": ["1"], "outputs": []}, "as many"),
        ({"fn_name": "add", "inputs": [[1]], "outputs": [1]}, "asserts"),
        ([{"input": "[1]", "output": "1", "testtype": "functional"}], "asserts"),
        ({"language": "cpp", "test_cases": [{"input": "1", "output": "1"}]}, "tests for cpp"),
        (["import numpy as np", "assert add(1, 2) == np.int64(3)"], "numpy"),
        (["assert add(1, 2) == 3\nimport no_module", "assert add(1, 2) == 3"], "no_module"),
        (["assert eval(add('1', '2')) == 12"], "eval"),
        (["import pickle\nassert pickle.loads(add(b'', b'')) == 1"], "pickle"),
        (["open('x', 'w').write('1')\nassert add('x', '') == 'x'"], "open"),
        (["assert add(lambda x: x, 1) == 2"], "passes a function"),
        (["class A: pass\nassert add(A(), 1) == 2"], "passes a A"),
        (["from unittest.mock import patch\nwith patch('builtins.input', lambda: '1'):\n    assert add(1, 2) == 3"], "patch"),
        ("import unittest\nclass T(unittest.TestCase):\n    def check(self): self.assertEqual(add(1, 2), 3)", "holds no test"),
        (["setup = 1 / 0", "assert add(1, 2) == 3"], "ZeroDivisionError"),
        (["assert sum([1]) == 1 and len([1]) == 1"], "no name of the candidate"),
        (["import solution\nassert len([1]) == 1"], "ask nothing"),
        (["def test_add(tmp_path): assert add(1, 2) == 3"], "needs tmp_path"),
        (["import pytest\n@pytest.fixture\ndef one(): return 1\ndef test_add(one): assert add(one, 2) == 3"], "pytest.fixture"),
        (["def test_add():\n    assert add(1, 2) == 3\n    yield"], "generator"),
        (["def test_add():\n    import numpy as np\n    assert add(np.int64(1), 2) == 3"], "numpy"),
        (["class TestAdd:\n    def __init__(self): pass\n    def test_a(self): assert add(1, 2) == 3"], "__init__"),
        (["def setup_module(): pass\ndef test_add(): assert add(1, 2) == 3"], "setup_module"),
        (["class More(add):\n    pass\nassert More() == 3"], "derive a class"),
        (["import os\nif add(1, 2) != 3: os._exit(1)"], "_exit"),
        (["import sys, io\nsys.stdin = io.StringIO('1')\nassert add(1, 2) == 3"], "sys.stdin"),
        (["import inspect\nassert len(inspect.signature(add).parameters) == 2"], "signature"),
        (["def test_add():\n    add(1, 2)"], "no assert"),
        (["assert add(1, 2) == 3\nx = '" + "a" * 9_000_000 + "'"], "too long"),
    ],
)  # fmt: skip
def test_tests_that_cannot_be_run_judge_nobody(tests: Any, why: str) -> None:
    found = run(ADD, tests)
    assert (found.value, found.status) == (None, "unparseable"), found
    assert why in found.detail
