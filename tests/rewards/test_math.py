from __future__ import annotations

import json
import math as standard_math
import time
from collections import Counter
from pathlib import Path

import pytest
from hostile_math import DEEP, HOSTILE

from posttrain.config.registries import REWARDS
from posttrain.data.types import Prompt, Score
from posttrain.scoring.reading.answers import number, oversized, words
from posttrain.scoring.reading.boxed import boxed
from posttrain.scoring.reading.stated import lenient

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
MATH = REWARDS.build({"use": "math", "extraction": "strict"}, "reward")


def score(completion: str, gold: str) -> Score:
    return MATH(completion, Prompt(id="p", source="test", messages=(), answer=gold))


# one reference a line, with boxed answers that are right and that are wrong
CASES = [json.loads(line) for line in Path(__file__).with_name("math_cases.jsonl").read_text("utf-8").splitlines()]
RIGHT = [(case["reference"], answer) for case in CASES for answer in case["right"]]
WRONG = [(case["reference"], answer) for case in CASES for answer in case["wrong"]]


@pytest.mark.parametrize(("gold", "answer"), RIGHT)
def test_right(gold, answer):
    result = score(f"We think. So it is $\\boxed{{{answer}}}$.", gold)
    assert (result.value, result.correct, result.status) == (1.0, True, "ok")
    assert result.parts == {"format": 1.0, "parsed": 1.0}


@pytest.mark.parametrize(("gold", "answer"), WRONG)
def test_wrong(gold, answer):
    result = score(f"So it is \\boxed{{{answer}}}", gold)
    assert (result.value, result.correct, result.status) == (0.0, False, "ok")


@pytest.mark.parametrize(
    "completion",
    [
        "",
        "72",
        "the answer is 72",
        "\\boxed",
        "\\boxed{72",
        "boxed{72}",
        "\\boxed{\\frac{1}{2}",
        "}}\\box{72}",
    ],
)
def test_no_box(completion):
    result = score(completion, "72")
    assert (result.value, result.parts, result.detail) == (0.0, {"format": 0.0}, "no \\boxed{}")


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        ("\\frac{}", 0.0),
        ("71+", 0.0),
        ("?", 0.0),
        ("7\x002", 0.0),
        ("9^{9^{9^{9}}}", 0.0),
        ("7" * 2001, 0.0),
        ("3, \\frac{}", 0.0),
        ("71", 1.0),
        ("x+1", 1.0),
        ("I do not know", 1.0),  # words can be an answer
        ("71, 73", 1.0),
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_a_wrong_answer_says_whether_it_could_be_read(answer, read):
    result = score(f"\\boxed{{{answer}}}", "72")
    assert (result.value, result.status, result.parts) == (0.0, "ok", {"format": 1.0, "parsed": read})


def test_an_answer_of_many_values_is_looked_at_in_part():
    began = time.process_time()
    many = ", ".join(f"a_{{{i}}}" for i in range(200))
    assert score(f"\\boxed{{{many}}}", "72").parts["parsed"] == 1.0
    assert time.process_time() - began < 3.0


def test_where_there_is_no_answer_nothing_is_said_about_it():
    assert score("\\boxed{}", "72").parts == {"format": 1.0}


def test_the_last_box_counts_and_the_others_are_recorded():
    assert score("\\boxed{1} and \\boxed{2}", "2").value == 1.0
    result = score("\\boxed{2} but \\boxed{3}, no: \\boxed{1}", "2")
    assert result.value == 0.0
    assert "several boxed answers" in result.detail
    assert "2, 3" in result.detail
    assert score("\\boxed{2}, so \\boxed{ 2 }", "2").detail == ""
    assert score("\\boxed{2} \\boxed{3", "2").value == 1.0  # an unfinished box is no answer


@pytest.mark.parametrize(
    ("text", "contents"),
    [
        ("\\boxed{a}", ["a"]),
        ("\\boxed {a}", ["a"]),
        ("\\\\boxed{a}", ["a"]),
        ("\\fbox{a}", ["a"]),
        ("\\boxed{\\frac{1}{2}} \\boxed{b}", ["\\frac{1}{2}", "b"]),
        ("\\boxed{x=\\boxed{5}}", ["x=\\boxed{5}", "5"]),
        ("\\boxed{\\{1,2\\}}", ["\\{1,2\\}"]),
        ("\\boxed{\\left\\{ x \\right.}", ["\\left\\{ x \\right."]),
        ("} { \\boxed{a} }", ["a"]),
        ("\\boxed{1\\\\2}", ["1\\\\2"]),
        ("\\boxed{}", [""]),
        ("\\boxed{ \\boxed{a}", ["a"]),
        ("nothing", []),
    ],
)
def test_boxes(text, contents):
    assert boxed(text) == contents


def test_of_many_boxes_the_last_are_looked_at_and_a_run_of_braces_is_one_step():
    assert boxed("".join(f"\\boxed{{{i}}}\\fbox{{f}}" for i in range(5000)))[-2:] == ["4999", "f"]
    assert boxed("\\fbox{1}" + "\\boxed{2}" * 5000 + "\\boxed{3}")[-1] == "3"
    assert len(boxed("\\boxed{2}" * 5000)) == 256
    for begun in ("\\boxed ", "\\boxed{", "\\fbox{", "$\\boxed$\n"):  # a model that repeats itself after its answer
        assert boxed("\\boxed{72} " + begun * 2000) == ["72"]
    assert boxed("\\boxed{{{{a}}b}}}}} \\boxed{{c}") == ["{{{a}}b}", "c"][:1]
    assert boxed("\\boxed{a\\fbox{{b}}}}c}") == ["a\\fbox{{b}}", "{b}"]
    began = time.process_time()
    assert boxed("\\boxed{" * DEEP + "7" + "}" * DEEP)[-1] == "7"
    assert boxed("\\boxed{" + "{" * DEEP + "7" + "}" * DEEP + "}")[0].strip("{}") == "7"
    assert time.process_time() - began < 0.3


@pytest.mark.parametrize("completion", HOSTILE, ids=lambda text: ascii(text[:40]))
def test_hostile_answers_are_wrong_at_once(completion):
    began = time.process_time()
    result = score(completion, "72")
    assert time.process_time() - began < 3.0
    assert (result.value, result.status) == (0.0, "ok")
    assert len(json.dumps(result.detail)) < 5000


def test_a_long_box_is_not_read():
    text = "7" * 2001
    assert "too long" in score(f"\\boxed{{{text}}}", text).detail
    patient = REWARDS.build({"use": "math", "max_length": 3000}, "reward")
    assert patient(f"\\boxed{{{text}}}", Prompt(id="p", source="t", messages=(), answer=text)).value == 1.0


@pytest.mark.parametrize("gold", ["", " ", "\\frac{", "\x00", "\ud800", "((", "$$", "\\text{}", "1+", "x^"])
def test_a_broken_reference_is_not_judged(gold):
    for completion in ("\\boxed{1}", f"\\boxed{{{gold}}}", "no box"):
        result = score(completion, gold)
        assert (result.value, result.status, result.correct) == (None, "unparseable", False)


@pytest.mark.parametrize("gold", ["\\boxed{72}", "The answer is $\\boxed{72}$.", "$72$", "\\(72\\)", "72."])
def test_the_reference_may_be_dressed(gold):
    assert score("\\boxed{72}", gold).value == 1.0
    assert score("\\boxed{73}", gold).value == 0.0


def test_the_order_of_arguments():
    """math-verify is not symmetric: an assignment in the reference is unwrapped, an equation is not."""
    assert score("\\boxed{5}", "x=5").value == 1.0
    assert score("\\boxed{5}", "2x+y=5").value == 0.0


@pytest.mark.parametrize(
    "use", ["math", {"use": "format", "tags": ["think", "answer"]}, {"use": "format", "pattern": "a+"}]
)
def test_examples(use):
    reward = REWARDS.build(use, "reward")
    for completion, prompt, expected in reward.examples():
        assert reward(completion, prompt).value == expected, ascii(completion[:60])


def test_the_standard_library_is_not_shadowed():
    import posttrain_rewards.math as ours

    assert ours is not standard_math
    assert ours.Math is type(MATH)
    assert standard_math.sqrt(4) == 2


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("72", 72.0),
        ("1,234.5", 1234.5),
        ("1,23", None),
        ("\\frac{-1}{4}", -0.25),
        ("2 3", None),
        ("1 234", 1234.0),
        ("x", None),
        ("1/0", None),
        ("٣", None),
        ("1e3", 1000.0),
        ("$5", 5.0),
        ("5%", None),
        (".5", 0.5),
        ("", None),
        ("-", None),
    ],
)
def test_numbers(text, value):
    found = number(text)
    assert (None if found is None else float(found[0])) == value


def test_words_and_sizes():
    assert words("\\text{No Solution}") == words("no solution") == "nosolution"
    assert words("xy") is words("2x") is words("\\sin x") is words("\\infty") is None
    assert oversized("x^{2}") is oversized("2^{1000}") is oversized("e^{x^2}") is oversized("5!") is None
    assert all(map(oversized, ("2^{100000}", "2^{2^{30}}", "(((" * 10)))


@pytest.mark.parametrize(
    "text",
    [
        "2^{100}", "3^{2^5}", "10^{-34}", "\\binom{10}{3}^2", "2^{3\\cdot 4}", "x^{2n!}", "2^{2^{10}}", "n^{n^n}", "2^{2000-976}",
        "2^{n(n-1)/2}", "\\frac{100!}{50!50!}", "2^{2023/2}", "\\left(\\frac{364}{365}\\right)^{23}",
    ],
)  # fmt: skip
def test_large_but_not_too_large(text):
    assert oversized(text) is None
    assert score(f"\\boxed{{{text}}}", text).value == 1.0
    assert score(f"\\boxed{{{text}+1}}", text).value == 0.0


TAGGED = {"use": "format", "tags": ["think", "answer"]}


@pytest.mark.parametrize(
    ("use", "completion", "value"),
    [
        (TAGGED, "<think>a</think>\n<answer>b</answer>", 1.0),
        (TAGGED, "<answer>b</answer><think>a</think>", 0.0),
        (TAGGED, "<think>a</think> so <answer>b</answer>", 0.0),
        ({**TAGGED, "whole": False}, "<think>a</think> so <answer>b</answer>!", 1.0),
        (TAGGED, "<think>a<think></think><answer>b</answer>", 0.0),
        (TAGGED, "<think>a<answer></think>b</answer>", 0.0),
        ({"use": "format", "pattern": "a.b"}, "a\nb", 1.0),
        ({"use": "format", "pattern": "a.b"}, "xa\nb", 0.0),
        ({"use": "format", "pattern": "a.b", "whole": False}, "xa\nbx", 1.0),
    ],
)
def test_format(use, completion, value):
    result = REWARDS.build(use, "reward")(completion, Prompt(id="p", source="t", messages=(), answer=""))
    assert (result.value, result.correct) == (value, False)


@pytest.mark.parametrize("settings", [{}, {"pattern": "a", "tags": ["b"]}, {"pattern": "("}])
def test_format_refuses_settings_that_say_nothing(settings):
    with pytest.raises(ValueError, match="format"):
        REWARDS.build({"use": "format", **settings}, "reward")


FILES = [
    "math500",
    "gsm8k_test",
    "gsm8k_train_2k",
    "math_train_2k",
    "aime24",
    "aime25",
    "amc23",
    "minerva_math",
    "olympiadbench_en_math",
]


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="no evaluation data beside the checkout")
@pytest.mark.parametrize("name", FILES)
def test_every_reference_equals_itself(name):
    rows = [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text().splitlines()]
    results = [score(f"so \\boxed{{{row['answer']}}}", row["answer"]) for row in rows]
    unread = [row["answer"] for row, result in zip(rows, results, strict=True) if result.status == "unparseable"]
    print(f"{name}: {len(rows)} references, {len(unread)} unparseable: {unread}")
    assert Counter(r.value for r in results if r.status == "ok").keys() == {1.0}
    assert len(unread) <= 0.03 * len(rows)
    assert {score("\\boxed{\\text{something else}}", row["answer"]).value for row in rows} <= {0.0, None}


SPELLINGS = [
    "${}$", "{}.", "\\,{}\\,", "\\displaystyle {}", lambda a: a.replace("\\frac", "\\dfrac"), lambda a: a.replace(",", ", ")
]  # fmt: skip


@pytest.mark.skipif(not DATA.is_dir(), reason="no evaluation data beside the checkout")
@pytest.mark.parametrize("name", ["math500", "aime24", "amc23", "olympiadbench_en_math", "minerva_math"])
def test_references_in_other_spellings_and_those_of_other_problems(name):
    golds = sorted({json.loads(line)["answer"] for line in (DATA / f"{name}.jsonl").read_text().splitlines()})
    golds = [gold for gold in golds if score("", gold).status == "ok"][::3]
    for gold in golds:
        for spelling in SPELLINGS:
            answer = spelling.replace("{}", gold) if isinstance(spelling, str) else spelling(gold)
            assert score(f"\\boxed{{{answer}}}", gold).value == 1.0, answer
    for i, gold in enumerate(golds):
        for other in (golds[i - 1], golds[i - 7]):
            if score(f"\\boxed{{{other}}}", gold).value == 1.0:
                values = [number(text.removesuffix("^\\circ").removesuffix("%")) for text in (gold, other)]
                assert gold == other or (values[0] is not None and values[0] == values[1]), (gold, other)


LENIENT = REWARDS.build({"use": "math", "extraction": "lenient"}, "reward")


@pytest.mark.parametrize(
    ("completion", "gold", "value"),
    [
        ("The answer is 72.", "72", 1.0),
        ("so **Answer:** $72$", "72", 1.0),
        ("#### 1,234", "1234", 1.0),
        ("<think>3</think><answer> 72 </answer>", "72", 1.0),
        ("We get $x = 72$.", "72", 1.0),
        ("it is \\boxed 72", "72", 1.0),
        ("first 5, then 72", "72", 1.0),
        ("\\boxed{71} and the answer is 72", "72", 0.0),
        ("The answer is 71, not 72.", "71", 1.0),
        ("The answer is 71, not 72.", "72", 0.0),
        ("The answer is 73", "72", 0.0),
        ("no number", "72", 0.0),
    ],
)
def test_lenient(completion, gold, value):
    prompt = Prompt(id="p", source="test", messages=(), answer=gold)
    assert LENIENT(completion, prompt).value == value
    if "\\boxed{" not in completion:
        assert score(completion, gold).value == 0.0


@pytest.mark.parametrize(
    ("completion", "said"),
    [
        ("so $x$ is $y$ and\n" * 1000 + "we get 72", ["72"]),
        ("$$\n" + "a\n" * 1200 + "$$ that is $$x=72$$", ["x=72"]),  # what is read of it begins within a formula
        ("$$\n" + "a + 1\n" * 1200, ["1"]),  # cut off in one
        ("no line ends here " * 1000 + "$72$", ["72"]),
        ("no line ends here " * 1000 + "72\nnot sure", ["72"]),  # its last line is not all that there is
    ],
)
def test_a_long_text_that_states_nothing_is_read_at_its_end(completion: str, said: list[str]) -> None:
    assert lenient(completion) == said


ROWS = [json.loads(line) for line in Path(__file__).with_name("math_unboxed.jsonl").read_text("utf-8").splitlines()]
UNBOXED = [(row["completion"], gold, key == "right") for row in ROWS for key in ("right", "wrong") for gold in row[key]]


@pytest.mark.parametrize(("completion", "gold", "right"), UNBOXED)
def test_without_a_box(completion, gold, right):
    result = LENIENT(completion, Prompt(id="p", source="test", messages=(), answer=gold))
    assert (result.value, result.correct, result.status) == (float(right), right, "ok")


@pytest.mark.parametrize(
    ("completion", "gold", "value"),
    [
        ("\\boxed{3} and \\boxed{8}", "3, 8", 1.0),
        ("$\\boxed{8}$, $\\boxed{3}$", "\\{3, 8\\}", 1.0),
        ("$$\\boxed{(1,2)} \\quad \\text{and} \\quad \\boxed{(4,9)}$$", "(4,9),(1,2)", 1.0),
        ("\\boxed{1}, \\boxed{2} and \\boxed{5}", "1,2,5", 1.0),
        ("$x=\\boxed{3}$ and $y=\\boxed{8}$", "(3,8)", 1.0),
        ("\\boxed{3} and \\boxed{8}", "8", 1.0),  # the last box still counts by itself
        ("\\boxed{3} and \\boxed{8}", "3", 0.0),
        ("\\boxed{3} but then \\boxed{8}", "3, 8", 0.0),
        ("\\boxed{3}. We add 5. So \\boxed{8}", "3, 8", 0.0),
        ("\\boxed{3} and \\boxed{}", "3", 0.0),
        ("\\boxed{3,8}", "\\boxed{3} red and \\boxed{8} blue ones", 1.0),
        ("\\boxed{8}", "\\boxed{3} red and \\boxed{8} blue ones", 0.0),
        ("\\boxed{12}", "She has 5+7 = 12 left.\n#### 12", 1.0),
        ("\\boxed{5}", "She has 5+7 = 12 left.\n#### 12", 0.0),
        ("\\boxed{\x0crac{1}{2}}", "0.5", 1.0),  # "\\frac" read as an escape
        ("\\boxed{2 \times 10^3}".replace("\\times", "\times"), "2000", 1.0),
        ("\x08oxed{7}", "7", 1.0),
    ],
)
def test_several_boxes_worked_references_and_swallowed_backslashes(completion, gold, value):
    assert score(completion, gold).value == value


def test_tolerance():
    close = REWARDS.build({"use": "math", "tolerance": 0.01}, "reward")
    prompt = Prompt(id="p", source="test", messages=(), answer="3.0e8")
    assert close("\\boxed{2.998 \\times 10^8}", prompt).value == 1.0
    assert close("\\boxed{2.9e8}", prompt).value == 0.0
    assert score("\\boxed{2.998 \\times 10^8}", "3.0e8").value == 0.0
