from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posttrain.collect.experts import ExpertMix
from posttrain.collect.mix import started as mixes_of
from posttrain.config.errors import ConfigError
from posttrain.config.load import load_recipe
from posttrain.data.demonstrations import Renderer
from posttrain.data.types import Origin, Prompt, Rollout
from posttrain.learner.tiny import build_tokenizer
from posttrain.losses.build import objective_of
from tests.row_samples import prompt, row


def messages(text: str) -> tuple[dict[str, str], ...]:
    return ({"role": "user", "content": text},)


def solved(count: int) -> list[Prompt]:
    return [prompt(f"p{i}", f"{i}+1=", solution=str(i + 1)) for i in range(count)]


def render(prompts: Sequence[Prompt]) -> list[Rollout]:
    return [row(text=p.id, origin=Origin.EXPERT) for p in prompts]


def started(prompts: Sequence[Prompt], seed: int = 0, **settings: Any) -> ExpertMix:
    mix = ExpertMix(**settings)
    mix.start(prompts, messages, render, seed)
    return mix


def names(mix: ExpertMix, steps: int) -> list[list[str]]:
    return [[r.text for r in mix.rows([], None, step)] for step in range(steps)]  # type: ignore[arg-type]


def test_every_demonstration_comes_once_an_epoch() -> None:
    first, second, third = names(started(solved(6), count=4), 3)
    assert sorted([*first, *second[:2]]) == [f"p{i}" for i in range(6)]
    assert sorted([*second[2:], *third]) == [f"p{i}" for i in range(6)]


def test_problems_without_a_solution_are_no_demonstrations() -> None:
    mix = started([*solved(2), prompt("bare")], count=2)
    assert sorted(names(mix, 1)[0]) == ["p0", "p1"]


def test_they_come_from_a_file_if_one_is_named(tmp_path: Path) -> None:
    file = tmp_path / "demos.jsonl"
    lines = [{"question": f"{i}?", "worked": f"it is {i}"} for i in range(3)]
    file.write_text("".join(json.dumps(x) + "\n" for x in lines))
    mix = started([], count=3, path=str(file), problem="question", solution="worked")
    assert [p.solution for p in mix.demonstrations] == ["it is 0", "it is 1", "it is 2"]
    assert [p.messages[-1]["content"] for p in mix.demonstrations] == ["0?", "1?", "2?"]


def demos(folder: Path, problems: Sequence[str]) -> str:
    file = folder / "demos.jsonl"
    file.write_text("".join(json.dumps({"problem": x, "solution": f"that of {x}"}) + "\n" for x in problems))
    return str(file)


def test_solutions_of_held_out_problems_are_left_out_and_counted(tmp_path: Path) -> None:
    mix = ExpertMix(count=4, path=demos(tmp_path, ["1+1=", "2+2=", "3+3=\n"]))
    said = mix.start([], messages, render, 0, [prompt("h", "2+2="), prompt("i", "3+3="), prompt("j", "4+4=")])
    assert said == "2 of 3 demonstrations are of held-out problems, and left out"
    assert [p.messages[-1]["content"] for p in mix.demonstrations] == ["1+1="]
    names(mix, 1)
    assert mix.report == {"expert/rows": 4, "expert/too_long": 0, "expert/held_out": 2}


def test_a_file_without_held_out_problems_is_whole_and_one_of_them_alone_is_told(tmp_path: Path) -> None:
    mix = ExpertMix(path=demos(tmp_path, ["1+1=", "2+2="]))
    assert mix.start([], messages, render, 0, [prompt("h", "3+3=")]) is None
    assert len(mix.demonstrations) == 2
    with pytest.raises(ValueError, match=r"all 2 demonstrations of path=.* held-out problems.* task\.heldout_path"):
        mix.start([], messages, render, 0, [prompt("h", "1+1="), prompt("i", "2+2=")])


def test_a_run_says_what_was_left_out(tmp_path: Path) -> None:
    recipe = load_recipe("debug/chord_mu", [f"mixes.expert.path={demos(tmp_path, ['1+1=', '2+2='])}"]).recipe
    said: list[str] = []
    heldout = [prompt("h", "2+2=")]
    mixes = mixes_of(
        recipe.mixes, {Origin.EXPERT}, lambda mix: mix.start([], messages, render, 0, heldout), said.append
    )
    assert list(mixes) == ["expert"]
    assert said == ["mixes.expert: 1 of 2 demonstrations are of held-out problems, and left out"]


def test_mu_0_needs_no_demonstrations() -> None:
    """It loads, and rows that no part trains on are never made."""
    recipe = load_recipe("debug/chord_mu", ["schedules={mu: 0.0}"]).recipe
    trained = {origin for part in objective_of(recipe).parts.values() for origin in part.rows}
    asked: list[Any] = []
    assert "expert" in recipe.mixes
    assert mixes_of(recipe.mixes, trained, asked.append, asked.append) == {}
    assert not asked
    with pytest.raises(ConfigError, match="no part of the objective trains on them"):
        load_recipe("debug/chord_mu", ["objective.expert=null"])


def test_nothing_to_learn_from_is_told() -> None:
    with pytest.raises(ValueError, match=r"expert_mix: the task's problems have no solutions .* task\.solution"):
        started([prompt("bare")])


def test_demonstrations_that_never_fit_are_told() -> None:
    mix = ExpertMix()
    with pytest.raises(ValueError, match="none of the first 64 demonstrations fits"):
        mix.start(solved(3), messages, lambda prompts: [], 0)


def test_it_goes_on_after_a_resume() -> None:
    old, new = started(solved(7), count=3), started(solved(7), count=3)
    names(old, 4)
    new.load_state_dict(json.loads(json.dumps(old.state_dict())))
    assert names(new, 5) == names(old, 5)
    with pytest.raises(ValueError, match="Resume with the same file"):
        started(solved(8)).load_state_dict(old.state_dict())


# ---- as tokens ----
def test_a_row_is_prompt_solution_and_end_token() -> None:
    tokenizer = build_tokenizer("plain")
    (made,) = Renderer(tokenizer, 64)([prompt("p", "1+2=", solution="3")])
    head = tokenizer.apply_chat_template(
        [{"role": "user", "content": "1+2="}], add_generation_prompt=True, return_dict=False
    )
    assert made.prompt_ids.tolist() == list(head)
    assert made.response_ids.tolist() == [
        *tokenizer("3", add_special_tokens=False)["input_ids"],
        tokenizer.eos_token_id,
    ]
    assert made.origin == Origin.EXPERT
    assert not made.sampler_logp.any()
    assert made.advantage is None


def test_what_does_not_fit_is_left_out() -> None:
    tokenizer = build_tokenizer("plain")
    rows = Renderer(tokenizer, 12)([prompt("a", "1+2=", solution="3"), prompt("b", "1+2=", solution="3" * 40)])
    assert [r.text for r in rows] == ["3"]
    assert all(len(r.prompt_ids) + len(r.response_ids) <= 12 for r in rows)
    assert np.issubdtype(rows[0].response_ids.dtype, np.integer)
