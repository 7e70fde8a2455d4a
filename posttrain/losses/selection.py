"""Which tokens are worth a gradient, by how much they are rewarded and how open they were."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from posttrain.config.problems import Problem
from posttrain.config.registries import GATES
from posttrain.config.schedules import Constant, Schedule
from posttrain.lazy import torch
from posttrain.losses.api import Gate, View
from posttrain.losses.covariance import largest
from posttrain.losses.policy import needs_advantage, token_choice
from posttrain.stats.columns import Need
from posttrain.stats.vocab import Entropy

if TYPE_CHECKING:
    from posttrain.config.recipe import Recipe

ENTROPY = Need("live", Entropy())  # of the policy before the update: the gate is evaluated at step scope


@GATES.register("informative_tokens")
@dataclass
class InformativeTokens(Gate):
    """Only the tokens with the largest |A| H, H their entropy before the update (D3S, 2509.22115).

    Exactly that share of them, rounded down and at least one; ties by lot over rows, by position within a response. The
    advantages stay what they are. A surrogate whose ratio belongs to the whole response (level: sequence) reaches the
    dropped tokens too, through the ratio; level: sequence_token does not.
    """

    fraction: Schedule = Constant(0.5)
    """The share of tokens that is kept: a number, or a schedule over the steps."""
    within: Literal["rows", "sequence"] = "rows"
    """Of all rows of all ranks, or of every response. Which one the paper means is reconstructed."""
    needs = frozenset({ENTROPY})

    def __call__(self, t: View) -> torch.Tensor:
        score = t.advantage.abs() * t[ENTROPY].detach()
        share = min(self.fraction(t.step) * (1 + 1e-9), 1.0)  # 0.29 of 100 tokens are 29, not 28.999
        kept = largest(t, score, share) if self.within == "rows" else t.top(score, share, "sequence")
        t.spread("informative_tokens/score", score)
        t.track("informative_tokens/kept", kept)
        return kept.to(score.dtype)

    def conflicts(self, at: str, recipe: Recipe) -> Iterator[Problem]:
        yield from token_choice("informative_tokens", at, recipe)
        yield from needs_advantage("informative_tokens", at, recipe)
        for step in (0, recipe.steps - 1):
            share = self.fraction(step)
            if not 0 < share <= 1:
                yield Problem(
                    (f"{at}.fraction",),
                    f"fraction is {share:g} at step {step + 1}, and it is a share of the tokens: above 0, at most 1. "
                    "Set fraction=0.5, or a schedule that stays within.",
                )
                return
