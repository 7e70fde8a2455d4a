"""What is shown as the answer is what the reward judged."""

from __future__ import annotations

import pytest

from posttrain.config.errors import ConfigError
from posttrain.config.registries import REWARDS
from posttrain.data.types import Prompt
from posttrain.evaluation import answers
from posttrain.evaluation.answers import component, extract, restate, version
from posttrain.scoring.api import judge

PEOPLE = Prompt(id="kk", source="t", messages=(), answer="(1) Zoey is a knave\n(2) Oliver is a knight")


@pytest.mark.parametrize(
    ("grader", "completion", "answer"),
    [
        ("math", r"\boxed{1} or \boxed{ \frac{1}{2} }", r"\frac{1}{2}"),
        ({"use": "math", "extraction": "strict"}, "the answer is 7", None),
        ("math", r"\boxed{}", None),
        ({"use": "math", "extraction": "strict"}, r"\boxed{1", None),
        ({"use": "math", "extraction": "lenient"}, "The answer is 7. Good.", "7"),
        ("countdown", "<answer>3 * 5 - 2 = 13</answer>", "3 * 5 - 2 = 13"),
        ("countdown", "I do not know", None),
        (
            "knights_knaves",
            "<answer>Oliver is not a knave, zoey is a knave</answer>",
            "Oliver is a knight, Zoey is a knave",
        ),
        ("knights_knaves", "<answer>Zoey is a knave, Zoey is a knight</answer>", "Zoey is a knave, Zoey is a knight"),
        ("knights_knaves", "no idea", None),
        ("choice", "so (B)\n\nThe answer is C.", "C"),
        ({"use": "exact", "where": "last_line"}, "so\n 72 \n", "72"),
        ({"use": "exact", "where": "box"}, "72", None),
        ("repetition", r"<answer>1</answer> \boxed{2}", "2"),
        ("repetition", "<answer>1</answer>", "1"),
        ("repetition", "1", None),
    ],
)
def test_extract(grader: object, completion: str, answer: str | None) -> None:
    assert extract(grader, completion) == answer  # type: ignore[arg-type]


def test_how_many_people_there_are_is_the_problems() -> None:
    text = "Zoey is a knight?\nZoey is a knave\nOliver is a knight"
    assert extract("knights_knaves", text, PEOPLE) == "Oliver is a knight, Zoey is a knave"


@pytest.mark.parametrize("grader", ["math", "countdown", "knights_knaves", "choice", "exact"])
def test_an_answer_stated_again_gets_the_same_verdict(grader: str) -> None:
    reward = REWARDS.build(grader, "grader")
    judged = [(c, p) for c, p, expected in reward.examples() if expected is not None and len(c) < 10_000]
    seen = set()
    for completion, prompt in judged:
        found = extract(grader, completion, prompt)
        before = judge(reward, completion, prompt)
        if found is None:
            assert not before.correct
            continue
        again = restate(grader, found)
        assert again is not None
        assert judge(reward, again, prompt).correct == before.correct, completion
        seen.add(before.correct)
    assert seen == {True, False}


def test_version_tells_which_code_judged() -> None:
    found = version({"use": "math", "extraction": "lenient"})
    assert found["use"] == "math"
    assert found["math_verify"].startswith("0.9")
    assert len(found["code"]) == 64
    assert found["code"] == version("math")["code"] != version("countdown")["code"]
    judging = set(answers._sources("posttrain_rewards.math"))
    assert {
        "posttrain_rewards._equality",
        "posttrain.scoring.reading.latex",
        "posttrain.scoring.reading.boxed",
    } <= judging
    assert not judging & {
        "posttrain.scoring.pool",
        "posttrain_rewards.countdown",
    }  # who calls it does not change a verdict


def test_a_grader_nobody_knows() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'math'"):
        extract("maths", "x")
    assert component("math") is component("math")
