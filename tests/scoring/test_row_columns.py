"""A function gets what the problem really has: what nobody has is an error in words, and never an empty text."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import pytest

from posttrain.config.errors import ConfigError
from posttrain.config.load import load_recipe
from posttrain.config.registries import REWARDS
from posttrain.data.types import Prompt, Score
from posttrain.scoring.api import judge
from posttrain.scoring.columns import prompt_of
from posttrain.scoring.rows import score_rows
from posttrain.scoring.scorer import Scorer

INSIDE = "def score(completion, answer): return float(answer in completion)"


def build(folder: Path, text: str, **settings: Any) -> Any:
    (folder / "mine.py").write_text(textwrap.dedent(text))
    return REWARDS.build({"use": str(folder / "mine.py"), **settings}, "reward")


def judged(folder: Path, text: str, row: dict[str, Any]) -> Score:
    return judge(build(folder, text), "x = 7", prompt_of(row, ""))


@pytest.mark.parametrize(
    ("text", "row", "words"),
    [
        (INSIDE, {}, ["`answer`", "task.answer"]),
        (INSIDE, {"answer": ""}, ["`answer`", "an empty one counts as none"]),
        (INSIDE, {"answer": " \n"}, ["`answer`"]),
        ("def f(completions, solution, **kw): return [0.0]", {"answer": "7"}, ["`solution`", "task.solution"]),
        ("def f(completions, solution, **kw): return [0.0]", {"solution": ""}, ["`solution`"]),
        ("def f(completions, solution, **kw): return [0.0]", {"solution": None}, ["`solution`"]),
        ("def f(completions, completion_ids): return [0.0]", {"answer": "7"}, ["`completion_ids`", "A run tells"]),
        ("def f(completion, level): return 1.0", {}, ["`level`", "task.level"]),
        ("def f(completion, source): return 1.0", {}, ["`source`", "task.source"]),
        ("def f(completion, id): return 1.0", {}, ["`id`"]),
        ("def f(completion, unit): return 1.0", {"units": "cm"}, ["`unit`", "task.columns", "Did you mean `units`?"]),
        ("def f(completion, *, unit): return 1.0", {}, ["`unit`"]),
        ("def f(completion, ground_truth): return 1.0", {"answer": "7"}, ["The reference answer is called `answer`."]),
        ("def f(completions, tokens): return [1.0]", {}, ["`tokens`", "A run tells it"]),
    ],
)
def test_what_a_row_lacks_is_named(tmp_path: Path, text: str, row: dict[str, Any], words: list[str]) -> None:
    score = judged(tmp_path, text, row)
    assert (score.value, score.status) == (None, "error")
    for word in words:
        assert word in score.detail


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ("def f(completion, answer='none'): return float(answer == 'none')", {}),
        ("def f(completion, level=3, *, unit=None): return float(level == 3 and unit is None)", {}),
        ("def f(completion, level): return float(level == 0)", {"level": 0}),
        ("def f(completion, **columns): return float(set(columns) == {'prompt'})", {}),
        (
            "def f(completions, **kw): return [float(not {'answer', 'solution', 'level'} & set(kw))]",
            {"answer": ""},
        ),
        ("def f(completion, *rest, answer): return float(rest == () and answer == '7')", {"answer": 7}),
    ],
)
def test_defaults_stay_and_nothing_is_made_up(tmp_path: Path, text: str, row: dict[str, Any]) -> None:
    assert judged(tmp_path, text, row).value == 1.0


def test_parameters_by_position_alone_are_refused_when_it_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"takes completion by position alone.*Remove the `/`"):
        build(tmp_path, "def f(completion, /, answer): return 1.0")


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        (
            "def f(completion, unit, **c): return 1.0",
            [],
            r"reward\.correct: the function needs `unit`.*Given are: .*hint",
        ),
        ("def f(completions, hints, **c): return [1]", [], "Did you mean `hint`"),
        ("def f(completion, gold): return 1.0", [], "The reference answer is called `answer`"),
        ("def f(completion, solution): return 1.0", ["task={use: dataset, path: x.jsonl}"], "Set task.solution"),
        ("def f(completion, unit): return 1.0", ["task={use: dataset, path: x.jsonl}"], "name it in task.columns"),
        ("def f(completion, prompts): return 1.0", [], "`prompts`"),
    ],
)
def test_a_recipe_is_refused_for_what_its_task_does_not_give(
    tmp_path: Path, text: str, settings: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe_with(tmp_path, text, settings)


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("def f(completion, answer, hint, solution, level, id, source, tokens, prompt, x=1): return 1.0", []),
        ("def f(completions, prompts, completion_ids, trainer_state, log_extra, log_metric): return [1.0]", []),
        ("def f(completion, solution): return 1.0", ["task={use: dataset, path: x.jsonl, solution: s}"]),
        ("def f(completion, unit): return 1.0", ["task={use: dataset, path: x.jsonl, columns: [unit]}"]),
    ],
)
def test_a_recipe_whose_task_gives_it_is_right(tmp_path: Path, text: str, settings: list[str]) -> None:
    recipe_with(tmp_path, text, settings)


def test_so_is_one_whose_second_verifier_needs_it_not(tmp_path: Path) -> None:
    second = f"reward.second={{use: second_opinion, verifier: '{tmp_path}/mine.py'}}"
    (tmp_path / "other.yaml").write_text("extends: quickstart\n")
    (tmp_path / "mine.py").write_text("def f(completion, unit): return 1.0")
    with pytest.raises(ConfigError, match=r"reward\.second\.verifier: the function needs `unit`"):
        load_recipe(tmp_path / "other.yaml", [second])


def recipe_with(folder: Path, text: str, settings: list[str]) -> None:
    (folder / "mine.py").write_text(text)
    (folder / "run.yaml").write_text("extends: quickstart\nwarmup: false\nreward: {correct: {use: ./mine.py}}\n")
    load_recipe(folder / "run.yaml", settings)


def test_numbers_that_are_none_make_neither_an_answer_nor_an_id(tmp_path: Path) -> None:
    lines = [
        b'{"id": 1, "completion": "nan", "answer": NaN}',
        b'{"id": 2, "completion": "x", "answer": Infinity}',
        b'{"id": 3, "completion": "x", "answer": null}',
        b'{"id": NaN, "completion": "7", "answer": "7"}',
        b'{"id": [-Infinity], "completion": "7", "answer": "7"}',
        b'{"id": 6, "completion": "7", "answer": "7"}',
    ]
    with Scorer({"mine": (build(tmp_path, INSIDE), 1.0)}) as scorer:
        rows = list(score_rows(lines, scorer))
    assert [row["status"] for row in rows] == ["error"] * 5 + ["ok"]
    assert [row["id"] for row in rows] == [1, 2, 3, None, None, 6]
    for row, word in zip(rows, ["answer", "answer", "answer", "id holds NaN", "id holds NaN", ""], strict=True):
        assert word in row["detail"]
        json.dumps(row, allow_nan=False)


def test_a_prompt_without_anything_has_no_columns() -> None:
    from posttrain.scoring.columns import columns_of

    assert columns_of(Prompt(id="", source="", messages=(), answer="")) == {}
