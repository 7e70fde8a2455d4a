"""Which rollouts are worth a learner's forward pass."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from posttrain.config.problems import Problem
from posttrain.config.registries import SELECTS
from posttrain.config.schedules import Constant, Schedule
from posttrain.data.types import Group, Rollout

if TYPE_CHECKING:
    from posttrain.config.recipe import Recipe

By = Literal["reward", "correct"]


def mixed(group: Group, by: By) -> bool:
    """Whether the judged rollouts differ: in the unshaped reward, or in the verifier's verdict.

    Shaping is left aside on purpose: with it hardly any group is constant, and the filter would filter nothing.
    """
    judged = [r.score for r in group.rollouts if r.score is not None and r.score.value is not None]
    return len({s.value if by == "reward" else s.correct for s in judged}) > 1


def never_mixed(at: str, recipe: Recipe) -> Iterator[Problem]:
    """The conflict of whatever wants mixed groups with groups of one."""
    if recipe.batch.samples < 2:
        yield Problem(
            ("batch.samples", at),
            f"with {recipe.batch.samples} sample per prompt no group holds different rewards, and {at} keeps no other. "
            f"Set batch.samples=8, or take {at} out.",
        )


@SELECTS.register("mixed_groups")
@dataclass
class MixedGroups:
    """Drops groups in which every rollout has the same reward, or verdict (DAPO, 2503.14476, without sampling again).

    The rows still count in no denominator, so `token_mean` averages over the rows that are left. Before any other select
    it also comes before the advantage: whitening and `scale: batch` are over the groups that are left.
    """

    by: By = "reward"
    """What has to differ within a group: the reward without shaping, or the verdict."""

    def __call__(self, groups: Sequence[Group], step: int) -> list[Group]:
        return [g for g in groups if self.keeps(g)]

    def keeps(self, group: Group) -> bool:
        return mixed(group, self.by)

    def conflicts(self, at: str, recipe: Recipe) -> Iterator[Problem]:
        yield from never_mixed(at, recipe)


def max_variance_subset(advantages: Sequence[float] | np.ndarray, k: int) -> np.ndarray:
    """[k] int64, ascending: the positions of the k of these [n] numbers whose variance is the largest.

    Exact, in O(n log n): the best k are the i largest and the k - i smallest for some i (PODS, 2504.13818), so k + 1
    splits are compared by their running sums. Of splits that are equal but for rounding the one with the most of the
    largest is taken, and of equal numbers those that come first. Raises ValueError unless 0 <= k <= n and all are finite.
    """
    a = np.asarray(advantages, dtype=np.float64)
    n = len(a)
    if not 0 <= k <= n:
        raise ValueError(f"k={k} of n={n} advantages cannot be chosen: 0 <= k <= n")
    if not np.isfinite(a).all():
        raise ValueError(f"advantages must be finite; at {np.flatnonzero(~np.isfinite(a)).tolist()} they are not")
    if k == 0:
        return np.zeros(0, dtype=np.int64)
    order = a.argsort(kind="stable")
    x = a[order] - a.mean()
    low, high = _running(x[:k]), _running(x[::-1][:k])  # [2, k + 1]: sum and sum of squares of the first so many
    total, squares = low[:, ::-1] + high  # of the i largest and the k - i smallest, for i = 0 .. k
    spread = squares - total**2 / k
    most = int(np.flatnonzero(spread >= spread.max() - 1e-12 * abs(spread.max()))[-1])
    run = np.cumsum(np.diff(a[order], prepend=a[order[0]]) > 0)  # [n] which of the different numbers it is
    wanted = np.bincount(np.concatenate([run[: k - most], run[n - most :]]), minlength=n)  # how many of each
    place = np.arange(n) - np.searchsorted(run, run)  # among its equals
    return np.sort(order[place < wanted[run]])


def _running(x: np.ndarray) -> np.ndarray:
    return np.cumsum([[0.0, *x], [0.0, *x**2]], axis=1)


@SELECTS.register("max_variance")
@dataclass
class MaxVariance:
    """Keeps the rollouts whose advantages vary the most (D3S, 2509.22115); the others are not computed any further.

    Advantages stay what they are: those of the whole group, never normalised again over what is left. Between equal
    advantages the sampler's seed decides, so the order of the rows does not matter. Responses without a token are dropped.
    """

    keep: Schedule = Constant(4)
    """Rollouts that are kept of a group, at least one, to the nearest whole one: a number, or a schedule over the steps."""
    within: Literal["group", "batch"] = "group"
    """Of every group on its own, or of the whole step: keep times the number of groups (reconstructed), wherever they are."""

    def __call__(self, groups: Sequence[Group], step: int) -> list[Group]:
        filled = [g for g in map(_with_tokens, groups) if g.rollouts]
        count = max(math.floor(self.keep(step) + 0.5), 1)
        if self.within == "batch":
            return _most_varied(filled, count * len(filled))
        return [kept for group in filled for kept in _most_varied([group], count)]

    def conflicts(self, at: str, recipe: Recipe) -> Iterator[Problem]:
        for step in (0, recipe.steps - 1):
            if self.keep(step) < 2:
                yield Problem(
                    (f"{at}.keep",),
                    f"keep is {self.keep(step):g} at step {step + 1}: one rollout has no variance to choose it by. "
                    "Set keep=2 or more, or a schedule that stays there.",
                )
                return


def _with_tokens(group: Group) -> Group:
    return replace(group, rollouts=tuple(r for r in group.rollouts if len(r.response_ids)))


def _most_varied(groups: Sequence[Group], count: int) -> list[Group]:
    """At most `count` rollouts of all groups together, those that vary the most; groups of which none is left are gone."""
    rows = [(r.seed, g.prompt.id, i, j) for i, g in enumerate(groups) for j, r in enumerate(g.rollouts)]
    rows.sort()  # the first of equals is the one with the lower seed, whatever the order of the groups
    advantages = [_advantage(groups[i].rollouts[j]) for _, _, i, j in rows]
    kept = {rows[n][2:] for n in max_variance_subset(advantages, min(count, len(rows)))}
    left = [
        replace(g, rollouts=tuple(r for j, r in enumerate(g.rollouts) if (i, j) in kept)) for i, g in enumerate(groups)
    ]
    return [g for g in left if g.rollouts]


def _advantage(row: Rollout) -> float:
    """That of all its tokens, or the mean where they differ."""
    if row.advantage is None:
        raise ValueError("a rollout has no advantage: max_variance chooses after the advantages")
    same = (row.advantage == row.advantage[0]).all()  # whose mean would not be exactly the same number
    return float(row.advantage[0] if same else row.advantage.mean())
