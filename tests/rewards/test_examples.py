"""Every registered reward judges its own examples as it says it does."""

from __future__ import annotations

import pytest

from posttrain.config.registries import REWARDS
from posttrain.scoring.api import judge

# settings of the rewards that have no defaults for all of them
SETTINGS = {"format": {"tags": ["think", "answer"]}}


@pytest.mark.parametrize("name", REWARDS.names())
def test_a_reward_judges_its_examples_as_it_says(name: str) -> None:
    reward = REWARDS.build({"use": name, **SETTINGS.get(name, {})}, at="reward")
    examples = list(reward.examples())
    assert {expected for _, _, expected in examples} >= {0.0, 1.0}, "one right and one wrong example at least"
    for completion, prompt, expected in examples:
        assert judge(reward, completion, prompt).value == expected, completion[:80]
