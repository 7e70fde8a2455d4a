"""Policy-gradient surrogates."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Gt, Le

from posttrain.config.problems import Problem
from posttrain.config.registries import TERMS
from posttrain.lazy import torch
from posttrain.losses.api import Span, Term, View
from posttrain.stats.columns import LOGP, OLD_LOGP, Need

if TYPE_CHECKING:
    from posttrain.config.recipe import LossPart, Recipe

LIMIT, SEQUENCE_LIMIT = 20.0, 10.0  # a log-ratio beyond these is held there: its exponential must stay finite

Behaviour = Literal["old", "sampler"]


def clipped(
    log_ratio: torch.Tensor,
    advantage: torch.Tensor,
    low: float,
    high: float,
    dual: float | None = None,
    cap: float | None = None,
) -> torch.Tensor:
    """max(-A r, -A clip(r, 1 - low, 1 + high)) with r = exp(log_ratio); [A] -> [A].

    `cap` holds r in the first of the two; `dual` is the most that -r may be multiplied by where A < 0.
    """
    ratio = log_ratio.clamp(-LIMIT, LIMIT).exp()
    free = ratio if cap is None else ratio.clamp(max=cap)
    loss = torch.maximum(-advantage * free, -advantage * ratio.clamp(1 - low, 1 + high))
    return loss if dual is None else torch.where(advantage < 0, loss.minimum(-advantage * dual), loss)


def beyond_clip(log_ratio: torch.Tensor, advantage: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """[A] bool: where the clipped surrogate has no gradient."""
    below = log_ratio < math.log1p(-low) if low < 1 else torch.zeros_like(log_ratio, dtype=torch.bool)
    return torch.where(advantage > 0, log_ratio > math.log1p(high), below)


def behaviour_logp(t: View, behaviour: Behaviour) -> torch.Tensor:
    """What a ratio is taken against: the learner before its first update, or the engine that sampled."""
    return t.old_logp if behaviour == "old" else t.sampler_logp


def watch_ratio(t: View, token: torch.Tensor, used: torch.Tensor, limit: float = LIMIT) -> None:
    """Logs the ratio that is used before anything holds it, how much of it is held, and k3 of the tokens."""
    token, used = token.detach().clamp(-LIMIT, LIMIT), used.detach()
    t.spread("ratio", used.clamp(-limit, limit).exp())
    t.track("saturated", used.abs() > limit)
    t.track("approx_kl", token.exp() - token - 1)


def part_at(at: str, recipe: Recipe) -> tuple[str, LossPart]:
    """The dotted key and the part of the objective that the component at `at` belongs to."""
    name = at.split(".")[1]
    return f"objective.{name}", recipe.objective[name]


def needs_sampler(what: str, at: str, recipe: Recipe) -> Iterator[Problem]:
    """Rows that somebody else wrote were not sampled, so nothing can be compared with the sampler."""
    key, part = part_at(at, recipe)
    if "expert" in part.rows:
        yield Problem(
            (f"{key}.rows", at),
            f"{what} compares with the log-probabilities of the engine, and expert rows have none. "
            f"Remove expert from {key}.rows and give the expert rows a part of their own, with the term nll.",
        )


def own_rows(what: str, at: str, recipe: Recipe) -> Iterator[Problem]:
    """A surrogate on rows that the policy did not sample under the prompt they are trained under."""
    key, part = part_at(at, recipe)
    if "hinted" in part.rows:
        yield Problem(
            (f"{key}.rows", at),
            f"{what} takes its rows for the policy's own, and hinted rows were sampled under another prompt. Set "
            f"{key}.term=guide, or remove hinted from {key}.rows and give those rows a part with the term guide.",
        )
    if "expert" in part.rows:
        yield Problem(
            (f"{key}.rows", at),
            f"{what} learns from advantages, and expert rows have none: they belong to no group. Remove expert from "
            f"{key}.rows and give the expert rows a part of their own, with the term nll.",
        )


def needs_advantage(what: str, at: str, recipe: Recipe) -> Iterator[Problem]:
    """A gate that chooses by advantages, on rows that have none."""
    key, part = part_at(at, recipe)
    if "expert" in part.rows:
        others = ", ".join(row for row in part.rows if row != "expert")
        do = (
            f"Set {key}.rows=[{others}] and give the expert rows a part of their own, without it"
            if others
            else f"Remove the gate from {key}.gates, or choose by entropy alone, with high_entropy"
        )
        yield Problem(
            (at, f"{key}.rows"),
            f"{what} chooses by advantages, and expert rows have none: theirs would count as 0, so the choice would be by "
            f"lot, or none. {do}.",
        )


def token_choice(what: str, at: str, recipe: Recipe) -> Iterator[Problem]:
    """The conflict of a gate that chooses tokens with a ratio that is the whole response's."""
    key, part = part_at(at, recipe)
    if isinstance(part.term, PPOClip) and part.term.level == "sequence":
        yield Problem(
            (at, f"{key}.term.level"),
            f"{what} chooses tokens, and with level: sequence the ratio has the gradient of all tokens of the response, also "
            f"of those that are left out. Set {key}.term.level=sequence_token, or remove the gate.",
        )


@TERMS.register("ppo_clip")
@dataclass
class PPOClip(Term):
    """PPO's clipped surrogate (1707.06347, eq. 7), as GRPO uses it (2402.03300, eq. 3).

    `level: sequence` is GSPO (2507.18071) and `sequence_token` its token form GSPO-token; `high` above `low` is DAPO's
    clip-higher (2503.14476). A log-ratio beyond ±20 (±10 of a sequence) is held there, has no gradient, and is
    counted as saturated.
    """

    low: Annotated[float, Ge(0), Le(1)] = 0.2
    """The ratio is held at 1 - low from below where A < 0; 1 for no bound."""
    high: Annotated[float, Ge(0)] = 0.2
    """The ratio is held at 1 + high from above where A > 0."""
    level: Literal["token", "sequence", "sequence_token"] = "token"
    """What the ratio is of: the token, or the geometric mean over the sequence."""
    dual: Annotated[float, Gt(1)] | None = None
    """Dual clip (1912.09729): where A < 0 the loss is at most -A dual. The paper and verl set 3."""
    cap: Annotated[float, Gt(1)] | None = None
    """Two-sided clip (INTELLECT-2, 2505.07291): the unclipped ratio is at most cap. The paper sets 4; TRL's `delta`."""
    behaviour: Behaviour = "old"
    """What the ratio is against: the learner before the update, or the engine (then there is no old pass)."""

    @property
    def needs(self) -> frozenset[Need]:  # type: ignore[override]
        return frozenset({LOGP, OLD_LOGP}) if self.behaviour == "old" else frozenset({LOGP})

    @property
    def span(self) -> Span:  # type: ignore[override]
        return "token" if self.level == "token" else "sequence"

    def __call__(self, t: View) -> torch.Tensor:
        token = t.logp - behaviour_logp(t, self.behaviour)
        limit = LIMIT if self.level == "token" else SEQUENCE_LIMIT
        free = token if self.level == "token" else t.mean(token)
        watch_ratio(t, token, free, limit)
        log_ratio = free.clamp(-limit, limit)
        if self.level == "sequence_token":  # the sequence's ratio in value, the token's in gradient
            log_ratio = t.logp - t.logp.detach() + log_ratio.detach()
        self._watch_clip(t, log_ratio.detach())
        return clipped(log_ratio, t.advantage, self.low, self.high, self.dual, self.cap)

    def _watch_clip(self, t: View, log_ratio: torch.Tensor) -> None:
        beyond = beyond_clip(log_ratio, t.advantage, self.low, self.high)
        t.track("clipped_low", beyond & (t.advantage < 0))
        t.track("clipped_high", beyond & (t.advantage > 0))
        tops = [x for x in (self.dual, self.cap) if x is not None]
        if tops:
            t.track("capped", (t.advantage < 0) & (log_ratio > math.log(min(tops))))

    def conflicts(self, at: str, recipe: Recipe) -> Iterator[Problem]:
        key, part = part_at(at, recipe)
        if self.level != "token" and part.reduce != "seq_mean_token_mean":
            yield Problem(
                (f"{key}.reduce", f"{at}.level"),
                f"level: {self.level} gives every token of a sequence the same ratio, and reduce: {part.reduce} would "
                "weigh long sequences by their length. Set reduce: seq_mean_token_mean, or level: token.",
            )
        for name, top in (("dual", self.dual), ("cap", self.cap)):
            if top is not None and top < 1 + self.high:
                yield Problem(
                    (f"{at}.{name}", f"{at}.high"),
                    f"{name}={top} lies below 1 + high = {1 + self.high}, so tokens inside the clip range lose their "
                    f"gradient. Set {name} above {1 + self.high}, or null for none.",
                )
        if self.behaviour == "sampler":
            yield from needs_sampler("behaviour: sampler", at, recipe)
        else:
            yield from own_rows("ppo_clip", at, recipe)


@TERMS.register("reinforce")
@dataclass
class Reinforce(Term):
    """REINFORCE: -A log p, on-policy (Williams 1992; for language models 2402.14740)."""

    needs = frozenset({LOGP})
    span = "token"

    def __call__(self, t: View) -> torch.Tensor:
        return -t.advantage * t.logp

    def conflicts(self, at: str, recipe: Recipe) -> Iterator[Problem]:
        yield from own_rows("reinforce", at, recipe)


@TERMS.register("cispo")
@dataclass
class CISPO(Term):
    """CISPO (2506.13585, eq. 4-5): the ratio is clipped and held constant, so every token keeps its gradient.

    The loss is -sg(clip(r, 1 - low, 1 + high)) A log p. Its value means nothing: it goes with log p.
    """

    low: Annotated[float, Ge(0), Le(1)] = 1.0
    """The ratio is held at 1 - low from below; 1 for no bound, as in MiniMax-M1."""
    high: Annotated[float, Ge(0)] = 0.28
    """The ratio is held at 1 + high. Reconstructed: the paper tunes it and does not say to what. As in verl; TRL's
    epsilon_high is 1 + high itself (5.0, from ScaleRL)."""
    behaviour: Behaviour = "old"
    """What the ratio is against: the learner before the update, or the engine (then there is no old pass)."""
    span = "token"

    @property
    def needs(self) -> frozenset[Need]:  # type: ignore[override]
        return frozenset({LOGP, OLD_LOGP}) if self.behaviour == "old" else frozenset({LOGP})

    def __call__(self, t: View) -> torch.Tensor:
        log_ratio = (t.logp - behaviour_logp(t, self.behaviour)).detach()
        watch_ratio(t, log_ratio, log_ratio)
        ratio = log_ratio.clamp(-LIMIT, LIMIT).exp()
        t.track("capped", (ratio > 1 + self.high) | (ratio < 1 - self.low))
        return -ratio.clamp(1 - self.low, 1 + self.high) * t.advantage * t.logp

    def conflicts(self, at: str, recipe: Recipe) -> Iterator[Problem]:
        if self.behaviour == "sampler":
            yield from needs_sampler("behaviour: sampler", at, recipe)
        else:
            yield from own_rows("cispo", at, recipe)
