"""exact, choice, length, repetition, countdown, knights_knaves: right, wrong, hostile, and whole data sets."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path
from typing import Any

import pytest

from posttrain.config.errors import ConfigError
from posttrain.config.registries import REWARDS
from posttrain.data.types import Prompt, Score

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="no evaluation data beside the checkout")


def judged(use: Any, completion: str, answer: str = "", problem: str = "", **columns: Any) -> Score:
    messages = ({"role": "user", "content": problem},) if problem else ()
    prompt = Prompt(id="p", source="t", messages=messages, answer=answer, columns=columns)
    return REWARDS.build(use, "reward")(completion, prompt)


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("use", "completion", "answer", "value"),
    [
        ("exact", " 72\n", "72", 1.0),
        ("exact", "72.0", "72", 0.0),
        ({"use": "exact", "where": "last_line"}, "so\n72\n", "72", 1.0),
        ({"use": "exact", "where": "box"}, "\\boxed{a} \\boxed{72}", "72", 1.0),
        ({"use": "exact", "where": "tag"}, "<answer>71</answer><answer>72</answer>", "72", 1.0),
        ({"use": "exact", "where": "tag"}, "72", "72", 0.0),
        ({"use": "exact", "ignore_case": True}, "pARIS", "Paris", 1.0),
        ("exact", "", "", None),
        ("choice", "\\boxed{B}", "B", 1.0),
        ("choice", "\\boxed{\\textbf{(B)}\\ 5}", "(B)", 1.0),
        ("choice", "\\boxed{b}", "B", 1.0),
        ("choice", "The correct answer is **C**.", "C", 1.0),
        ("choice", "Answer: C", "C", 1.0),
        ("choice", "reasons\n\n(D)", "D", 1.0),
        ("choice", "The answer is B. No, the answer is C.", "B", 0.0),
        ("choice", "\\boxed{A, B}", "A", 0.0),
        ("choice", "A man walked in.", "A", 0.0),
        ("choice", "The answer is Always", "A", 0.0),
        ("choice", "\\boxed{ABC}", "A", 0.0),
        ("choice", "<answer>E</answer>", "\\text{(E)}", 1.0),
        ("choice", "A", "none", None),
        ({"use": "length", "most": 5}, "12345", "", 1.0),
        ({"use": "length", "most": 5}, "123456", "", 0.0),
        ({"use": "length", "most": 5, "slope": 4}, "123456", "", 0.75),
        ({"use": "length", "least": 3, "most": 5, "unit": "words"}, "a b c", "", 1.0),
        ({"use": "length"}, "", "", 0.0),
        ({"use": "repetition", "n": 1}, "a b a b a", "", 0.25),
        ({"use": "repetition", "n": 2}, "a b c d", "", 1.0),
        ("repetition", "a a a a a", "", 0.0),
    ],
)
def test_text_rewards(use: Any, completion: str, answer: str, value: float | None) -> None:
    score = judged(use, completion, answer)
    assert score.value == value
    assert score.correct == (value == 1.0 and (use if isinstance(use, str) else use["use"]) in ("exact", "choice"))


def test_impossible_bounds_are_refused() -> None:
    with pytest.raises(ConfigError, match="least = 9 is above most = 5"):
        REWARDS.build({"use": "length", "least": 9, "most": 5}, "reward")


@pytest.mark.parametrize(
    ("completion", "value"),
    [
        ("<answer>(76 - 47) + 55 - 60</answer>", 1.0),
        ("\\boxed{76-47+55-60=24}", 1.0),
        ("\\boxed{55 - 60 + 76 - 47}", 1.0),
        ("\\boxed{\\frac{76}{47} - 60 + 55}", 0.0),
        ("so\n76 - 47 + 55 - 60\n", 1.0),
        ("\\boxed{24}", 0.0),
        ("\\boxed{76-47+55-60=25}", 0.0),
        ("\\boxed{76-47+55-60+0}", 0.0),
        ("\\boxed{76-47+55-60+60-60}", 0.0),
        ("\\boxed{47+55-76}", 0.0),
        ("\\boxed{24*1}", 0.0),
        ("\\boxed{76-47+55-60; 24}", 0.0),
        ("\\boxed{76//47}", 0.0),
        ("\\boxed{76**47**55**60}", 0.0),
        ("\\boxed{24 if 76-47+55-60 else 24}", 0.0),
        ("\\boxed{eval('24')}", 0.0),
        ("\\boxed{76-47+55-60 # \x00\ud800}", 0.0),
        ("\\boxed{" + "-" * 290 + "1}", 0.0),
        ("\\boxed{" + "(" * 140 + "1" + ")" * 140 + "}", 0.0),
        ("(" * 10**6, 0.0),
        ("<answer>" * 10**5, 0.0),
        ("", 0.0),
    ],
)
def test_countdown(completion: str, value: float) -> None:
    began = time.process_time()
    score = judged("countdown", completion, numbers=[47, 76, 55, 60], target=24)
    assert time.process_time() - began < 1.0
    assert (score.value, score.correct, score.status) == (value, value == 1.0, "ok")


def test_countdown_with_numbers_left_over() -> None:
    some = {"use": "countdown", "use_all": False}
    assert judged(some, "\\boxed{4*6}", nums=[4, 6, 9], target=24).value == 1.0
    assert judged(some, "\\boxed{4*6*1}", nums=[4, 6, 9], target=24).value == 0.0


@needs_data
def test_countdown_on_its_data() -> None:
    everything = rows("countdown")
    for row, other in itertools.pairwise(everything):
        for problem in (row["problem"], ""):  # numbers of the text, or of the reference
            assert judged("countdown", f"<answer>{row['answer']}</answer>", row["answer"], problem).value == 1.0
            assert judged("countdown", f"<answer>{other['answer']}</answer>", row["answer"], problem).value == 0.0


@needs_data
@pytest.mark.parametrize("name", ["kk_logic_train", "kk_logic_test"])
def test_knights_and_knaves_on_their_data(name: str) -> None:
    swap = {"knight": "knave", "knave": "knight"}
    for row in rows(name)[::7]:
        answer, lines = row["answer"], row["answer"].splitlines()
        plain = "Thus " + ", ".join(line.split(") ")[1] for line in lines) + "."
        bold = "**Conclusion**\n" + "\n".join(f"- **{x.split()[1]}** is a **{x.split()[-1]}**" for x in reversed(lines))
        one_off = "\n".join([*lines[:-1], lines[-1].rsplit(" ", 1)[0] + " " + swap[lines[-1].split()[-1]]])
        for text in (answer, f"<answer>{answer}</answer>", plain, bold, row["problem"] + f"\nConclusion:\n{answer}"):
            assert judged("knights_knaves", text, answer).value == 1.0, text
        for text in (row["problem"], one_off, "\n".join(lines[:-1]), f"<answer>{one_off}</answer>{answer}", ""):
            assert judged("knights_knaves", text, answer).value == 0.0, text
        assert judged("knights_knaves", one_off, answer).parts["people"] == (len(lines) - 1) / len(lines)


@pytest.mark.parametrize(
    "text",
    [
        "no-" * 30_000,
        "\\boxed{" + "no-" * 30_000 + "}",
        "Zoey is" + " " * 90_000,
        "x: " * 30_000,
        "Zoey is a knave\n" * 9000,
    ],
    ids=lambda text: ascii(text[:9]),
)
def test_who_is_who_takes_no_longer_than_the_text(text: str) -> None:
    reward = REWARDS.build("knights_knaves", "reward")
    prompt = Prompt(id="p", source="t", messages=(), answer="Zoey is a knave\nBob is a knight")
    began = time.process_time()
    assert not reward(text, prompt).correct
    reward.answer(text, prompt)
    assert time.process_time() - began < 0.5


@pytest.mark.parametrize("name", ["exact", "choice", "length", "repetition", "countdown", "knights_knaves"])
@pytest.mark.parametrize(
    "text",
    [
        "<answer>" * 30_000,
        "Zoey is a " * 30_000,
        "\\boxed{" * 30_000,
        "\x00\ud800" * 30_000,
        "answer is " * 30_000,
        "A " * 90_000,
    ],
    ids=lambda text: ascii(text[:9]),
)
def test_hostile_text_is_judged_at_once(name: str, text: str) -> None:
    began = time.process_time()
    score = judged(name, text, "Zoey is a knave" if name == "knights_knaves" else "B", numbers=[1, 2], target=3)
    assert time.process_time() - began < 2.0
    assert score.status == "ok"
    assert not score.correct
