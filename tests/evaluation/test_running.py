"""The harness on scripted engines: which samples are drawn, what is written, what a resumed evaluation does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from posttrain.data.types import Prompt, Score
from posttrain.evaluation.finish import results_of
from posttrain.evaluation.jobs import dealt, job, jobs
from posttrain.evaluation.judges import Judges
from posttrain.evaluation.running import Bench, Sitting
from posttrain.evaluation.store import Store
from posttrain.learner.tiny import build_tokenizer
from posttrain.rollout.engine import Completion, EngineError, Request, Sampling
from posttrain.rollout.fleet import Fleet
from posttrain.rollout.scripted import ScriptedEngine

TOKENIZER = build_tokenizer("plain")
QUESTIONS, SAMPLES, SEED = [f"q{i}" for i in range(6)], 3, 7


def answer(question: str, sample: int) -> str:
    """Right in two of three: the reference is 1. The third is wrong, or in no box."""
    return "so \\boxed{1}" if sample < 2 else ("\\boxed{2}" if question < "q3" else "I give up")


def bench(questions: Sequence[str] = QUESTIONS) -> Bench:
    prompts = {
        q: Prompt(id=q, source="test", messages=({"role": "user", "content": q},), answer="1") for q in questions
    }
    ids = {q: TOKENIZER(q, add_special_tokens=False)["input_ids"] for q in questions}
    return Bench("tests", {"use": "math", "extraction": "strict"}, SAMPLES, prompts, ids)


def engine(version: int = 0) -> ScriptedEngine:
    script: Any = {q: {job(SEED, "tests", q, i).seed: answer(q, i) for i in range(SAMPLES)} for q in QUESTIONS}
    return ScriptedEngine(TOKENIZER, script, logp=-1.0)


class Dying(ScriptedEngine):
    """Ends after a few completions, as a process that is out of memory does."""

    left = 5

    def generate(self, requests: Sequence[Request], sampling: Sampling, on_done: Any = None) -> list[Completion]:
        super().generate(requests[: self.left], sampling, on_done)
        raise EngineError("out of memory")


@pytest.fixture(scope="module")
def judges() -> Any:
    judges = Judges()
    yield judges
    judges.close()


def sitting(store: Store, judges: Judges, one: Bench | None = None, context: int = 64) -> Sitting:
    one = one or bench()
    decode = lambda ids: TOKENIZER.decode(ids, skip_special_tokens=True)  # noqa: E731
    return Sitting("m", {one.name: one}, store, judges, decode, Sampling(max_tokens=32), context, SEED)


def evaluated(folder: Path, judges: Judges, engines: int = 1) -> tuple[list[dict[str, Any]], dict[str, Any], Fleet]:
    fleet = Fleet([engine() for _ in range(engines)])
    with Store(folder) as store:
        store.open({})
        store.write_questions("tests", [{"question": q} for q in QUESTIONS])
        at = sitting(store, judges)
        at.run(fleet, at.left(), lambda done, total: None)
        return store.rows("m", "tests"), results_of("m", at.benches.values(), store, judges, 0.02), fleet


def test_every_sample_has_its_own_seed_whatever_else_is_asked() -> None:
    many = jobs(SEED, "tests", QUESTIONS, 8)
    assert len({one.seed for one in many}) == len(many)
    assert [one for one in many if one.question == "q3"][:2] == jobs(SEED, "tests", ["q3"], 2)
    assert job(SEED, "others", "q3", 0).seed != job(SEED, "tests", "q3", 0).seed != job(8, "tests", "q3", 0).seed


def test_questions_are_dealt_out_evenly_and_whole() -> None:
    left = [
        *jobs(SEED, "aime24", [str(n) for n in range(30)], 2),
        *jobs(SEED, "math500", [str(n) for n in range(7)], 1),
    ]
    engines = dealt(left, 8)
    of = {(one.bench, one.question): set[int]() for one in left}
    for one, engine in zip(left, engines, strict=True):
        of[one.bench, one.question].add(engine)
    assert all(len(found) == 1 for found in of.values())
    for bench, counts in (("aime24", {3, 4}), ("math500", {0, 1})):
        here = [next(iter(found)) for (name, _), found in of.items() if name == bench]
        assert {here.count(engine) for engine in range(8)} == counts
    assert dealt(left[1:4], 2) == [0, 1, 1]  # of what is left, wherever the others went


def test_rows_say_what_was_said_and_judged(tmp_path: Path, judges: Judges) -> None:
    rows, results, _ = evaluated(tmp_path, judges)
    assert [(r["question"], r["sample"]) for r in rows] == [(q, i) for q in QUESTIONS for i in range(SAMPLES)]
    first, boxless = rows[0], rows[-1]
    assert first["seed"] == job(SEED, "tests", "q0", 0).seed
    wanted = {
        "completion": "so \\boxed{1}",
        "extracted": "1",
        "correct": True,
        "reward": 1.0,
        "status": "ok",
        "format": True,
    }
    assert {key: first[key] for key in wanted} == wanted
    assert (boxless["extracted"], boxless["correct"], boxless["format"]) == (None, False, False)
    assert (first["parsed"], boxless["parsed"]) == (True, None)
    assert results["tests"]["rates"]["no_answer"] == pytest.approx(3 / 18)
    assert results["tests"]["rates"]["unparseable"] == 0.0
    assert results["tests"]["accuracy"]["mean"] == pytest.approx(2 / 3)
    assert results["tests"]["maj_at_k"]["3"]["value"] == 1.0
    assert results["tests"]["rates"]["malformed"] == pytest.approx(3 / 18)


def test_the_table_does_not_depend_on_how_many_engines_there_are(tmp_path: Path, judges: Judges) -> None:
    rows, results, _ = evaluated(tmp_path / "one", judges)
    others, same, fleet = evaluated(tmp_path / "three", judges, engines=3)
    assert (others, same) == (rows, results)
    assert sum(len(one.requests) for one in fleet.engines) == len(rows)  # type: ignore[attr-defined]
    assert sum(bool(one.requests) for one in fleet.engines) > 1  # type: ignore[attr-defined]


def test_an_answer_that_the_verifier_could_not_bear_is_not_looked_for(tmp_path: Path) -> None:
    class Judges:
        """No verdict on the first sample, a wrong one on the others."""

        def __init__(self) -> None:
            self.waiting: list[tuple[int, Score]] = []

        def submit(self, key: int, *_: Any) -> None:
            lost = Score(value=None, status="timeout" if key == 0 else "error")
            self.waiting.append((key, Score(value=0.0) if key > 1 else lost))

        def ready(self) -> list[tuple[int, Score]]:
            done, self.waiting = self.waiting, []
            return done

    with Store(tmp_path) as store:
        store.open({})
        store.write_questions("tests", [{"question": q} for q in QUESTIONS])
        at = sitting(store, Judges())  # type: ignore[arg-type]
        at.run(Fleet([engine()]), at.left(), lambda done, total: None)
        rows = store.rows("m", "tests")
    assert [row["extracted"] for row in rows[:3]] == [None, None, "2"]
    assert all(row["status"] == "ok" for row in rows[2:])


def test_a_resumed_evaluation_does_only_what_is_left(tmp_path: Path, judges: Judges) -> None:
    whole, results, _ = evaluated(tmp_path, judges)
    path = tmp_path / "samples" / "m" / "tests.jsonl"
    path.write_bytes(b"\n".join(path.read_bytes().split(b"\n")[:7]) + b'\n{"question": "q')
    again, same, fleet = evaluated(tmp_path, judges)
    assert len(fleet.engines[0].requests) == len(whole) - 7  # type: ignore[attr-defined]
    assert (again, same) == (whole, results)


def test_what_an_engine_finished_before_it_died_is_kept(tmp_path: Path, judges: Judges) -> None:
    script: Any = {q: {job(SEED, "tests", q, i).seed: answer(q, i) for i in range(SAMPLES)} for q in QUESTIONS}
    with Store(tmp_path) as store:
        store.open({})
        at = sitting(store, judges)
        with pytest.raises(EngineError, match="out of memory"):
            at.run(Fleet([Dying(TOKENIZER, script, logp=-1.0)]), at.left(), lambda done, total: None)
        assert len(at.left()) == len(QUESTIONS) * SAMPLES - 5


def test_a_prompt_that_is_too_long_fails_alone_with_a_reason(tmp_path: Path, judges: Judges) -> None:
    long = bench(["q0", "q1", "q" * 70])
    with Store(tmp_path) as store:
        store.open({})
        at = sitting(store, judges, long)
        left = at.refuse(at.left())
        assert {one.question for one in left} == {"q0", "q1"}
        assert at.left() == left
        refused = store.rows("m", "tests")
        assert len(refused) == SAMPLES
        assert refused[0]["finish"] == "refused"
        assert (refused[0]["status"], refused[0]["reward"], refused[0]["correct"]) == ("skipped", None, False)
        assert refused[0]["detail"] == "the prompt has 70 tokens, and the context of 64 leaves no room for an answer"


def test_progress_ends_at_the_number_of_samples(tmp_path: Path, judges: Judges) -> None:
    told: list[tuple[int, int]] = []
    with Store(tmp_path) as store:
        store.open({})
        at = sitting(store, judges)
        at.run(Fleet([engine()]), at.left(), lambda done, total: told.append((done, total)))
    assert told[-1] == (18, 18)
    assert told == sorted(told)
