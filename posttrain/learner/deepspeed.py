"""The learner: DeepSpeed ZeRO over the launched ranks. It knows parts and columns, and no algorithm by name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from posttrain.comm import Distributed, SingleProcess
from posttrain.config.recipe import Learner as LearnerSettings
from posttrain.data.types import Rollout
from posttrain.learner.batch import MicroBatch, TrainBatch, make_batch
from posttrain.learner.models import Policy
from posttrain.learner.report import Report
from posttrain.losses.api import Objective, View
from posttrain.stats.columns import LOGP, OLD_LOGP, Need
from posttrain.stats.vocab import Entropy, Logprob, StatInput, VocabStat


@dataclass(frozen=True)
class Watched:
    """A statistic for the log alone: the same value, no gradient."""

    stat: VocabStat

    def __call__(self, logp: torch.Tensor, x: StatInput) -> torch.Tensor:
        return self.stat(logp.detach(), x)


class DeepSpeedLearner:
    """Scores and updates rows. Every rank gets all rows of the step and takes its own share."""

    def __init__(
        self,
        policy: Policy,
        settings: LearnerSettings,
        comm: Distributed | SingleProcess,
        device: torch.device,
        zero_stage: int,
    ) -> None:
        import deepspeed

        self.settings, self.comm, self.device, self.zero_stage = settings, comm, device, zero_stage
        optimizer = torch.optim.AdamW(
            policy.parameters(),
            lr=settings.lr,
            betas=(settings.betas[0], settings.betas[1]),
            eps=settings.eps,
            weight_decay=settings.weight_decay,
        )
        self.engine: Any
        self.engine, *_ = deepspeed.initialize(
            model=policy,
            optimizer=optimizer,
            config=_config(settings, zero_stage, next(policy.parameters()).dtype),
            dist_init_required=False,
        )

    def update(
        self, batches: Sequence[Sequence[Rollout]], objective: Objective, step: int, lr: float
    ) -> dict[str, float]:
        """One optimizer step on each batch of rows of a collection. Returns the step's metrics, equal on all ranks."""
        report = Report()
        for group in self.engine.optimizer.param_groups:
            group["lr"] = lr
        mine = self._shares(batches)
        if len(mine) > 1 or self._needs_old_pass(objective):
            mine = [self.score(b, objective.needs) for b in mine]
        norms = [self._update_once(batch, objective, step, report, first=i == 0) for i, batch in enumerate(mine)]
        out = {_name(k): v for k, v in report.reduce(self.comm).items()}
        out["total/loss"] /= len(mine)  # of one update; what the parts report is their sum over the updates
        return out | {"policy/grad_norm": float(np.mean(norms)), "policy/lr": lr}

    def score(self, batch: TrainBatch, needs: frozenset[Need]) -> TrainBatch:
        """Fills the columns of the policy at the start of the step, without gradient."""
        old = sorted({n for n in needs if n.source == "old"} | {OLD_LOGP}, key=repr)
        with torch.no_grad():
            parts = [self._forward(micro, batch, [n.stat for n in old]) for micro in batch.micro_batches]
        columns = torch.cat(parts, dim=1)
        return replace(batch, values={**batch.values, **dict(zip(old, columns, strict=True))})

    def logprobs(self, rows: Sequence[Rollout]) -> list[np.ndarray]:
        """[m] float32 per row: the log-probability of each response token under the weights of this moment.

        Every rank scores every row, so that ZeRO-3's collectives meet; meant for a handful of rows.
        """
        batch = make_batch(rows, 0, 1, self.settings.tokens_per_micro_batch, self.settings.head_chunk, self.device)
        column = self.score(batch, frozenset({OLD_LOGP})).values[OLD_LOGP].cpu().numpy()
        ends = np.cumsum([len(rows[i].response_ids) for i in batch.rows])
        pieces = dict(zip(batch.rows, np.split(column, ends[:-1]), strict=True))
        return [pieces[i] for i in range(len(rows))]

    def _shares(self, batches: Sequence[Sequence[Rollout]]) -> list[TrainBatch]:
        """This rank's part of every batch. Tokens are numbered through all of them."""
        s, out, place = self.settings, [], 0
        for rows in batches:
            out.append(
                make_batch(
                    rows, self.comm.rank, self.comm.world, s.tokens_per_micro_batch, s.head_chunk, self.device, place
                )
            )
            place += sum(len(r.response_ids) for r in rows)
        return out

    def _needs_old_pass(self, objective: Objective) -> bool:
        """With one update, `old` is the live log-probability itself unless somebody reads more of it, or earlier."""
        others = any(n.source == "old" and n != OLD_LOGP for n in objective.needs)
        return others or objective.reads_before_update

    def _update_once(self, batch: TrainBatch, objective: Objective, step: int, report: Report, first: bool) -> float:
        weights = objective.prepare(View(batch.actions, batch.values, step=step), self.comm)
        live = sorted({n.stat for n in objective.needs if n.source == "live"} | {Logprob()}, key=repr)
        stats: list[VocabStat] = [*live]
        if Entropy() not in live:
            stats.append(Watched(Entropy()))
        last = len(batch.micro_batches) - 1
        for i, micro in enumerate(batch.micro_batches):
            self.engine.set_gradient_accumulation_boundary(i == last)
            columns = self._forward(micro, batch, stats)
            view = self._view(
                batch, micro, dict(zip((Need("live", s) for s in live), columns, strict=False)), step, report
            )
            entropy = columns[live.index(Entropy())] if Entropy() in live else columns[-1]
            report.track("entropy", entropy.detach())
            if first:
                _mismatch(view, report)
            loss = objective(view, {name: w[micro.start : micro.stop] for name, w in weights.items()})
            report.track("total/loss", loss.detach())
            # DeepSpeed averages over ranks; the weights already hold the denominators of all of them.
            self.engine.backward(loss * self.comm.world, scale_wrt_gas=False)
        self.engine.step()
        norm = self.engine.get_global_grad_norm()
        return float(norm) if norm is not None else float("nan")

    def _forward(self, micro: MicroBatch, batch: TrainBatch, stats: Sequence[VocabStat]) -> torch.Tensor:
        target = batch.actions.target[micro.start : micro.stop]
        return self.engine(micro.input_ids, micro.source, target, micro.temperature, tuple(stats), micro.num_chunks)

    def _view(
        self, batch: TrainBatch, micro: MicroBatch, live: dict[Need, torch.Tensor], step: int, report: Report
    ) -> View:
        values = {need: column[micro.start : micro.stop] for need, column in batch.values.items()}
        if OLD_LOGP not in values:
            values[OLD_LOGP] = live[LOGP].detach()
        return View(batch.micro_actions(micro), {**values, **live}, step=step, track=report.track)


def _mismatch(view: View, report: Report) -> None:
    """How far the engine's log-probabilities are from the learner's, before any correction."""
    gap = (view.logp.detach() - view.sampler_logp).abs()
    report.track("mismatch/mean", gap)
    report.track_max("mismatch/max", gap)


def _name(key: str) -> str:
    """Flat metric names: what has no room of its own belongs to the policy."""
    return key if "/" in key else f"policy/{key}"


def _config(settings: LearnerSettings, zero_stage: int, dtype: torch.dtype) -> dict[str, Any]:
    return {
        "train_micro_batch_size_per_gpu": 1,  # a formality: micro-batches are cut by tokens, and losses are not averaged
        "gradient_accumulation_steps": 1,
        "gradient_clipping": settings.max_grad_norm,  # unset means 1.0, not off
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {"stage": zero_stage},
        "bf16": {"enabled": dtype == torch.bfloat16},
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }


def zero_stage_of_launch() -> int:
    """The ZeRO stage of the accelerate configuration that launched this process; 2 without one."""
    return int(os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2"))


def save_pretrained(learner: DeepSpeedLearner, weights: dict[str, torch.Tensor], source: Path, folder: Path) -> None:
    """The model in Hugging Face format: config, safetensors, tokenizer. Rank 0 only, on gathered weights."""
    from transformers import AutoTokenizer

    lm = learner.engine.module.lm
    lm.save_pretrained(folder, state_dict=weights)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
