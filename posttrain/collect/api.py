"""The hooks between prompts and rows. Host objects only; every rank runs them on the same inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from posttrain.data.types import Group, Origin, Prompt


class Sample(Protocol):
    """Generate and score: the only door to engine and verifiers.

    Takes the same prompts on every rank and returns the same groups on every rank; inside, each engine does its share.
    """

    def __call__(
        self, prompts: Sequence[Prompt], *, origin: Origin = Origin.POLICY, temperature: float | None = None
    ) -> list[Group]: ...


class Curriculum(Protocol):
    """Which prompts come next. Whatever it remembers is in `state_dict`."""

    def start(self, prompts: Sequence[Prompt], seed: int) -> None: ...
    def next(self, n: int) -> list[Prompt]: ...
    def observe(self, groups: Sequence[Group]) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Strategy(Protocol):
    """How one batch of prompts becomes groups."""

    def collect(self, prompts: Sequence[Prompt], sample: Sample, step: int) -> list[Group]: ...


class Advantage(Protocol):
    """The same groups, with every judged rollout's advantage filled in and the unjudged rollouts left out."""

    min_samples: int  # rollouts a prompt needs for the estimate to exist

    def __call__(self, groups: Sequence[Group]) -> list[Group]: ...


class Select(Protocol):
    """Drops rollouts or groups before training."""

    def __call__(self, groups: Sequence[Group], step: int) -> list[Group]: ...
