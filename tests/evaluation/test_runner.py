from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from posttrain.comm import SingleProcess
from posttrain.config.errors import ConfigError
from posttrain.data.types import Prompt, Score
from posttrain.evaluation.runner import HeldOut, load_benchmarks, mean_accuracy, read, write
from posttrain.learner.tiny import build_tokenizer
from posttrain.rollout.engine import Sampling
from posttrain.rollout.sampler import Sampler, sample_seed
from posttrain.rollout.scripted import ScriptedEngine
from tests.row_samples import prompt

SAMPLING = Sampling(temperature=0.0, max_tokens=8)


class Judge:
    """Right where the completion is the answer; no verdict on an empty completion."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Any, Score]] = []

    def submit(self, key: Any, completion: str, prompt: Prompt) -> None:
        right = completion == prompt.answer
        judged = Score(value=float(right), correct=right) if completion else Score(value=None, status="timeout")
        self._waiting.append((key, judged))

    def ready(self) -> list[tuple[Any, Score]]:
        done, self._waiting = self._waiting, []
        return done


def held_out(answers: dict[str, list[str]], samples: int) -> tuple[HeldOut, Sampler]:
    """Problems whose right answer is "1", and a sampler that gives these answers."""
    tokenizer = build_tokenizer("plain")
    problems = [prompt(name, f"{name}=", answer="1", level=3) for name in answers]
    script: Any = {
        tokenizer.apply_chat_template(list(p.messages), add_generation_prompt=True, tokenize=False): answers[p.id]
        for p in problems
    }
    engine = ScriptedEngine(tokenizer, script, logp=-1.0)
    sampler = Sampler(tokenizer, SingleProcess(), engine, Judge(), [0], 64, seed=2)
    return HeldOut(problems, samples, SAMPLING), sampler


def row(problem: str, correct: bool) -> dict[str, Any]:
    return {"problem_id": problem, "correct": correct}


# ---- avg@n ----
@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([row("a", True), row("b", False)], 0.5),
        ([row("a", True), row("a", False), row("b", True), row("b", True)], 0.75),
        ([row("a", True)] * 6 + [row("b", False)] * 2, 0.5),  # over problems, not over completions
        ([], None),
    ],
)
def test_accuracy_is_the_mean_over_problems(rows: list[dict[str, Any]], expected: float | None) -> None:
    assert mean_accuracy(rows) == expected


def test_an_evaluation_counts_problems_and_the_unjudged() -> None:
    evaluate, sampler = held_out({"a": ["1", "2"], "b": ["1", "1"], "c": ["", "3"]}, 2)
    result = evaluate(sampler)
    assert result.accuracy == pytest.approx((0.5 + 1.0 + 0.0) / 3)
    assert (result.problems, result.unjudged, len(result.rows)) == (3, 1, 6)
    lost = next(r for r in result.rows if r["completion"] == "")
    assert (lost["reward"], lost["status"], lost["correct"]) == (None, "timeout", False)


def test_a_row_says_everything_a_reader_needs() -> None:
    evaluate, sampler = held_out({"a": ["1", "123456789"]}, 2)
    first, second = evaluate(sampler).rows
    assert first == {
        "problem_id": "a",
        "source": "test",
        "level": 3,
        "sample": 0,
        "prompt": "a=",
        "completion": "1",
        "answer": "1",
        "correct": True,
        "reward": 1.0,
        "status": "ok",
        "detail": "",
        "tokens": 2,
        "finish": "stop",
        "format": None,
        "parsed": None,
        "seed": sample_seed(2, "eval", "a", 0),
    }
    assert (second["sample"], second["finish"], second["tokens"], second["reward"]) == (1, "length", 8, 0.0)


def test_two_evaluations_are_paired() -> None:
    evaluate, sampler = held_out({"a": ["1"], "b": ["2"]}, 1)
    one, two = evaluate(sampler), evaluate(sampler)
    assert [r["seed"] for r in one.rows] == [r["seed"] for r in two.rows]
    assert one == two


def test_without_problems_the_accuracy_is_zero() -> None:
    evaluate, sampler = held_out({}, 1)
    assert (evaluate(sampler).accuracy, evaluate(sampler).rows) == (0.0, [])


# ---- files ----
def test_rows_survive_the_file(tmp_path: Path) -> None:
    evaluate, sampler = held_out({"a": ["1", ""], "b": ["é∑🙂", "x"]}, 2)
    rows = evaluate(sampler).rows
    path = tmp_path / "evals" / "before.parquet"
    write(path, rows)
    assert read(path) == rows
    assert mean_accuracy(read(path)) == mean_accuracy(rows)


def test_half_a_surrogate_pair_does_not_break_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write(path, [{"problem_id": "a\ud83d", "completion": "\ud83d and 🙂", "tokens": 3}])
    assert read(path) == [{"problem_id": "a?", "completion": "? and 🙂", "tokens": 3}]


def test_all_unjudged_is_a_file_too(tmp_path: Path) -> None:
    evaluate, sampler = held_out({"a": [""]}, 1)
    path = tmp_path / "a.parquet"
    write(path, evaluate(sampler).rows)
    assert [r["reward"] for r in read(path)] == [None]


def test_no_file_and_no_rows_read_as_nothing(tmp_path: Path) -> None:
    assert read(tmp_path / "none.parquet") == []
    write(tmp_path / "empty.parquet", [])
    assert read(tmp_path / "empty.parquet") == []


def test_benchmarks_of_a_recipe_are_judged_by_its_rewards_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "sums.jsonl"
    file.write_text(json.dumps({"problem": "2+2=", "answer": "4"}) + "\n")

    def ask(text: str) -> tuple[dict[str, str], ...]:
        return ({"role": "user", "content": text},)

    assert load_benchmarks([], ask, {"math"}) == {}
    for named, rewards in ((f"file:{file}", {"mine"}), (f"file:{file}:exact", {"exact", "format"})):
        assert [p.answer for p in load_benchmarks([named], ask, rewards)["sums"]] == ["4"]
    with pytest.raises(
        ConfigError, match=r"eval.bench: sums is judged by exact, and the recipe's rewards are format, math"
    ):
        load_benchmarks([f"file:{file}:exact"], ask, {"math", "format"})
