from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from posttrain.learner.tiny import build_tokenizer
from posttrain.rollout.engine import Completion, Engine, EngineError, Request, Sampling
from posttrain.rollout.scripted import ScriptedEngine

SAMPLING = Sampling(max_tokens=4)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tokenizer("plain")


def request(tokenizer: Any, text: str, key: int = 0, seed: int = 0) -> Request:
    return Request(key=key, prompt_ids=tokenizer(text)["input_ids"], seed=seed)


def test_answers_come_in_turn_for_each_prompt(tokenizer: Any) -> None:
    engine: Engine = ScriptedEngine(tokenizer, {"a": ["x", "y"], tuple(tokenizer("b")["input_ids"]): ["z"]}, logp=-2.0)
    asked = [request(tokenizer, text, key) for key, text in enumerate("aba")]
    seen: list[Completion] = []
    got = engine.generate(asked, SAMPLING, seen.append)
    assert [tokenizer.decode(c.token_ids, skip_special_tokens=True) for c in got] == ["x", "z", "y"]
    assert [c.key for c in got] == [0, 1, 2]
    assert seen == got
    assert all(c.logp.tolist() == [-2.0, -2.0] for c in got)
    again = engine.generate(asked[:1], SAMPLING)  # counted from the beginning in every call
    assert tokenizer.decode(again[0].token_ids, skip_special_tokens=True) == "x"


def test_or_by_the_seed_of_the_sampler(tokenizer: Any) -> None:
    engine = ScriptedEngine(tokenizer, {"a": {40: "x", 41: "y"}}, logp=0.0)
    got = engine.generate([request(tokenizer, "a", 0, 41), request(tokenizer, "a", 1, 40)], SAMPLING)
    assert [tokenizer.decode(c.token_ids, skip_special_tokens=True) for c in got] == ["y", "x"]
    with pytest.raises(EngineError, match="no answer for seed 42"):
        engine.generate([request(tokenizer, "a", 0, 42)], SAMPLING)


def test_the_end_token_counts_against_the_limit(tokenizer: Any) -> None:
    engine = ScriptedEngine(tokenizer, {"a": ["xyz", "wxyz", ""]}, logp=0.0)
    got = engine.generate([request(tokenizer, "a", i) for i in range(3)], SAMPLING)
    assert [(len(c.token_ids), c.finish) for c in got] == [(4, "stop"), (4, "length"), (1, "stop")]
    end = tokenizer.eos_token_id
    assert [c.token_ids[-1] == end for c in got] == [True, False, True]


def test_nothing_is_invented(tokenizer: Any) -> None:
    engine = ScriptedEngine(tokenizer, {"a": ["x"]}, logp=0.0)
    with pytest.raises(EngineError, match="no answers for the prompt 'b'"):
        engine.generate([request(tokenizer, "b")], SAMPLING)
    with pytest.raises(EngineError, match="no answer for request 2 of the prompt 'a'"):
        engine.generate([request(tokenizer, "a"), request(tokenizer, "a")], SAMPLING)


def test_weights_leave_a_version_and_no_other_trace(tokenizer: Any, tmp_path: Path) -> None:
    engine = ScriptedEngine(tokenizer, {"a": ["x"]}, logp=-1.5)
    assert engine.generate([request(tokenizer, "a")], SAMPLING)[0].version == 0
    engine.load_weights(tmp_path / "nowhere", 3)
    engine.load_weights(tmp_path / "nowhere", 4)
    (after,) = engine.generate([request(tokenizer, "a")], SAMPLING)
    assert engine.versions == [3, 4]
    assert after.version == 4
    assert after.logp.tolist() == [-1.5, -1.5]  # which is what gives it away to the weight probe


def test_the_log_probability_has_to_be_said(tokenizer: Any) -> None:
    with pytest.raises(TypeError, match="logp"):
        ScriptedEngine(tokenizer, {})  # type: ignore[call-arg]


def test_a_closed_engine_answers_no_more(tokenizer: Any) -> None:
    engine = ScriptedEngine(tokenizer, {"a": ["x"]}, logp=0.0)
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.generate([request(tokenizer, "a")], SAMPLING)
