from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from posttrain.config.errors import ConfigError
from posttrain.data.chat import message_builder
from posttrain.data.tasks import Dataset, TaskData
from posttrain.data.types import Prompt

MESSAGES = message_builder(None, "{problem}")
KINDS = ["jsonl", "parquet"]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def problems(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"question": f"What is {i}?", "answer": str(i)} for i in range(start, start + count)]


def texts(prompts: Any) -> list[str]:
    return [p.messages[-1]["content"] for p in prompts]


def load(path: str, heldout: int = 1, seed: int = 0, **settings: Any) -> TaskData:
    return Dataset(path, **settings).load(MESSAGES, heldout, seed)


def only(path: Path, row: dict[str, Any], **settings: Any) -> Prompt:
    """The prompt of one row; a second one is there to be held out."""
    held = write(path.with_name("held.jsonl"), [{"question": "elsewhere", "answer": "0"}])
    keys = {"heldout_path": held} if set(settings) <= {"answer_after", "answer_boxed"} else {}
    data = load(write(path, [row, {**row, "question": "second"}]), seed=0, **keys, **settings)
    return next(p for p in [*data.train, *data.heldout] if p.messages[-1]["content"] == row["question"])


def error_of(path: str, heldout: int = 1, **settings: Any) -> str:
    with pytest.raises(ConfigError) as error:
        load(path, heldout, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- reading ----
@pytest.mark.parametrize("kind", KINDS)
def test_rows_become_prompts(tmp_path: Path, kind: str) -> None:
    rows = [
        {"question": "1+1?", "answer": " 2 ", "why": "count", "name": "a", "hard": "Level 3"},
        {"question": "2+2?", "answer": "4", "why": "count on", "name": "b", "hard": "Level 4"},
        {"question": "3+3?", "answer": "6", "why": "count further", "name": "c", "hard": "?"},
    ]
    path = write(tmp_path / f"math.{kind}", rows)
    data = load(path, solution="why", id="name", level="hard")
    found = {p.id: p for p in [*data.train, *data.heldout]}
    assert set(found) == {"a", "b", "c"}
    assert found["a"].answer == "2"
    assert found["a"].solution == "count"
    assert found["a"].source == f"math.{kind}"
    assert found["a"].messages == ({"role": "user", "content": "1+1?"},)
    assert [found[n].level for n in "abc"] == [3, 4, 0]


@pytest.mark.parametrize(
    ("level", "expected"), [(2, 2), (3.0, 3), ("2.5", 2), ("Level 12 of 15", 12), ("x²", 0), ("", 0)]
)
def test_a_level_is_the_first_whole_number(tmp_path: Path, level: Any, expected: int) -> None:
    row = {"question": "q", "answer": "1", "level": level}
    assert only(tmp_path / "a.jsonl", row, level="level").level == expected


def test_the_first_present_column_is_used_and_null_is_not_present(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"a": None, "b": "q1", "answer": 1}, {"a": "q2", "b": "x", "answer": 2}])
    data = load(path, problem=["a", "b"])
    assert sorted(texts([*data.train, *data.heldout])) == ["q1", "q2"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_a_number_that_is_none_is_no_answer(tmp_path: Path, value: Any) -> None:
    said = error_of(write(tmp_path / "x.jsonl", [{"problem": "p", "answer": value}]))
    assert "task.answer='answer'" in said
    assert "null or NaN" in said


def test_a_task_says_which_columns_it_gives() -> None:
    plain = {"answer", "id", "source"}
    assert Dataset(path="x.jsonl").gives() == plain
    assert Dataset(path="x.jsonl", solution="s", level=["l"], columns=["unit"]).gives() == {
        *plain, "solution", "level", "unit",
    }  # fmt: skip


def test_blank_lines_are_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('\n{"question": "a", "answer": "1"}\n  \n{"question": "b", "answer": "2"}\n\n')
    assert Dataset(str(path)).size() == 2
    data = load(str(path))
    assert len(data.train) + len(data.heldout) == 2


def test_a_byte_order_mark_is_no_content(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b'{"question": "a", "answer": "1"}\n{"question": "b", "answer": "2"}\n')
    assert len(load(str(path)).train) == 1


@pytest.mark.parametrize(
    ("answer", "expected"), [("so 3.\n#### 1,234", "1,234"), ("#### 1 #### 2", "2"), ("just 5", "just 5")]
)
def test_answer_after(tmp_path: Path, answer: str, expected: str) -> None:
    row = {"question": "q", "answer": answer}
    assert only(tmp_path / "a.jsonl", row, answer_after="####").answer == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (r"thus $\boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
        (r"\boxed{1} then \boxed{2}", "2"),
        ("no box", "no box"),
    ],
)
def test_answer_boxed(tmp_path: Path, answer: str, expected: str) -> None:
    row = {"question": "q", "answer": answer}
    assert only(tmp_path / "a.jsonl", row, answer_boxed=True).answer == expected


# ---- held-out problems ----
@pytest.mark.parametrize("kind", KINDS)
def test_held_out_rows_are_not_trained_on(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / f"a.{kind}", problems(20))
    data = load(path, heldout=5, seed=3)
    assert len(data.train) == 15
    assert len(data.heldout) == 5
    assert sorted(texts([*data.train, *data.heldout])) == sorted(
        texts(load(path, 1).train) + texts(load(path, 1).heldout)
    )
    assert load(path, heldout=5, seed=3) == data
    assert texts(load(path, heldout=5, seed=4).heldout) != texts(data.heldout)


def test_a_problem_that_occurs_twice_is_not_in_both_parts(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", problems(10) * 3)
    data = load(path, heldout=4)
    assert not set(texts(data.train)) & set(texts(data.heldout))
    assert data.train


def test_holding_out_every_row_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", problems(3))
    assert len(load(path, heldout=2).train) == 1
    message = error_of(path, heldout=3)
    assert "eval.problems=3" in message
    assert "task.heldout_path" in message


def test_heldout_path_is_used_and_its_problems_leave_the_training_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", problems(6))
    held = write(tmp_path / "test.parquet", problems(4, start=4))
    data = load(path, heldout=3, heldout_path=held)
    assert texts(data.heldout) == ["What is 4?", "What is 5?", "What is 6?"]
    assert texts(data.train) == [f"What is {i}?" for i in range(4)]
    assert not {p.id for p in data.train} & {p.id for p in data.heldout}


def test_a_heldout_file_with_every_training_problem_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", problems(3))
    message = error_of(path, heldout=3, heldout_path=path)
    assert "nothing to train on" in message
    assert "heldout_path" in message


def test_an_empty_heldout_file_is_refused(tmp_path: Path) -> None:
    path, held = write(tmp_path / "a.jsonl", problems(3)), write(tmp_path / "b.jsonl", [])
    message = error_of(path, heldout_path=held)
    assert "task.heldout_path" in message
    assert "no rows" in message


# ---- mistakes ----
def test_ids_that_are_not_unique_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"id": i // 2, **row} for i, row in enumerate(problems(4))])
    message = error_of(path, id="id")
    assert "task.id='id'" in message
    assert "row 1" in message
    assert "row 2" in message


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_dataset(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table({"question": pa.array([], pa.string())}), path)
    else:
        path.write_text("")
    message = error_of(str(path))
    assert f"task.path={str(path)!r}" in message
    assert "no rows" in message


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_column_names_the_nearest_one(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / f"a.{kind}", [{"question": "q", "anwser": "1"}, {"question": "r", "anwser": "2"}])
    message = error_of(path)
    assert "task.answer='answer'" in message
    assert "Did you mean 'anwser'?" in message
    assert "question, anwser" in message
    assert f"{path} row 1" in message


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"question": "a", "answer": "1"}\n\n{"question": "b", "answer": \n')
    assert f"{path}:3: not JSON" in error_of(str(path))


def test_a_line_that_is_not_an_object_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"question": "a", "answer": "1"}\n["b", "2"]\n')
    assert f"{path}:2: a list" in error_of(str(path))


def test_a_file_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes('{"question": "größer", "answer": "1"}\n'.encode("latin-1"))
    message = error_of(str(path))
    assert str(path) in message
    assert "UTF-8" in message


def test_a_parquet_file_that_is_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_text("not parquet at all")
    message = error_of(str(path))
    assert str(path) in message
    assert "Parquet" in message


def test_a_missing_file_names_the_key_it_came_from(tmp_path: Path) -> None:
    missing = str(tmp_path / "none.jsonl")
    assert f"task.path={missing!r}: there is no such file" in error_of(missing)
    path = write(tmp_path / "a.jsonl", problems(3))
    assert f"task.heldout_path={missing!r}: there is no such file" in error_of(path, heldout_path=missing)


def test_there_are_no_demonstrations(tmp_path: Path) -> None:
    task = Dataset(write(tmp_path / "a.jsonl", problems(3)))
    assert not task.has_demonstrations
    with pytest.raises(ConfigError, match="warmup: false"):
        task.demonstrations(1, MESSAGES, 0)


def test_a_local_file_has_no_splits_so_rows_are_set_aside(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", problems(6))
    assert load(path, heldout=2, heldout_split="test") == load(path, heldout=2)


# ---- further columns ----
@pytest.mark.parametrize("kind", KINDS)
def test_further_columns_come_as_they_are(kind: str, tmp_path: Path) -> None:
    row = {"question": "1+1?", "answer": "2", "hint": "count", "cases": [1, 2], "note": None}
    found = only(tmp_path / f"x.{kind}", row, columns=["hint", "cases", "note"])
    assert found.columns == {"hint": "count", "cases": [1, 2], "note": None}
    assert not only(tmp_path / f"y.{kind}", row).columns


def test_a_further_column_that_is_not_there_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", [{**p, "hint": "h"} for p in problems(3)])
    assert error_of(path, columns=["hints"]) == (
        f"task.columns: {path} row 1 has no column 'hints'. Did you mean 'hint'? It has: question, answer, hint."
    )
