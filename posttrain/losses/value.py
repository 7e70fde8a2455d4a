"""What the critic learns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Gt

from posttrain.config.problems import Problem
from posttrain.config.registries import TERMS
from posttrain.lazy import torch
from posttrain.losses.api import Term, View
from posttrain.losses.policy import part_at
from posttrain.stats.columns import OLD_VALUE, VALUE, Need

if TYPE_CHECKING:
    from posttrain.config.recipe import Recipe


@TERMS.register("clipped_value")
@dataclass
class ClippedValue(Term):
    """PPO's value loss: max of (V - R)² and (clip(V, V_old ± clip) - R)², halved (2005.12729)."""

    clip: Annotated[float, Gt(0)] | None = 0.2
    """How far the value may move from the old one and still gain by it; null for no clip. verl's default is 0.5."""

    span = "token"

    @property
    def needs(self) -> frozenset[Need]:  # type: ignore[override]
        return frozenset({VALUE} if self.clip is None else {VALUE, OLD_VALUE})

    def __call__(self, t: View) -> torch.Tensor:
        value, returns = t[VALUE], t.actions.returns
        if returns is None:
            raise ValueError("clipped_value reads returns, and the rows have none: use the advantage gae")
        loss = (value - returns) ** 2
        if self.clip is not None:
            old = t[OLD_VALUE]
            near = (old + (value - old).clamp(-self.clip, self.clip) - returns) ** 2
            t.track("clipped", ((value - old).abs() > self.clip).logical_and(near > loss).detach())
            loss = torch.maximum(loss, near)
        return 0.5 * loss

    def conflicts(self, at: str, recipe: Recipe) -> Iterator[Problem]:
        if "values" not in getattr(recipe.advantage, "needs", ()):  # an advantage that reads nothing may leave it out
            yield Problem(
                (at, "advantage"),
                f"this term teaches the critic its returns, and the advantage {type(recipe.advantage).__name__} makes "
                "none. Set advantage: gae, or remove this part.",
            )
        key, part = part_at(at, recipe)
        if without := [row for row in part.rows if row in ("expert", "aux")]:
            rest = [row for row in part.rows if row not in without] or ["policy"]
            yield Problem(
                (f"{key}.rows", at),
                f"this term teaches the critic the returns of its rows, and {' and '.join(without)} rows have none: they "
                "belong to no group, and the critic would learn 0 on them, also where they are right. Set "
                f"{key}.rows=[{', '.join(rest)}].",
            )
