"""The hooks between prompts and rows. Host objects only; every rank runs them on the same inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

from posttrain.data.types import Group, Origin, Prompt, Rollout

# n -> the next n prompts. What it hands out is gone, whether or not it is trained on.
Draw = Callable[[int], list[Prompt]]


class CollectionFailed(RuntimeError):
    """A step's groups could not be brought together. The message has the counts and what to do about it."""


class Sample(Protocol):
    """Generate and score: the only door to engine and verifiers.

    Takes the same prompts on every rank and returns the same groups on every rank; inside, each engine does its share.
    The rows are trained under the prompts that sampled them, or under `train_under`, prompt by prompt.
    """

    def __call__(
        self,
        prompts: Sequence[Prompt],
        *,
        train_under: Sequence[Prompt] | None = None,
        origin: Origin = Origin.POLICY,
        temperature: float | None = None,
    ) -> list[Group]: ...

    def fits(self, prompt: Prompt) -> bool:
        """Whether the prompt leaves room for a completion. To sample one that does not is an error."""
        ...


class Curriculum(Protocol):
    """Which prompts come next. Whatever it remembers is in `state_dict`."""

    def start(self, prompts: Sequence[Prompt], seed: int) -> None: ...
    def next(self, n: int) -> list[Prompt]: ...
    def observe(self, groups: Sequence[Group]) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Strategy(Protocol):
    """How a step's prompts become groups: draws as many as it needs and returns `count` groups, or more where it makes
    further groups of the same prompts.

    `report` has the numbers of the last step for the log; `origins` says which kinds of rows it makes besides the
    policy's own, and may be left out where there are none.
    """

    report: dict[str, float]

    def collect(self, draw: Draw, count: int, sample: Sample, step: int) -> list[Group]: ...


class Shape(Protocol):
    """The same groups, with something added to the `token_reward` of every judged rollout.

    `needs` names what the learner has to measure first: "old_logp", "ref_logp", "values". A hook that reads none of
    these may leave it out.
    """

    @property
    def needs(self) -> frozenset[str]: ...

    def __call__(self, groups: Sequence[Group], step: int) -> list[Group]: ...


class Advantage(Protocol):
    """The same groups, with every judged rollout's advantage filled in and the unjudged rollouts left out.

    `needs` is as in `Shape`.
    """

    @property
    def needs(self) -> frozenset[str]: ...

    @property
    def min_samples(self) -> int:
        """Rollouts a prompt needs for the estimate to exist."""
        ...

    def __call__(self, groups: Sequence[Group]) -> list[Group]: ...


class Select(Protocol):
    """Drops rollouts or groups before training."""

    def __call__(self, groups: Sequence[Group], step: int) -> list[Group]: ...


@runtime_checkable
class Filter(Select, Protocol):
    """A select that keeps or drops whole groups, by their scores alone.

    Those that come before any other select are asked before the advantage: what they drop enters no mean over the step.
    """

    def keeps(self, group: Group) -> bool: ...


class Mix(Protocol):
    """Rows that no group of the step produced: control samples, demonstrations. They enter no baseline.

    `origin` is theirs; `report` has the numbers of the last step for the log.
    """

    origin: ClassVar[Origin]
    report: dict[str, float]

    def start(
        self,
        prompts: Sequence[Prompt],
        messages: Callable[[str], tuple[Mapping[str, str], ...]],
        render: Callable[[Sequence[Prompt]], list[Rollout]],
        seed: int,
        heldout: Sequence[Prompt],
    ) -> str | None:
        """Before the first step: the training prompts, how a problem becomes messages, how solutions become rows, and the
        held-out prompts, which nothing may be learned from. Returns what its user should know, if there is something."""
        ...

    def rows(self, groups: Sequence[Group], sample: Sample, step: int) -> list[Rollout]:
        """This step's rows, beside its groups, with advantages."""
        ...

    def credit(self, groups: Sequence[Group]) -> list[Rollout]:
        """Of scored groups of the mix's origin, the rows worth training on, with advantages."""
        ...

    def observe(self, values: Mapping[str, float]) -> None:
        """The step's metrics, after its update."""
        ...
