"""Rows beside the step's groups, with a loss part of their own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from annotated_types import Ge, Gt, Le

from posttrain.collect.api import Mix, Sample
from posttrain.config.problems import Problem
from posttrain.config.registries import MIXES
from posttrain.data.types import Group, Origin, Prompt, Rollout

if TYPE_CHECKING:
    from posttrain.config.recipe import Recipe


@MIXES.register("entropy_control")
@dataclass
class EntropyControl:
    """AEPO (2510.08141, since its seventh version SCOPE-RL): what is right at another temperature steers the entropy.

    Some of the step's prompts are sampled again at a temperature above the main one while the policy's entropy is below
    `target`, and under it while it is above. The correct answers become auxiliary rows, trained with advantage 1 under
    the main temperature (eq. 11): 1/G' sum over all G' answers of 1[correct] times the clipped ratio. Rows of wrong
    answers would add 0, so there are none, and the others carry the share of correct ones.
    """

    target: Annotated[float, Ge(0)] = 0.5
    """The entropy sought, in nats. The paper tries .25, .5 and .75; .5 is best in its seventh version, .75 in the first."""
    law: Literal["proportional", "two"] = "proportional"
    """proportional: T = clip(1 + target - entropy, low, high), version 7; two: high up to the target, else low, version 1."""
    low: Annotated[float, Gt(0)] = 0.8
    """Least temperature, as a factor of sampling.temperature."""
    high: Annotated[float, Gt(0)] = 1.2
    """Largest temperature, as a factor of sampling.temperature."""
    share: Annotated[float, Gt(0), Le(1)] = 0.25
    """Share of the step's prompts that are sampled again, at least one. A quarter in the authors' first code."""
    mixed_only: bool = False
    """Only correct answers of prompts that were also answered wrongly, as in the authors' first code."""
    entropy: float | None = field(default=None, init=False)  # of the last step's main rows, before its update
    report: dict[str, float] = field(default_factory=dict, init=False)
    origin: ClassVar[Origin] = Origin.AUX

    def start(
        self, prompts: Sequence[Prompt], messages: Any, render: Any, seed: int, heldout: Sequence[Prompt] = ()
    ) -> None:
        """It needs nothing of the task."""

    def rows(self, groups: Sequence[Group], sample: Sample, step: int) -> list[Rollout]:
        """This step's auxiliary rows. Before the first entropy is known, the temperature is the main one."""
        groups = [
            g for g in groups if all(r.origin == Origin.POLICY for r in g.rollouts)
        ]  # under no hint that is not learned
        if not groups:
            return []
        main = groups[0].rollouts[0].temperature if groups[0].rollouts else 1.0
        factor = self.factor()
        prompts = [g.prompt for g in groups[: max(1, round(self.share * len(groups)))]]
        again = sample(prompts, origin=self.origin, temperature=factor * main)
        rows = self.credit([replace(g, rollouts=_at(main, g)) for g in again])
        sampled = sum(len(g.rollouts) for g in again)
        self.report = {"aux/temperature": factor * main, "aux/rows": len(rows), "aux/kept": len(rows) / max(sampled, 1)}
        if self.entropy is not None:
            self.report["aux/entropy_gap"] = self.entropy - self.target
        return rows

    def factor(self) -> float:
        """What the main temperature is multiplied by."""
        if self.entropy is None:
            return 1.0
        if self.law == "two":
            return self.high if self.entropy <= self.target else self.low
        return min(max(1.0 + self.target - self.entropy, self.low), self.high)

    def credit(self, groups: Sequence[Group]) -> list[Rollout]:
        """The rows worth training on, with advantages; unjudged answers take no part."""
        judged = [[r for r in g.rollouts if r.score is not None and r.score.value is not None] for g in groups]
        everyone = [r for rows in judged for r in rows]
        if self.mixed_only:
            judged = [rows for rows in judged if not all(_correct(r) for r in rows)]
        right = [r for rows in judged for r in rows if _correct(r)]
        share = len(right) / max(len(everyone), 1)
        return [replace(r, advantage=np.full(len(r.response_ids), share)) for r in right]

    def observe(self, values: Mapping[str, float]) -> None:
        """The step's metrics, after its update."""
        self.entropy = values.get("policy/entropy", self.entropy)

    def state_dict(self) -> dict[str, Any]:
        return {"entropy": self.entropy}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.entropy = state["entropy"]

    def conflicts(self, at: str, recipe: Recipe) -> Iterator[Problem]:
        if self.low > self.high:
            yield Problem((f"{at}.low", f"{at}.high"), f"low={self.low} lies above high={self.high}. Exchange them.")
        if not any("aux" in part.rows for part in recipe.objective.values() if not part.off):
            yield Problem(
                (at, "objective"),
                "the auxiliary rows are sampled, and no part of the objective trains on them. Add one: "
                "objective: {aux: {rows: [aux], term: ppo_clip, reduce: seq_mean_token_mean, weight: 0.015625}}.",
            )


def started(
    mixes: Mapping[str, Mix],
    trained: Collection[Origin],
    start: Callable[[Mix], str | None],
    say: Callable[[str], None],
) -> dict[str, Mix]:
    """The mixes whose rows are trained on, ready for the first step. A part that is off needs no rows."""
    out = {name: mix for name, mix in mixes.items() if mix.origin in trained}
    for name, mix in out.items():
        if said := start(mix):
            say(f"mixes.{name}: {said}")
    return out


def _at(temperature: float, group: Group) -> tuple[Rollout, ...]:
    """Sampled at another temperature, scored and trained at the main one."""
    return tuple(replace(r, temperature=temperature) for r in group.rollouts)


def _correct(rollout: Rollout) -> bool:
    return rollout.score is not None and rollout.score.correct
