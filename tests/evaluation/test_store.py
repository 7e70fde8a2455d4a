from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from posttrain.config.errors import ConfigError
from posttrain.evaluation.store import CannotWrite, Store, differing

ASKED: dict[str, Any] = {
    "models": [{"key": "a", "hash": "1", "failed": None}, {"key": "b", "hash": "2", "failed": None}],
    "benchmarks": [{"name": "amc23", "samples": 2, "origin": "x.jsonl"}],
    "protocol": {"sampling": {"temperature": 0.6}},
    "data_parallel": 1,
    "environment": {"vllm": "0.32.0", "hardware": {"cores": 2}},
}


def row(question: str, sample: int) -> dict[str, Any]:
    return {"question": question, "sample": sample, "completion": "\ud83d\n", "correct": True}


def opened(folder: Path, asked: dict[str, Any] = ASKED, **options: Any) -> tuple[Store, bool]:
    store = Store(folder)
    return store, store.open(asked, **options)


def changed(**keys: Any) -> dict[str, Any]:
    return {**json.loads(json.dumps(ASKED)), **keys}


def test_samples_come_back_by_question_and_number(tmp_path: Path) -> None:
    store, resumed = opened(tmp_path / "out")
    assert not resumed
    store.write_questions("amc23", [{"question": "q2"}, {"question": "q10"}])
    for question, sample in (("q10", 1), ("q2", 0), ("q10", 0), ("q2", 1)):
        store.append("a", "amc23", row(question, sample))
    assert [(r["question"], r["sample"]) for r in store.rows("a", "amc23")] == [
        ("q2", 0),
        ("q2", 1),
        ("q10", 0),
        ("q10", 1),
    ]
    assert store.rows("a", "amc23")[0]["completion"] == "\ud83d\n"
    assert store.finished("b", "amc23") == set()
    store.close()


def test_a_torn_line_is_dropped_and_the_rest_is_kept(tmp_path: Path) -> None:
    store, _ = opened(tmp_path)
    store.append("a", "amc23", row("q", 0))
    store.append("a", "amc23", row("q", 1))
    store.close()
    path = tmp_path / "samples" / "a" / "amc23.jsonl"
    path.write_bytes(path.read_bytes()[:-7])
    again, resumed = opened(tmp_path)
    assert resumed
    assert again.finished("a", "amc23") == {("q", 0)}
    again.append("a", "amc23", row("q", 1))
    assert again.finished("a", "amc23") == {("q", 0), ("q", 1)}
    again.close()


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path) -> None:
    store, _ = opened(tmp_path)
    store.append("a", "amc23", row("q", 0))
    path = tmp_path / "samples" / "a" / "amc23.jsonl"
    path.write_text("{half\n" + path.read_text())
    with pytest.raises(ConfigError, match=r"amc23.jsonl:1: not JSON"):
        store.rows("a", "amc23")
    store.close()


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        (changed(protocol={"sampling": {"temperature": 1.0}}), "protocol.sampling.temperature: 0.6 -> 1.0"),
        (changed(seed=1), "seed: absent -> 1"),
        (changed(models=ASKED["models"][:1]), "models.b.key"),
        (changed(environment={"vllm": "0.33.0", "hardware": {"cores": 2}}), 'environment.vllm: "0.32.0" -> "0.33.0"'),
        (changed(benchmarks=[{"name": "amc23", "samples": 4}]), "benchmarks.amc23.samples: 2 -> 4"),
    ],
)
def test_other_settings_are_refused_by_name(tmp_path: Path, asked: dict[str, Any], named: str) -> None:
    opened(tmp_path)[0].close()
    with pytest.raises(ConfigError) as error:
        Store(tmp_path).open(asked)
    assert named in str(error.value)
    assert "--overwrite" in str(error.value)


def test_where_it_runs_may_change_and_is_written_down(tmp_path: Path) -> None:
    opened(tmp_path)[0].close()
    elsewhere = changed(environment={"vllm": "0.32.0", "hardware": {"cores": 64}}, data_parallel=8)
    store, resumed = opened(tmp_path, elsewhere)
    assert resumed
    assert [sitting["hardware"] for sitting in store.asked()["sittings"]] == [{"cores": 2}, {"cores": 64}]
    store.close()


def test_a_broken_model_may_be_mended() -> None:
    broken = [{"key": "a", "hash": "", "failed": "no tokenizer"}, ASKED["models"][1]]
    assert differing(changed(models=broken), ASKED) == []
    assert differing(ASKED, changed(models=[{**ASKED["models"][0], "hash": "3"}, ASKED["models"][1]])) == [
        'models.a.hash: "1" -> "3"'
    ]


def test_a_model_that_breaks_and_comes_back_is_the_one_it_was(tmp_path: Path) -> None:
    """Else samples of two models would lie under one name."""
    broken = changed(models=[{"key": "a", "hash": "", "failed": "gone"}, ASKED["models"][1]])
    for asked in (broken, ASKED, broken, broken):  # never there; there; gone
        opened(tmp_path, asked)[0].close()
    assert Store(tmp_path).asked()["models"] == ASKED["models"]
    with pytest.raises(ConfigError, match=r'models\.a\.hash: "1" -> "3"'):
        Store(tmp_path).open(changed(models=[{**ASKED["models"][0], "hash": "3"}, ASKED["models"][1]]))
    store, resumed = opened(tmp_path)
    assert resumed
    store.close()


def test_overwrite_replaces_what_an_evaluation_wrote_and_nothing_else(tmp_path: Path) -> None:
    store, _ = opened(tmp_path)
    store.append("a", "amc23", row("q", 0))
    store.close()
    (tmp_path / "notes.txt").write_text("mine")
    again, resumed = opened(tmp_path, changed(seed=1), overwrite=True)
    assert not resumed
    assert again.finished("a", "amc23") == set()
    assert (tmp_path / "notes.txt").read_text() == "mine"
    again.close()


def test_two_cannot_write_at_once(tmp_path: Path) -> None:
    store, _ = opened(tmp_path)
    with pytest.raises(ConfigError, match="another evaluation is writing"):
        Store(tmp_path).open(ASKED)
    store.close()
    opened(tmp_path)[0].close()


def test_a_full_disk_is_said_with_what_to_do(tmp_path: Path) -> None:
    store, _ = opened(tmp_path)
    path = tmp_path / "samples" / "a" / "amc23.jsonl"
    path.parent.mkdir(parents=True)
    path.symlink_to("/dev/full")
    with pytest.raises(CannotWrite, match=r"No space left on device.*same command"):
        store.append("a", "amc23", row("q", 0))
    store._files.clear()
    store.close()


def test_what_is_no_evaluation_is_not_taken_over(tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    with pytest.raises(ConfigError, match=r"holds samples but no evaluation.json"):
        Store(tmp_path).open(ASKED)
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        Store(file).open(ASKED)
    with pytest.raises(ConfigError, match="no folder of an evaluation"):
        Store(tmp_path / "none").asked()
