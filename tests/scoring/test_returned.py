"""What plain functions may return and how they may be made; what they may not is said in words."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest

from posttrain.config.errors import ConfigError
from posttrain.config.load import load_recipe
from posttrain.config.registries import REWARDS
from posttrain.data.types import Prompt, Score
from posttrain.scoring.api import Outcome, judge, judge_all, to_score
from posttrain.scoring.scorer import Scorer

ABOUT = Prompt(id="p", source="t", messages=({"role": "user", "content": "q"},), answer="7")


def build(folder: Path, text: str, name: str = "", **settings: Any) -> Any:
    file = folder / f"theirs_{len(list(folder.iterdir()))}.py"  # a file is run once per process
    file.write_text(textwrap.dedent(text))
    return REWARDS.build({"use": f"{file}{name}", **settings}, "reward")


def of_batch(folder: Path, body: str, **settings: Any) -> Score:
    head = "import math, types\nimport numpy as np\n\ndef f(completions, log_metric, log_extra, trainer_state, **kw):\n"
    return judge(build(folder, head + textwrap.indent(body, "    "), **settings), "7", ABOUT)


@pytest.mark.parametrize(
    "body",
    [
        "return (float(c == '7') for c in completions)",
        "return np.array([1.0], dtype=np.float32)",
        "return [np.float16(1)]",
        "return [np.array(1.0)]",
        "return (True,)",
        "import decimal\nreturn [decimal.Decimal('1.0')]",
        "return map(float, ['1.0'])",
    ],
)
def test_any_iterable_of_one_number_is_taken(tmp_path: Path, body: str) -> None:
    score = of_batch(tmp_path, body)
    assert (score.value, score.correct, score.detail) == (1.0, True, "")


@pytest.mark.parametrize("body", ["return torch.tensor([1.0])", "return [torch.tensor(1.0)]"])
def test_tensors_are_taken(tmp_path: Path, body: str) -> None:
    pytest.importorskip("torch")
    assert of_batch(tmp_path, f"import torch\n{body}").value == 1.0


@pytest.mark.parametrize("value", ["None", "math.nan", "np.float32('nan')", "np.array(math.nan)"])
def test_nan_is_no_reward_as_none_is(tmp_path: Path, value: str) -> None:
    assert of_batch(tmp_path, f"return [{value}]").status == "skipped"
    score = of_batch(tmp_path, f"log_metric('m', 2)\nlog_extra('e', ['x'])\nreturn [{value}]")
    assert (score.value, score.status, score.parts) == (None, "skipped", {"m": 2.0})
    assert score.detail == "returned None; e: x"


@pytest.mark.parametrize("value", ["math.nan", "np.inf", "-math.inf"])
def test_a_logged_number_that_is_none_does_no_harm(tmp_path: Path, value: str) -> None:
    score = of_batch(tmp_path, f"log_metric('m', {value})\nlog_metric('n', 1)\nlog_extra('e', [])\nreturn [1.0]")
    assert (score.value, score.parts) == (1.0, {"n": 1.0})
    assert "log_metric m" in score.detail


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("None", "returned None"),
        ("1.0", "returned float '1.0'"),
        ("np.array(1.0)", "returned ndarray"),
        ("{'reward': 1.0}", "returned dict"),
        ("'1'", "returned str '1'"),
        ("[]", "returned 0 values"),
        ("[1.0, 2.0]", "returned 2 values"),
    ],
)
def test_what_is_no_list_of_one_value_is_said_to_be_none(tmp_path: Path, value: str, said: str) -> None:
    score = of_batch(tmp_path, f"return {value}")
    assert score.status == "error"
    assert score.detail.startswith(said)
    assert "expected a list with one value per completion. It gets 1 completion at a time" in score.detail


@pytest.mark.parametrize(
    ("body", "settings", "hint"),
    [
        ("return [float(c[0]['content'] == '7') for c in completions]", {}, "set `chat: true`"),
        ("return [float(c.get('content') == '7') for c in completions]", {}, "set `chat: true`"),
        ("return [float(c.strip() == '7') for c in completions]", {"chat": True}, "set `chat: false`"),
        ("return [float({}[c]) for c in completions]", {}, ""),
    ],
)
def test_who_mistakes_text_for_messages_is_told(tmp_path: Path, body: str, settings: dict[str, Any], hint: str) -> None:
    score = of_batch(tmp_path, body, **settings)
    assert score.status == "error"
    assert (hint in score.detail) if hint else "chat" not in score.detail


def test_what_the_trainers_state_has(tmp_path: Path) -> None:
    body = "s = trainer_state\nreturn [float((s.global_step, s.max_steps, s.epoch) == (2, 5, None))]"
    reward = build(tmp_path, f"def f(completions, trainer_state):\n{textwrap.indent(body, '    ')}")
    about = Prompt(id="p", source="t", messages=(), answer="", columns={"training_step": 2})
    assert judge_all({"f": (reward, 1.0)}, "x", about, steps=5).value == 1.0
    assert "only global_step, max_steps and epoch" in of_batch(tmp_path, "return [trainer_state.total_flos]").detail


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome("1"),  # type: ignore[arg-type]
        Outcome([1.0]),  # type: ignore[arg-type]
        Outcome(1.0, parts=[1]),  # type: ignore[arg-type]
        Outcome(1.0, parts={"a": "b"}),  # type: ignore[dict-item]
        Outcome(1.0, parts={("a",): 1.0}),  # type: ignore[dict-item]
        Outcome(1.0, ["ok"]),  # type: ignore[arg-type]
    ],
)
def test_an_outcome_of_the_wrong_type_says_which(outcome: Outcome) -> None:
    score = to_score(outcome)
    assert (score.value, score.status) == (None, "error")
    assert any(word in score.detail for word in ("the reward is", "parts", "status"))


def test_an_exception_that_cannot_be_shown_is_a_verdict(tmp_path: Path) -> None:
    text = """
    class Shy(Exception):
        def __str__(self):
            raise SystemExit(3)

    def f(completion):
        raise Shy
    """
    with Scorer({"shy": (build(tmp_path, text), 1.0)}) as scorer:
        scores = scorer.score([("x", ABOUT)] * 3)
    assert [score.status for score in scores] == ["error"] * 3
    assert scores[0].detail.startswith("Shy: its text cannot be shown")


MADE = """
import functools

def make(points):
    def inner(completion, answer, *, strict=True):
        '''Made by a factory.'''
        return points * float(completion == answer)
    return inner

def bare(function):
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)
    return wrapper

def told(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return 2 * function(*args, **kwargs)
    return wrapper

nest = make(0.5)
short = lambda completion, answer: 0.5 * float(completion == answer)
part = functools.partial(lambda completion, answer, points: points * float(completion == answer), points=0.5)

@told
def twice(completion, answer):
    return 0.25 * float(completion == answer)

@bare
def hidden(completion, answer):
    return 1.0
"""


@pytest.mark.parametrize("name", ["nest", "short", "part", "twice"])
def test_what_a_module_makes_when_it_runs_is_found_again_by_name(tmp_path: Path, name: str) -> None:
    reward = build(tmp_path, MADE, f":{name}")
    with Scorer({"made": (reward, 1.0)}) as scorer:
        assert [score.value for score in scorer.score([("7", ABOUT), ("8", ABOUT)])] == [0.5, 0.0]


def test_by_a_dotted_path_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = f"made_{tmp_path.name}"
    (tmp_path / f"{module}.py").write_text(MADE)
    monkeypatch.syspath_prepend(str(tmp_path))
    for use in (f"{module}.nest", f"{module}:nest"):
        with Scorer({"made": (REWARDS.build(use, "reward"), 1.0)}) as scorer:
            assert scorer.score([("7", ABOUT)])[0].value == 0.5


def test_a_decorator_that_hides_the_parameters_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"hidden\(\*args, \*\*kwargs\) does not say what it takes.*functools\.wraps"):
        build(tmp_path, MADE, ":hidden")
    (tmp_path / "alone.py").write_text(MADE.partition("def told")[0] + "@bare\ndef score(completion): return 1.0\n")
    with pytest.raises(ConfigError, match=r"functools\.wraps"):
        REWARDS.build(str(tmp_path / "alone.py"), "reward")


@pytest.mark.parametrize(
    "text",
    [
        "def make():\n    @dataclass\n    class Local:\n        def __call__(self, completion, prompt): return 1.0\n"
        "    return Local\nReward = make()",
        "import threading\n@dataclass\nclass Reward:\n    def __post_init__(self): self.lock = threading.Lock()\n"
        "    def __call__(self, completion, prompt): return 1.0",
    ],
)
def test_a_recipe_with_a_component_that_no_process_can_be_sent_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "theirs.py").write_text(f"from dataclasses import dataclass\n{text}\n")
    (tmp_path / "run.yaml").write_text("extends: quickstart\nreward: {correct: {use: './theirs.py:Reward'}}\n")
    with pytest.raises(ConfigError, match=r"run\.yaml:2: reward\.correct.*cannot be sent to the processes"):
        load_recipe(tmp_path / "run.yaml")


@pytest.mark.parametrize("name", ["weight", "clip", "only_if", "use", "chat", "examples"])
def test_a_setting_may_not_have_the_name_of_something_else(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=rf"the setting `{name}` cannot be called so.*own_{name}"):
        build(tmp_path, f"def f(completion, *, {name}=1.0): return 1.0")


def test_lists_and_none_are_settings(tmp_path: Path) -> None:
    text = """
    def f(completion, *, words=["a"], pair=(1, 2), most: int = None, table={"a": 1}, unit=None, stream=print):
        return float(len(words) + (pair == (3, 4)) + (most or 0) + table["a"] + (unit == "cm"))
    """
    reward = build(tmp_path, text, words=["a", "b"], pair=[3, 4], most=10, table={"a": 100})
    assert judge(reward, "x", ABOUT).value == 113.0
    about = Prompt(id="p", source="t", messages=(), answer="", columns={"unit": "cm"})
    assert judge(reward, "x", about).value == 114.0  # a default gives way to what the row has
    assert REWARDS.dump(build(tmp_path, text))["words"] == ["a"]
    with pytest.raises(ConfigError, match="most"):
        build(tmp_path, text, most="many")
