from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from posttrain.collect.strategy import Plain
from posttrain.data.types import Group, Prompt
from tests.row_samples import group, prompt


def test_plain_samples_every_prompt_once() -> None:
    asked: list[tuple[Sequence[Prompt], dict[str, Any]]] = []
    groups = [group([1.0, 0.0], "a"), group([0.0, 0.0], "b")]

    def sample(prompts: Sequence[Prompt], **settings: Any) -> list[Group]:
        asked.append((prompts, settings))
        return groups

    prompts = [prompt("a"), prompt("b")]
    assert Plain().collect(prompts, sample, step=4) is groups
    assert asked == [(prompts, {})]
