"""Likelihood of given tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from posttrain.config.problems import Problem
from posttrain.config.registries import GATES, TERMS
from posttrain.lazy import torch
from posttrain.losses.api import Gate, Term, View
from posttrain.losses.policy import part_at
from posttrain.stats.columns import LOGP

if TYPE_CHECKING:
    from posttrain.config.recipe import Recipe


@TERMS.register("nll")
@dataclass
class NLL(Term):
    """-phi log p, phi detached: of correct completions in VAPO (2504.05118), of an expert's in CHORD (2508.11408)."""

    phi: Literal["one", "p", "p(1-p)"] = "one"
    """The weight of a token by its probability; p(1-p) is CHORD's."""
    needs = frozenset({LOGP})
    span = "token"

    def __call__(self, t: View) -> torch.Tensor:
        p = t.logp.detach().exp()
        return -{"one": torch.ones_like(p), "p": p, "p(1-p)": p * (1 - p)}[self.phi] * t.logp

    def conflicts(self, at: str, recipe: Recipe) -> Iterator[Problem]:
        key, part = part_at(at, recipe)
        sampled = ", ".join(row for row in part.rows if row in ("policy", "hinted"))
        if sampled and not any(isinstance(gate, Correct) for gate in part.gates):
            gates = ", ".join(["correct", *(GATES.name_of(type(gate)) for gate in part.gates)])
            do = f"{key}.gates=[{gates}], or {key}.rows=[expert]"
            if "expert" in part.rows:
                do = f"{key}.rows=[expert], and give the others a part of their own with the gate correct"
            yield Problem(
                (f"{key}.gates", f"{key}.rows", at),
                f"nll makes its rows more likely, and of rows that were sampled ({sampled}) also the wrong ones, unless the "
                f"gate correct leaves them out. Set {do}.",
            )


@GATES.register("correct")
@dataclass
class Correct(Gate):
    """Only sequences that the verifier calls correct, as in VAPO's positive-example loss (2504.05118).

    With `count: gated` the mean is over their tokens alone.
    """

    scope: Literal["step", "micro"] = "step"
    """When it is evaluated, which changes nothing but that count: gated needs step."""

    def __call__(self, t: View) -> torch.Tensor:
        return t.actions.correct.to(t.advantage.dtype)

    def conflicts(self, at: str, recipe: Recipe) -> Iterator[Problem]:
        key, part = part_at(at, recipe)
        if "expert" in part.rows:
            others = ", ".join(row for row in part.rows if row != "expert")
            do = f"Set {key}.rows=[{others}] and give the expert rows a part of their own, without it"
            yield Problem(
                (at, f"{key}.rows"),
                "correct lets through what the verifier calls right, and expert rows are not judged: none of them passes, "
                f"and they train nothing. {do if others else f'Remove the gate from {key}.gates'}.",
            )
