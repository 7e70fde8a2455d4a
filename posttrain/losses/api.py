"""The one loss interface: a named sum of parts over the table of action tokens.

    loss(step) = sum over parts k  weight_k(step) * sum over tokens a in rows_k  c_k(a) * g_k(a) * term_k(a)

`prepare` fixes every coefficient once per update batch, over all ranks, before the first forward. So micro-batches and
ranks add up to the same gradient, however the rows are cut.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from posttrain.data.types import Origin
from posttrain.lazy import torch
from posttrain.losses.reduce import Comm, reduction
from posttrain.stats.columns import LOGP, OLD_LOGP, REF_LOGP, Actions, Need


def key(step: int, name: str) -> int:
    """The part's key for `View.noise`: the same on every rank and after a resume."""
    return zlib.crc32(f"{step}/{name}".encode())


def _ignore(name: str, column: torch.Tensor) -> None:
    return None


@dataclass(frozen=True)
class View:
    """What a term or gate reads: columns over action tokens, all of one length."""

    actions: Actions
    values: Mapping[Need, torch.Tensor]
    step: int = 0
    key: int = 0  # of step and part, for `noise`
    track: Callable[[str, torch.Tensor], None] = _ignore
    comm: Comm | None = None  # set at step scope: then `everyone` is over all ranks

    def __getitem__(self, need: Need) -> torch.Tensor:
        if need not in self.values:
            raise KeyError(f"{need} is read but not declared in `needs`")
        return self.values[need]

    @property
    def logp(self) -> torch.Tensor:
        return self[LOGP]

    @property
    def old_logp(self) -> torch.Tensor:
        return self[OLD_LOGP]

    @property
    def ref_logp(self) -> torch.Tensor:
        return self[REF_LOGP]

    @property
    def advantage(self) -> torch.Tensor:
        return self.actions.advantage

    @property
    def sampler_logp(self) -> torch.Tensor:
        return self.actions.sampler_logp

    @property
    def reward(self) -> torch.Tensor:
        return self.actions.reward

    @property
    def origin(self) -> torch.Tensor:
        return self.actions.origin

    def everyone(self, x: torch.Tensor) -> torch.Tensor:
        return self.comm.gather(x) if self.comm else x

    def mean_in_sequence(self, x: torch.Tensor) -> torch.Tensor:
        """[A] -> [A]: the mean over the token's sequence."""
        seq, n = self.actions.seq, self.actions.num_seqs
        count = x.new_zeros(n).index_add(0, seq, torch.ones_like(x)).clamp(min=1)
        return (x.new_zeros(n).index_add(0, seq, x) / count)[seq]

    def take(self, index: torch.Tensor) -> View:
        return replace(self, actions=self.actions.take(index), values={k: v[index] for k, v in self.values.items()})

    def at_step_start(self) -> View:
        """The same rows before the first update: every live value reads as the old one."""
        old = {Need("live", k.stat): v for k, v in self.values.items() if k.source == "old"}
        return replace(self, values={**self.values, **old})


class Term:
    """A per-token loss. Not reduced, not weighted, not masked: [A] in, [A] out."""

    needs: frozenset[Need] = frozenset()

    def prepare(self, t: View, weight: torch.Tensor) -> None:
        """Once per update batch, without gradient; `weight` is what each token will be multiplied by."""

    def __call__(self, t: View) -> torch.Tensor:
        raise TypeError(f"{type(self).__name__} must define __call__(t: View) -> Tensor of shape [A]")


class Gate:
    """A per-token factor >= 0 without gradient. Gates multiply, so their order cannot matter."""

    needs: frozenset[Need] = frozenset()
    scope: Literal["step", "micro"] = "step"

    def __call__(self, t: View) -> torch.Tensor:
        raise TypeError(f"{type(self).__name__} must define __call__(t: View) -> Tensor of shape [A]")


@dataclass
class Part:
    """weight(step) * sum over `rows` of  reduction * gates * term."""

    term: Term
    weight: Callable[[int], float] = lambda step: 1.0
    rows: tuple[Origin, ...] = (Origin.POLICY,)
    gates: tuple[Gate, ...] = ()
    reduce: str = "token_mean"
    length: float = 1.0
    count: Literal["rows", "gated"] = "rows"  # what the denominator counts

    def index(self, t: View) -> torch.Tensor:
        wanted = torch.tensor([int(r) for r in self.rows], dtype=t.origin.dtype, device=t.origin.device)
        return torch.isin(t.origin, wanted).nonzero().squeeze(-1)


@dataclass
class Objective:
    """The loss: a named sum of parts. The learner knows nothing else about algorithms."""

    parts: dict[str, Part] = field(default_factory=dict)

    @property
    def needs(self) -> frozenset[Need]:
        wanted: set[Need] = set()
        for part in self.parts.values():
            wanted |= part.term.needs
            for gate in part.gates:  # a step gate reads the old policy where it says live
                at_start = gate.scope == "step"
                wanted |= {n._replace(source="old") if at_start and n.source == "live" else n for n in gate.needs}
        return frozenset(wanted)

    @property
    def reads_before_update(self) -> bool:
        """Whether anything looks at the old policy before the first forward: a step gate or a `prepare`."""
        return any(
            any(g.scope == "step" for g in p.gates) or type(p.term).prepare is not Term.prepare
            for p in self.parts.values()
        )

    def prepare(self, t: View, comm: Comm) -> dict[str, torch.Tensor]:
        """The [A] coefficients of every part, global denominators inside. Once per update batch, without gradient."""
        out = {}
        with torch.no_grad():
            for name, part in self.parts.items():
                index = part.index(t)
                v = replace(t.at_step_start().take(index), key=key(t.step, name), comm=comm)
                gate = torch.ones_like(v.advantage)
                if comm.sum(gate) == 0:  # no rank has such rows in this step
                    out[name] = torch.zeros_like(t.advantage)
                    continue
                for g in part.gates:
                    if g.scope == "step":
                        gate = gate * g(v)
                on = (gate > 0).to(gate.dtype) if part.count == "gated" else torch.ones_like(gate)
                weight = gate * reduction(part.reduce, v.actions, on, comm, part.length)
                part.term.prepare(v, weight)
                out[name] = t.advantage.new_zeros(len(t.advantage)).index_copy(0, index, weight)
        return out

    def __call__(self, t: View, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The loss of one micro-batch: over micro-batches and ranks these add up to the loss of the update batch."""
        live = next(v for need, v in t.values.items() if need.source == "live")
        total = live.sum() * 0.0  # a rank whose rows are all elsewhere must still run backward
        for name, part in self.parts.items():
            index = part.index(t)
            if len(index) == 0:
                continue
            v = replace(t.take(index), key=key(t.step, name), track=_prefixed(t.track, name))
            w = weights[name][index]
            for g in part.gates:
                if g.scope == "micro":
                    w = w * g(v)
            value = part.weight(t.step) * (w * part.term(v)).sum()
            t.track(f"{name}/loss", value.detach())
            total = total + value
        return total


def _prefixed(track: Callable[[str, torch.Tensor], None], name: str) -> Callable[[str, torch.Tensor], None]:
    return lambda k, x: track(f"{name}/{k}", x)
