"""Algorithms that show part of a solution: in the loss a hinted row is one that was sampled under another prompt."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from tests.oracles import advantages, selections, surrogates
from tests.oracles.algorithms import Inputs, oracle
from tests.oracles.columns import Columns, read
from tests.oracles.compose import Answer, on_groups, rows, shaped, total


@oracle
def ghpo(inputs: Inputs, held=None, **more) -> Answer:
    """2507.10628: GRPO over all tokens; what is hinted is sampled and trained under one and the same prompt."""
    return on_groups(read(inputs, held), "std", "ppo_clip", "token_mean", eps=1e-4, **more)


def interpolated(xs: list[float], q: float) -> float:
    """The q-quantile, linear between neighbours."""
    xs = sorted(xs)
    place = q * (len(xs) - 1)
    low, high = xs[math.floor(place)], xs[math.ceil(place)]
    return low + (place - math.floor(place)) * (high - low)


def ratio(now: float, before: float) -> tuple[float, float]:
    """e^(now - before) with the exponent held in +-20, and its slope by `now`."""
    x, slope = surrogates.bounded(now - before, 20)
    return math.exp(x), math.exp(x) * slope


def guided(
    x: Columns, origin: np.ndarray, mask: np.ndarray, advantage: np.ndarray, c: np.ndarray, *,
    low=0.2, high=0.2, shape="quantile", quantile=0.9, scope="update", gamma=0.1,
) -> surrogates.Result:  # fmt: skip
    """2506.13923: the policy's rows clipped; of hinted ones -A w/(w + gamma), w against the engine, which saw the hint."""
    tokens = [p for p in zip(*np.nonzero(mask), strict=True) if origin[p[0]] == 1]
    everyone = [ratio(x.old[p], x.sampler[p])[0] for p in tokens]
    loss, slopes = 0.0, np.zeros(mask.shape)
    for b, t in zip(*np.nonzero(mask), strict=True):
        a = advantage[b, t]
        if origin[b] == 0:
            r, dr = ratio(x.lp[b, t], x.old[b, t])
            value, slope = surrogates.clipped_surrogate(r, a, low, high)
            loss += c[b, t] * value
            slopes[b, t] += c[b, t] * slope * dr
            continue
        w, dw = ratio(x.lp[b, t], x.sampler[b, t])
        if shape == "power":
            value, slope = w**gamma, gamma * w ** (gamma - 1)
        else:
            own = [ratio(x.held[p], x.sampler[p])[0] for p in tokens if p[0] == b]
            pool = own if scope == "sequence" else everyone
            edge = gamma if shape == "constant" else max(interpolated(pool, quantile), 1e-4)
            value, slope = w / (w + edge), edge / (w + edge) ** 2
        loss -= c[b, t] * a * value
        slopes[b, t] -= c[b, t] * a * slope * dw
    return loss, slopes


def kinds(inputs: Inputs, held: np.ndarray | None) -> tuple[Columns, np.ndarray, list[bool]]:
    """The columns with hinted rows in groups of their own, the rows' kinds, and whose group is mixed."""
    x = read(inputs, held)
    origin = np.asarray(inputs.get("origin", np.zeros(len(x.rewards), dtype=int)))
    x = replace(x, group=[10 * g + int(o) for g, o in zip(x.group, origin, strict=True)])
    verdicts = [math.nan if math.isnan(r) else float(r > 0) for r in x.rewards]
    return x, origin, selections.mixed_groups(verdicts, x.group)


SETTINGS = ("low", "high", "shape", "quantile", "scope", "gamma")


@oracle
def guide(inputs: Inputs, held=None, **more) -> Answer:
    """2506.13923: hinted answers in groups of their own, mixed groups alone, the mean over all tokens."""
    settings = {name: more.pop(name) for name in SETTINGS if name in more}
    x, origin, keep = kinds(inputs, held)
    own = advantages.group_relative(x.rewards, x.group)
    mask = rows(x, own, keep)
    advantage = advantages.spread(own, mask)
    return total(x, mask, advantage, lambda c: guided(x, origin, mask, advantage, c, **settings), "token_mean", **more)


@oracle
def guide_ppo(inputs: Inputs, held=None, *, kl=0.0, estimator="k1", gamma=1.0, lam=0.95, clip=0.2, **more) -> Answer:
    """Guide with PPO's advantages, whitened over the groups that are trained on, and its critic."""
    x, origin, keep = kinds(inputs, held)
    added = shaped(x, kl, estimator)
    own = [r if kept else math.nan for r, kept in zip(x.rewards, keep, strict=True)]
    advantage, returns = advantages.gae(own, added, x.old_values, x.mask, gamma, lam, None, None, True)
    mask = rows(x, own)
    value = {"returns": returns, "clip": clip}
    return total(x, mask, advantage, lambda c: guided(x, origin, mask, advantage, c, **more), "token_mean", value=value)
