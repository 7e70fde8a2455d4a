"""Credit assignment: from scored groups to the rows that are worth training on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from posttrain.collect.api import Advantage, Filter, Select, Shape
from posttrain.collect.rows import unmoved
from posttrain.data.types import Group


@dataclass(frozen=True)
class Credit:
    """Shaping, one after the other; then the advantage; then the selects. Training and the audit share it.

    Selects that come first and read scores alone (`Filter`) are asked before the advantage, too.
    """

    shaping: Mapping[str, Shape]
    advantage: Advantage
    selects: Sequence[Select] = ()

    @property
    def needs(self) -> frozenset[str]:
        """What the learner has to measure before `advantages`: of "old_logp", "ref_logp" and "values"."""
        hooks = (*self.shaping.values(), self.advantage)
        return frozenset[str]().union(*(getattr(hook, "needs", ()) for hook in hooks))

    def advantages(self, groups: Sequence[Group], step: int) -> list[Group]:
        """The same groups in the same order, numbered, with advantages; unjudged rollouts are left out.

        Groups that a filter is going to drop enter no mean over the step; their own advantages are 0.
        """
        credited = [_numbered(group, number) for number, group in enumerate(groups)]
        for shape in self.shaping.values():
            credited = shape(credited, step)
        filters = self._filters()
        keep = [all(f.keeps(group) for f in filters) for group in credited]
        found = iter(self.advantage([group for group, kept in zip(credited, keep, strict=True) if kept]))
        least = self.advantage.min_samples
        return [next(found) if kept else unmoved(group, least) for group, kept in zip(credited, keep, strict=True)]

    def select(self, groups: Sequence[Group], step: int) -> list[Group]:
        """What is left of groups with advantages after every select."""
        kept = list(groups)
        for select in self.selects:
            kept = select(kept, step)
        return kept

    def _filters(self) -> list[Filter]:
        """Those before any other select: after one they would see less than the whole groups."""
        out: list[Filter] = []
        for select in self.selects:
            if not isinstance(select, Filter):
                break
            out.append(select)
        return out

    def __call__(self, groups: Sequence[Group], step: int) -> list[Group]:
        return self.select(self.advantages(groups, step), step)


def _numbered(group: Group, number: int) -> Group:
    """Every rollout knows its group's number and solve rate, of the whole group: later hooks may drop rollouts."""
    verdicts = [r.score.correct for r in group.rollouts if r.score is not None and r.score.value is not None]
    rate = sum(verdicts) / len(verdicts) if verdicts else 0.0
    return replace(group, rollouts=tuple(replace(r, group=number, solve_rate=rate) for r in group.rollouts))
