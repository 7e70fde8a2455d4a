"""Against the loss of entropy: the few tokens where log-probability and advantage vary together the most.

To first order a policy-gradient step lowers entropy by the covariance of log p and A (2505.22617); a token's share of it
is (log p - mean log p)(A - mean A). At step scope the means are over all rows of all ranks, of the policy before the
update; at micro scope, as in the authors' code, over a micro-batch, of the live policy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Gt, Le

from posttrain.config.problems import Problem
from posttrain.config.registries import GATES, TERMS
from posttrain.lazy import torch
from posttrain.losses.api import Gate, Term, View
from posttrain.losses.policy import PPOClip, beyond_clip, needs_advantage, part_at, token_choice
from posttrain.stats.columns import LOGP, OLD_LOGP

if TYPE_CHECKING:
    from posttrain.config.recipe import Recipe

Fraction = Annotated[float, Gt(0), Le(1)]
MOST = 0.05  # a larger share of tokens is taken for a number in percent


def covariance(t: View) -> torch.Tensor:
    """[A] the tokens' shares of the covariance of log p and A, without gradient."""
    logp, advantage = t.logp.detach(), t.advantage
    return (logp - t.everyone(logp).mean()) * (advantage - t.everyone(advantage).mean())


def largest(t: View, x: torch.Tensor, fraction: float) -> torch.Tensor:
    """[A] bool: of all tokens of all ranks exactly this share, at least one, with the largest x; ties by lot.

    Where x is -inf nothing is taken, even if there are too few others.
    """
    lot = t.noise()
    values, lots = t.everyone(x), t.everyone(lot)
    by_lot = lots.argsort(descending=True)
    order = by_lot[values[by_lot].argsort(descending=True, stable=True)]
    last = order[max(int(fraction * len(order)), 1) - 1]
    return ~x.isneginf() & ((x > values[last]) | ((x == values[last]) & (lot >= lots[last])))


@GATES.register("clip_cov")
@dataclass
class ClipCov(Gate):
    """Drops a few tokens, drawn by lot from those in a band of covariance (Clip-Cov, 2505.22617, eq. 11-12).

    They have no loss and stay in the denominator. The band is meant for advantages that are divided by their standard
    deviation; others need another band. Fewer than `fraction` are dropped where the band holds fewer.
    """

    fraction: Fraction = 2e-4
    """The share of all tokens that is dropped, at least one: 2e-4 is 0.02 %."""
    low: float = 1.0
    """Only tokens whose covariance lies above this."""
    high: float = 5.0
    """Only tokens whose covariance lies below this."""
    clip_low: Annotated[float, Ge(0), Le(1)] = 0.2
    """As the surrogate's low: tokens that it already clips are not drawn. At step scope it clips none yet."""
    clip_high: Annotated[float, Ge(0)] = 0.2
    """As the surrogate's high. The authors' scripts set 1 for both, verl's defaults are 0.2."""
    scope: Literal["step", "micro"] = "step"
    """step: over all rows of all ranks, before the update; micro: within a micro-batch, of the live policy (authors)."""
    needs = frozenset({LOGP, OLD_LOGP})

    def __call__(self, t: View) -> torch.Tensor:
        cov = covariance(t)
        log_ratio = t.logp.detach() - t.old_logp
        clipped = beyond_clip(log_ratio, t.advantage, self.clip_low, self.clip_high) & (t.advantage != 0)
        band = (cov > self.low) & (cov < self.high) & ~clipped
        dropped = largest(t, t.noise().masked_fill(~band, -torch.inf), self.fraction)
        t.spread("clip_cov/covariance", cov)
        t.track("clip_cov/candidates", band)
        t.track("clip_cov/kept", ~dropped)
        return (~dropped).to(cov.dtype)

    def conflicts(self, at: str, recipe: Recipe) -> Iterator[Problem]:
        yield from not_percent(at, self.fraction, MOST)
        yield from token_choice("clip_cov", at, recipe)
        yield from needs_advantage("clip_cov", at, recipe)
        if self.low >= self.high:
            yield Problem(
                (f"{at}.low", f"{at}.high"),
                f"low={self.low} is not below high={self.high}, so no token is ever dropped. Set low below high.",
            )
        key, part = part_at(at, recipe)
        term, own = part.term, (self.clip_low, self.clip_high)
        if self.scope == "micro" and isinstance(term, PPOClip) and own != (term.low, term.high):
            yield Problem(
                (f"{at}.clip_low", f"{at}.clip_high", f"{key}.term"),
                f"clip_low={self.clip_low} and clip_high={self.clip_high} are to tell which tokens the surrogate clips, "
                f"and it clips at low={term.low} and high={term.high}. Set clip_low={term.low} and "
                f"clip_high={term.high}.",
            )


@GATES.register("top_cov")
@dataclass
class TopCov(Gate):
    """Only the tokens with the largest covariance (KL-Cov, 2505.22617, eq. 13)."""

    fraction: Fraction = 2e-3
    """The share of all tokens that is kept, at least one: 2e-3 (7B in the paper) is 0.2 %; 2e-4 for 32B."""
    scope: Literal["step", "micro"] = "step"
    """step: over all rows of all ranks, before the update; micro: within a micro-batch, of the live policy (authors)."""
    needs = frozenset({LOGP})

    def __call__(self, t: View) -> torch.Tensor:
        cov = covariance(t)
        kept = largest(t, cov, self.fraction)
        t.spread("top_cov/covariance", cov)
        t.track("top_cov/kept", kept)
        return kept.to(cov.dtype)

    def conflicts(self, at: str, recipe: Recipe) -> Iterator[Problem]:
        yield from not_percent(at, self.fraction, MOST)
        yield from token_choice("top_cov", at, recipe)
        yield from needs_advantage("top_cov", at, recipe)


@TERMS.register("abs_log_ratio")
@dataclass
class AbsLogRatio(Term):
    """|log p - log p_old|: KL-Cov's penalty (2505.22617), whose paper writes KL(old || policy), as its code has it."""

    needs = frozenset({LOGP, OLD_LOGP})
    span = "token"

    def __call__(self, t: View) -> torch.Tensor:
        return (t.logp - t.old_logp).abs()

    def conflicts(self, at: str, recipe: Recipe) -> Iterator[Problem]:
        if recipe.batch.updates * recipe.batch.epochs == 1:
            yield Problem(
                (at, "batch.updates", "batch.epochs"),
                "abs_log_ratio does nothing with one update a step: then the policy is still the old one, and value and "
                "gradient are 0. Set batch.updates=8, as in the paper, or another number above 1, or batch.epochs.",
            )


def not_percent(at: str, fraction: float, most: float) -> Iterator[Problem]:
    """Refuses a share that is taken for a number in percent."""
    if fraction > most:
        yield Problem(
            (f"{at}.fraction",),
            f"fraction={fraction:g} is a share, {fraction:.0%} of all tokens. If it was meant in percent, as the authors' "
            f"k_percent, set fraction={fraction / 100:g}. Shares above {most:g} are refused, because they are nearly "
            "always that mistake.",
        )
