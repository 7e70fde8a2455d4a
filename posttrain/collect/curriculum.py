"""Which prompts a step trains on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from posttrain.config.errors import ConfigError
from posttrain.config.registries import CURRICULA
from posttrain.data.types import Group, Prompt


@CURRICULA.register("shuffled")
@dataclass
class Shuffled:
    """Every prompt once an epoch, in an order that depends on the seed and the epoch alone."""

    position: int = field(default=0, init=False)  # prompts handed out since the first step
    prompts: Sequence[Prompt] = field(default=(), init=False, repr=False)
    seed: int = field(default=0, init=False)
    _order: tuple[int, np.ndarray] | None = field(default=None, init=False, repr=False)  # of the epoch in use

    def start(self, prompts: Sequence[Prompt], seed: int) -> None:
        self.prompts, self.seed, self._order = prompts, seed, None

    def next(self, n: int) -> list[Prompt]:
        out = [self._at(self.position + i) for i in range(n)]
        self.position += n
        return out

    def observe(self, groups: Sequence[Group]) -> None:
        return None

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position, "prompts": len(self.prompts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["prompts"] != len(self.prompts):
            raise ConfigError(
                f"the checkpoint was made on {state['prompts']} training prompts, the task now has {len(self.prompts)}: "
                "the order of prompts cannot be continued. Resume with the same data, or start a new run."
            )
        self.position = state["position"]

    def _at(self, position: int) -> Prompt:
        epoch, place = divmod(position, len(self.prompts))
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, np.random.default_rng([self.seed, epoch]).permutation(len(self.prompts)))
        return self.prompts[int(self._order[1][place])]
