"""Weights, bounds and gates of rewards in a recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from posttrain.config.errors import ConfigError
from posttrain.config.load import load_recipe
from posttrain.config.meanings import meaning

TWO = "extends: quickstart\nreward:\n  shape: {use: format, tags: [think], weight: 0.5}\n"


def recipe(tmp_path: Path, text: str = TWO) -> Path:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    return path


def test_all_of_them_together_survive_being_written(tmp_path: Path) -> None:
    settings = [
        "schedules.mu={use: linear, start: 1, end: 0, steps: 10}",
        "reward.shape.weight=mu",
        "reward.correct.weight={use: one_minus, of: mu}",
        "reward.shape.clip=[-1, 0.5]",
        "reward.shape.only_if=correct",
    ]
    loaded = load_recipe(recipe(tmp_path), settings)
    shape = loaded.recipe.reward["shape"]
    assert (shape.weight(0), shape.weight(5), shape.clip, shape.only_if) == (1.0, 0.5, (-1.0, 0.5), "correct")
    assert loaded.recipe.reward["correct"].weight(5) == 0.5
    again = tmp_path / "resolved.yaml"
    again.write_text(loaded.yaml())
    assert load_recipe(again).resolved == loaded.resolved
    assert "clip" not in loaded.resolved["reward"]["correct"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["reward.shape.only_if=corect"],
            "reward.shape.only_if: no reward is called 'corect'. There are correct. Did you mean",
        ),
        (["reward.shape.only_if=shape"], "reward.shape.only_if: shape only if shape: the gates lead back"),
        (["reward.shape.only_if=correct", "reward.correct.only_if=shape"], "correct only if shape only if correct"),
        (["reward.shape.clip=[1, 0]"], "reward.shape.clip: [1, 0] leaves one value at most"),
        (["reward.shape.clip=[0, .inf]"], "reward.shape.clip"),
        (["reward.shape.clip=[1]"], "reward.shape.clip"),
        (["reward.shape.weight=.nan"], "reward.shape.weight: the weight at step 0 is nan"),
        (["reward.shape.weight=mu"], "reward.shape.weight: "),
    ],
)
def test_what_cannot_be_is_named(tmp_path: Path, settings: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_recipe(recipe(tmp_path), settings)
    assert message in str(error.value)
    assert len(str(error.value).splitlines()) == 1


GUARD = "extends: quickstart\nreward:\n  honest: {use: hacking, several_boxes: zero}\n"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["reward.honest.weight=0.5"], "reward.honest.weight: honest is a guard: it adds nothing to the reward"),
        (["reward.honest.clip=[0, 1]"], "reward.honest.clip: honest is a guard"),
        (["reward.honest.only_if=correct"], "reward.honest.only_if: honest is a guard"),
        (["reward.correct=null"], "reward: there are guards alone (honest)"),
        (["reward.honest=null", "reward.correct=null"], "reward: is empty, and one part is needed at least"),
        (["scoring.memory_mb=10"], "scoring.memory_mb: should be greater than or equal to 64; got 10"),
    ],
)
def test_a_guard_has_no_weight_and_is_not_alone(tmp_path: Path, settings: list[str], message: str) -> None:
    load_recipe(recipe(tmp_path, GUARD))
    with pytest.raises(ConfigError) as error:
        load_recipe(recipe(tmp_path, GUARD), settings)
    assert message in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["tokens", "completion", "completions", "prompt", "prompts"])
def test_a_column_may_not_have_the_name_of_what_rewards_are_told(tmp_path: Path, name: str) -> None:
    own = f"task={{use: dataset, path: x.jsonl, columns: [{name}]}}"
    with pytest.raises(ConfigError, match=rf"task\.columns: rewards are told under '{name}' .* such as own_{name}\."):
        load_recipe(recipe(tmp_path), [own])


def test_they_are_explained(tmp_path: Path) -> None:
    loaded = load_recipe(recipe(tmp_path), ["reward.shape.clip=[0, 1]", "reward.shape.only_if=correct"])
    assert meaning(loaded.recipe, "reward.shape.clip").startswith("[lowest, highest] value that enters the sum")
    assert meaning(loaded.recipe, "reward.shape.only_if").startswith("Name of another reward")
    assert "schedule over the steps" in meaning(loaded.recipe, "reward.shape.weight")
    assert meaning(loaded.recipe, "reward.shape.tags").startswith("Names of tags")
