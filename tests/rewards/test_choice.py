from __future__ import annotations

import pytest

from posttrain.config.registries import REWARDS
from posttrain.data.types import Prompt

CHOICE = REWARDS.build("choice", "reward")


@pytest.mark.parametrize(
    ("completion", "letter"),
    [
        ("\\boxed{B}", "B"),
        ("\\boxed{\\text{Option B}}", "B"),
        ("\\boxed{(E) \\text{ not defined}}", "E"),
        ("\\boxed{(B) cannot be determined}", "B"),
        ("\\boxed{not B}", None),
        ("\\boxed{\\text{not }B}", None),
        ("\\boxed{\\neq B}", None),
        ("\\boxed{B \\text{ is wrong}}", None),
        ("\\boxed{isn't B}", None),
        ("\\boxed{neither A nor B}", None),
        ("<answer>not B</answer>", None),
        ("Is the answer A? No.", None),
        ("Is the answer A? Yes.", "A"),
        ("Is the answer A? No. The answer is B.", "B"),
        ("The answer is A or B", None),
        ("The answer is (A) or (B).", None),
        ("The answer is A, or B", None),
        ("The answer is A/B", None),
        ("The answer is A or B. Now the answer is B.", "B"),
        ("The answer is B, not A.", "B"),
        ("Option A is wrong.", None),
        ("The answer is C because option A is wrong", "C"),
        ("The answer is (B) because", "B"),
    ],
)
def test_the_letter_that_is_chosen(completion, letter):
    for gold in "ABCE":
        prompt = Prompt(id="p", source="t", messages=(), answer=gold)
        assert CHOICE(completion, prompt).value == float(gold == letter)
