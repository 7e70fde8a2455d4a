"""Demonstrations beside the step's groups."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from annotated_types import Ge

from posttrain.collect.api import Sample
from posttrain.config.errors import ConfigError
from posttrain.config.problems import Problem
from posttrain.config.registries import MIXES
from posttrain.data import sources
from posttrain.data.types import Group, Origin, Prompt, Rollout

if TYPE_CHECKING:
    from posttrain.config.recipe import Recipe

Render = Callable[[Sequence[Prompt]], list[Rollout]]
Messages = Callable[[str], tuple[Mapping[str, str], ...]]


@MIXES.register("expert_mix")
@dataclass
class ExpertMix:
    """CHORD's expert rows (2508.11408): the next few demonstrations, each once an epoch, trained by a part of their own.

    They come from `path`, less the problems that are held out, or else are the solutions of the task's own training
    problems. The paper's batches are 64 for SFT and 32 for RL. The authors' code takes a share of 0.2 of its prompts for
    experts and makes ceil(0.2 x prompts) x samples rows of them, so 40 prompts of 8 samples become 64 expert rows and 256
    of the policy. Either way that is count: 64 beside batch.prompts: 32.
    """

    count: Annotated[int, Ge(1)] = 32
    """Expert rows of a step. Reconstructed: 32 is for small batches; the paper has 64."""
    path: str | None = None
    """A JSONL or Parquet file, or a hub id, with problems and solutions; null for the task's own solutions."""
    problem: str = "problem"
    """The column of path that holds the problem."""
    solution: str = "solution"
    """The column of path that holds the solution."""
    position: int = field(default=0, init=False)  # rows handed out since the first step
    seed: int = field(default=0, init=False)
    demonstrations: Sequence[Prompt] = field(default=(), init=False, repr=False)
    render: Render | None = field(default=None, init=False, repr=False)
    held_out: int = field(default=0, init=False)  # demonstrations of held-out problems, which are left out
    report: dict[str, float] = field(default_factory=dict, init=False)
    _order: tuple[int, np.ndarray] | None = field(default=None, init=False, repr=False)  # of the epoch in use
    origin: ClassVar[Origin] = Origin.EXPERT

    def start(
        self,
        prompts: Sequence[Prompt],
        messages: Messages,
        render: Render,
        seed: int,
        heldout: Sequence[Prompt] = (),
    ) -> str | None:
        """Raises ConfigError where there is nothing to demonstrate."""
        found = [p for p in (self._read(messages) if self.path else prompts) if p.solution]
        kept_apart = {_problem(p) for p in heldout}
        self.demonstrations = [p for p in found if _problem(p) not in kept_apart]
        self.held_out = len(found) - len(self.demonstrations)
        self.render, self.seed, self._order = render, seed, None
        self._require(render, len(found))
        left_out = f"{self.held_out} of {len(found)} demonstrations are of held-out problems, and left out"
        return left_out if self.held_out else None

    def _require(self, render: Render, found: int) -> None:
        if found and not self.demonstrations:
            raise ConfigError(
                f"expert_mix: all {found} demonstrations of path={self.path!r} are of held-out problems. Name another file "
                "with path, or hold out other problems with task.heldout_path"
            )
        if not self.demonstrations:
            where = f"path={self.path!r} has" if self.path else "the task's problems have"
            raise ConfigError(
                f"expert_mix: {where} no solutions to learn from. Name the column (solution, or task.solution), or a file "
                "of demonstrations with path"
            )
        if not render(self.demonstrations[:64]):
            raise ConfigError(
                "expert_mix: none of the first 64 demonstrations fits into learner.tokens_per_micro_batch and the model's "
                "context. Raise them, or give shorter demonstrations"
            )

    def rows(self, groups: Sequence[Group], sample: Sample, step: int) -> list[Rollout]:
        """The next `count` demonstrations; those that are too long are left out and counted."""
        assert self.render is not None, "start comes first"
        chosen = [self._at(self.position + i) for i in range(self.count)]
        self.position += self.count
        rows = self.render(chosen)
        self.report = {
            "expert/rows": len(rows),
            "expert/too_long": len(chosen) - len(rows),
            "expert/held_out": self.held_out,
        }
        return rows

    def credit(self, groups: Sequence[Group]) -> list[Rollout]:
        """Demonstrations are not judged."""
        return [r for g in groups for r in g.rollouts]

    def observe(self, values: Mapping[str, float]) -> None:
        return None

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position, "demonstrations": len(self.demonstrations)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state["demonstrations"] != len(self.demonstrations):
            raise ConfigError(
                f"the checkpoint was made with {state['demonstrations']} demonstrations, there are now "
                f"{len(self.demonstrations)}: their order cannot be continued. Resume with the same file"
            )
        self.position = state["position"]

    def conflicts(self, at: str, recipe: Recipe) -> Iterator[Problem]:
        if not any("expert" in part.rows for part in recipe.objective.values()):  # one that is off leaves them unused
            yield Problem(
                (at, "objective"),
                "expert rows are mixed in, and no part of the objective trains on them. Add one: "
                "objective: {expert: {rows: [expert], term: nll, weight: 0.1}}.",
            )

    def _read(self, messages: Messages) -> list[Prompt]:
        assert self.path is not None
        out = []
        for i, row in enumerate(sources.rows(self.path, None, "train", "mixes.*.path")):
            where = f"{self.path} row {i + 1}"
            problem = sources.text(row, self.problem, "problem", where)
            solution = sources.text(row, self.solution, "solution", where)
            out.append(
                Prompt(id=f"expert/{i}", source="expert", messages=messages(problem), answer="", solution=solution)
            )
        return out

    def _at(self, position: int) -> Prompt:
        epoch, place = divmod(position, len(self.demonstrations))
        if self._order is None or self._order[0] != epoch:
            order = np.random.default_rng([self.seed, 1, epoch]).permutation(len(self.demonstrations))
            self._order = (epoch, order)
        return self.demonstrations[int(self._order[1][place])]


def _problem(prompt: Prompt) -> str:
    """Its text, however it is broken into lines."""
    return " ".join(prompt.messages[-1]["content"].split())
