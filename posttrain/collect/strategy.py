"""How a batch of prompts becomes groups of scored rollouts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from posttrain.collect.api import Sample
from posttrain.config.registries import STRATEGIES
from posttrain.data.types import Group, Prompt


@STRATEGIES.register("plain")
@dataclass
class Plain:
    """Every prompt once, `batch.samples` completions each."""

    def collect(self, prompts: Sequence[Prompt], sample: Sample, step: int) -> list[Group]:
        return sample(prompts)
