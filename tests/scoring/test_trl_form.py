"""A function with TRL's documented signature runs unchanged, and sees what TRL would show it."""

from __future__ import annotations

import os
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posttrain.config.registries import REWARDS
from posttrain.data.facts import with_facts
from posttrain.data.types import Prompt, Score
from posttrain.scoring.api import columns_of, judge, judge_all, waits
from posttrain.scoring.scorer import Scorer

DOCUMENTED = """
def reward_func(prompts, completions, completion_ids, trainer_state, log_extra, log_metric, answer, **kwargs):
    log_extra("asked", prompts)
    log_metric("step", trainer_state.global_step / trainer_state.max_steps)
    log_metric("tokens", len(completion_ids[0]))
    assert kwargs["unit"] == ["cm"] and kwargs["truncated"] == [False]
    return [1.0 if c == a else None for c, a in zip(completions, answer)]
"""
IDS_ALONE = """
def soft_overlong(completion_ids, **kwargs):
    return [-1.0 if len(ids) > 2 else 0.0 for ids in completion_ids]
"""
ASYNC = """
import asyncio

async def reward_func(completions, **kwargs):
    await asyncio.sleep(0)
    return [float(len(c)) for c in completions]
"""
PER_SAMPLE = """
def score(completion: str, tokens: int, truncated: bool, training_step: int, **columns) -> float:
    return 0.0 if truncated else float(tokens + training_step)
"""


def build(folder: Path, text: str) -> Any:
    (folder / "their_reward.py").write_text(textwrap.dedent(text))
    return REWARDS.build(str(folder / "their_reward.py"), "reward")


def asked(tokens: int = 3, truncated: bool = False, step: int | None = 5) -> Prompt:
    messages = ({"role": "user", "content": "q"},)
    plain = Prompt(id="p", source="t", messages=messages, answer="7", columns={"unit": "cm"})
    return with_facts(plain, np.arange(tokens), truncated, step)


def test_the_documented_signature(tmp_path: Path) -> None:
    reward = build(tmp_path, DOCUMENTED)
    score = judge_all({"theirs": (reward, 1.0)}, "7", asked(), steps=20)
    assert (score.value, score.correct, score.detail) == (1.0, True, "asked: q")
    assert score.parts == {"theirs": 1.0, "theirs/step": 0.25, "theirs/tokens": 3.0}
    assert judge_all({"theirs": (reward, 1.0)}, "8", asked(), steps=20).status == "skipped"


def test_a_function_of_token_ids_alone(tmp_path: Path) -> None:
    reward = build(tmp_path, IDS_ALONE)
    assert [judge(reward, "x", asked(n)).value for n in (2, 3)] == [0.0, -1.0]


def test_an_async_one(tmp_path: Path) -> None:
    assert judge(build(tmp_path, ASYNC), "abc", asked()).value == 3.0


def test_the_form_for_one_sample_is_told_the_same(tmp_path: Path) -> None:
    reward = build(tmp_path, PER_SAMPLE)
    assert [judge(reward, "x", asked(truncated=cut)).value for cut in (False, True)] == [8.0, 0.0]
    without = judge(reward, "x", Prompt(id="p", source="t", messages=(), answer="7"))
    assert (without.status, "tokens" in without.detail) == ("error", True)


def test_functions_that_come_with_trl(tmp_path: Path) -> None:
    """Theirs, where trl is installed."""
    rewards = pytest.importorskip("trl.rewards")
    theirs = build(
        tmp_path,
        "from trl.rewards import think_format_reward\ndef f(completions, **k):\n    return think_format_reward(completions)\n",
    )
    assert callable(rewards.think_format_reward)
    score: Score = judge(
        REWARDS.build({"use": str(tmp_path / "their_reward.py"), "chat": True}, "r"), "<think>a</think>b", asked()
    )
    assert score.value == 1.0
    assert theirs is not None


def test_no_column_of_the_data_takes_the_place_of_the_models_text(tmp_path: Path) -> None:
    columns = dict.fromkeys(("completion", "completions", "prompt", "prompts"), "the data's")
    about = Prompt(id="p", source="t", messages=(), answer="7", columns=columns)
    one = build(tmp_path, "def score(completion, prompt): return float(completion == prompt.answer)")
    assert [judge(one, text, about).value for text in ("7", "8")] == [1.0, 0.0]
    (tmp_path / "batch.py").write_text(
        "def f(completions, prompts): return [float(completions + prompts == ['7', 'q'])]"
    )
    about = replace(about, messages=({"role": "user", "content": "q"},))
    batch = REWARDS.build(str(tmp_path / "batch.py"), "reward")
    assert [judge(batch, text, about).value for text in ("7", "8")] == [1.0, 0.0]


def test_a_column_of_the_data_is_not_hidden_by_an_empty_field(tmp_path: Path) -> None:
    columns = {"solution": "by hand", "source": ["a", "b"], "level": "Level 5", "answer": "other", "id": 3}
    prompt = Prompt(id="p", source="t", messages=(), answer="7", columns=columns)
    told = columns_of(prompt)
    assert told == {"solution": "by hand", "source": ["a", "b"], "level": "Level 5", "answer": "7", "id": "p"}
    assert columns_of(replace(prompt, solution="s", columns={})) == {
        "solution": "s", "source": "t", "answer": "7", "id": "p",
    }  # fmt: skip


def test_token_ids_that_nobody_has_are_not_made_up(tmp_path: Path) -> None:
    plain = Prompt(id="p", source="t", messages=(), answer="7")
    score = judge(build(tmp_path, IDS_ALONE), "x", plain)
    assert (score.status, "completion_ids" in score.detail) == ("error", True)


LOOP = """
import asyncio, os

loops = []

async def score(completion, **columns):
    loops.append(asyncio.get_running_loop())
    return float(loops[0] is loops[-1] and not loops[0].is_closed())
"""


def test_samples_of_a_process_share_one_event_loop_and_a_fork_has_its_own(tmp_path: Path) -> None:
    reward = build(tmp_path, LOOP)
    assert [judge(reward, "x", asked()).value for _ in range(3)] == [1.0] * 3
    assert judge(build(tmp_path, ASYNC.replace("return", "raise SystemExit(3)\n    return")), "x", asked()).value == 1.0
    child = os.fork()
    if child == 0:
        os._exit(int(judge(reward, "x", asked()).value == 0.0))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


def test_workers_judge_with_a_client_that_a_module_keeps(tmp_path: Path) -> None:
    """As httpx.AsyncClient does, a lock or an event is of the loop in which it was first waited for."""
    (tmp_path / "client.py").write_text(
        "import asyncio\nEVENT = asyncio.Event()\nasync def score(completion, **columns):\n"
        "    asyncio.get_running_loop().call_soon(EVENT.set)\n    await EVENT.wait()\n    EVENT.clear()\n    return 1.0\n"
    )
    reward = REWARDS.build(str(tmp_path / "client.py"), "reward")
    assert waits(reward)  # no worker is forked from one that has connections open
    with Scorer({"client": (reward, 1.0)}) as scorer:
        scores = scorer.score([("x", asked())] * 4)
    assert [(score.value, score.detail) for score in scores] == [(1.0, "")] * 4
