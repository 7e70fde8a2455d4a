"""A run: the objects that `assemble` made, and the phases of a step in terms of them. Every rank executes every line."""

from __future__ import annotations

import itertools
import json
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from posttrain.collect.api import Curriculum, Mix, Strategy
from posttrain.collect.credit import Credit
from posttrain.collect.rows import unmoved
from posttrain.collect.select import mixed
from posttrain.comm import Distributed, SingleProcess
from posttrain.config.load import Loaded
from posttrain.data.types import Group, Prompt, Rollout
from posttrain.evaluation import runner
from posttrain.evaluation.best import Best, best_of
from posttrain.learner.checkpoint import Checkpoints, complete
from posttrain.learner.learner import Learner, save_pretrained
from posttrain.learner.publish import Probe, Publisher, gathered_weights
from posttrain.losses.objective import Objective
from posttrain.rollout.engine import Interrupted, Sampling
from posttrain.rollout.sampler import BoundSample, Sampler
from posttrain.signals import Stop
from posttrain.telemetry.console import Console
from posttrain.telemetry.guards import Guards, RunStopped, raise_if_stopping
from posttrain.telemetry.metrics import StepMetrics
from posttrain.telemetry.report import write_report
from posttrain.telemetry.sinks import RunFolder, read_metrics, told


@dataclass(kw_only=True)
class Run:
    """Everything a run is made of. `folder` exists on rank 0 alone; the others write nothing."""

    loaded: Loaded
    comm: Distributed | SingleProcess
    console: Console
    stop: Stop
    folder: RunFolder | None
    model: Path  # what the first weights came from: configuration and tokenizer
    curriculum: Curriculum
    strategy: Strategy
    assign: Credit
    mixes: Mapping[str, Mix]
    objective: Objective
    sampler: Sampler
    sampling: Sampling
    probe_prompts: Sequence[Prompt]
    learner: Learner
    rate: Callable[[int, int], float]  # (step, steps) -> share of the learning rate
    publisher: Publisher
    probe: Probe
    evaluations: Sequence[runner.HeldOut]  # benchmarks, and last the held-out problems
    checkpoints: Checkpoints
    guards: Guards
    beside: list[Rollout] = field(default_factory=list)  # rows of the last step that belong to none of its groups
    sampled: list[Group] = field(default_factory=list)  # everything of the last step, also what a strategy left out
    resources: list[Any] = field(default_factory=list)  # closed at the end, last first
    began: float = field(default_factory=time.monotonic)
    resuming: bool = False
    fresh: bool = False  # whether an evaluation of a step has not been compared with those before it yet

    @property
    def recipe(self) -> Any:
        return self.loaded.recipe

    # ---- phases of a step ----
    def collect(self, step: int, metrics: StepMetrics) -> list[Group]:
        """Prompts -> scored groups. When interrupted, prompts and demonstrations go back: they have not been trained on."""
        drawn_from: list[Any] = [
            thing for thing in (self.curriculum, *self.mixes.values()) if hasattr(thing, "state_dict")
        ]
        before = [thing.state_dict() for thing in drawn_from]
        self.console.working(f"step {step + 1}: rollouts")
        try:
            sample = BoundSample(self.sampler, self.recipe.batch.samples, self.sampling, step)
            groups = self.strategy.collect(self.curriculum.next, self.recipe.batch.prompts, sample, step)
            self.beside = [row for mix in self.mixes.values() for row in mix.rows(groups, sample, step)]
        except Interrupted:
            for thing, state in zip(drawn_from, before, strict=True):
                thing.load_state_dict(state)
            raise
        for name, seconds in sample.seconds.items():
            metrics.add_seconds(name, seconds)
        self.sampled = sample.groups
        metrics.merge(self.strategy.report)
        for mix in self.mixes.values():
            metrics.merge(mix.report)
        metrics.groups(self.sampled)
        metrics.set("groups/sampled", len(self.sampled))
        return groups

    def credit(self, groups: Sequence[Group], step: int, metrics: StepMetrics) -> list[Group]:
        """Scored groups -> groups with advantages, those that are worth training on."""
        with metrics.time("measure"):
            rows = self.learner.measure([r for g in groups for r in g.rollouts], self.assign.needs)
        measured = iter(rows)
        groups = [replace(g, rollouts=tuple(next(measured) for _ in g.rollouts)) for g in groups]
        with_advantage = self.assign.advantages(groups, step)
        # Groups that a strategy threw away because all is alike in them have taught nothing, and that is a payoff too.
        alike = [g for g in self.sampled if not mixed(g, "reward") and g.prompt.id not in {x.prompt.id for x in groups}]
        least = self.assign.advantage.min_samples
        self.curriculum.observe([*with_advantage, *(unmoved(g, least) for g in alike)])
        metrics.credit(with_advantage)
        return self.assign.select(with_advantage, step)

    def learn(self, groups: Sequence[Group], step: int, metrics: StepMetrics) -> None:
        """Rows -> new weights. Without a single row the weights stay, and the step says so."""
        batches = update_batches(groups, self.recipe.batch.updates, self.beside)
        metrics.learned(batches, self.recipe.batch.epochs)
        self.console.working(f"step {step + 1}: learning")
        if not batches:
            return
        with metrics.time("learn"):
            rate = self.rate(step, self.recipe.steps)
            values = self.learner.update(batches, self.objective, step, rate, self.recipe.batch.epochs)
        metrics.merge(values)
        for mix in self.mixes.values():
            mix.observe(values)

    def wait_for_engine(self) -> None:
        """Until every engine is up. Whoever asks to stop meanwhile is heard by all ranks."""
        engine, stopped = self.sampler.engine, False
        try:
            if engine is not None:
                engine.wait_until_ready()
        except Interrupted:
            stopped = True
        if any(self.comm.gather_objects(stopped)):
            raise Interrupted

    def publish(self, version: int, metrics: StepMetrics | None = None) -> float:
        """New weights -> every engine, and the proof that they arrived. Returns the largest difference in nats."""
        metrics = metrics or StepMetrics(version)
        with metrics.time("sync"), self.stop.shielded():  # half-published weights are nothing to stop at
            self.publisher.publish(version)
            settings = self.recipe.engine.probe
            sampling = Sampling(temperature=self.sampling.temperature, max_tokens=settings.tokens)
            groups = self.sampler.sample(self.probe_prompts, 1, sampling, f"probe/{version}", judged=False)
            worst = self.probe.compare(self.learner, [r for g in groups for r in g.rollouts], version)
        metrics.add_max("sync/max_difference", worst)
        return worst

    def evaluate(self, name: str, metrics: StepMetrics | None = None) -> None:
        """Accuracy under the weights that the engine has now. An interrupted evaluation leaves nothing behind."""
        started = time.perf_counter()
        try:
            found = {one.bench: one(self.sampler) for one in self.evaluations}
        except Interrupted:
            return  # the loop asks at its next turn
        if metrics is not None:
            for key, value in runner.named(found).items():
                metrics.set(key, value)
            metrics.add_seconds("evaluate", time.perf_counter() - started)
            self.fresh = True
        for bench, result in found.items():
            if self.folder is not None:
                runner.write(self.folder.eval_path(f"{bench}/{name}" if bench else name), result.rows)
        for bench, result in found.items():
            share, most = result.unjudged / max(len(result.rows), 1), self.recipe.scoring.max_failed
            if share > most:
                raise RunStopped(
                    f"evaluation {f'{name}, {bench}' if bench else name!r}: {share:.1%} of the completions could not be "
                    f"judged, more than scoring.max_failed = {most:g}; an accuracy over the others would mislead. "
                    f"First: {result.first_unjudged}"
                )

    def evaluate_late(self, name: str, step: int) -> None:
        """An evaluation that a stopped run still owes: its numbers join the line of the step, which is on disk."""
        metrics = StepMetrics(step)
        self.evaluate(name, metrics)
        values = {key: value for key, value in metrics.result().items() if key.startswith("eval/")}
        if self.folder is not None and values:
            self.folder.amend_metrics(step, values)

    def evaluated(self, name: str) -> bool:
        """The same answer on every rank."""
        return bool(self.comm.broadcast(self.folder is not None and self.folder.eval_path(name).is_file()))

    # ---- what a step leaves behind ----
    def record(self, step: int, metrics: StepMetrics, trained: Sequence[Group]) -> None:
        """Numbers, rollouts, alarms. The evidence is on disk before an alarm can stop the run."""
        values = metrics.result()
        alarms = self.guards.check(step, values, self._replayable(metrics.notes))
        if self.folder is not None:
            self.folder.append_metrics(step, values, [a.message for a in alarms if a.new])
            self.folder.write_rollouts(step, _with_advantages(self.sampled, trained))
        self.console.step(step, values, alarms)
        raise_if_stopping(alarms)

    def _replayable(self, notes: Mapping[str, str]) -> Mapping[str, str]:
        """With the command that judges the first sample that failed alone; its row is kept for that."""
        if "failed_row" not in notes:
            return notes
        out = Path(self.recipe.output)
        if self.folder is not None:
            self.folder.write_text("failed.jsonl", notes["failed_row"] + "\n")
        files = ["--recipe", str(out / "recipe.yaml"), "--file", str(out / "failed.jsonl")]
        command = ["posttrain", "rewards", "score", *files]
        return {**notes, "failed": f"{notes['failed']}. Replay it alone: `{shlex.join(command)}`"}

    def save_model(self) -> Path:
        """The trained model in Hugging Face format."""
        weights = gathered_weights(self.learner, keep=self.comm.rank == 0)
        out = Path(self.recipe.output) / "model"
        if self.comm.rank == 0:
            with told(out):
                save_pretrained(self.learner, weights, self.model, out)
        return out

    def stop_if_asked(self) -> None:
        """Raises Interrupted on every rank, or on none."""
        if any(self.comm.gather_objects(self.stop())):
            raise Interrupted

    def is_best(self, step: int) -> bool:
        """Whether no step had a better evaluation than this one. The same answer on every rank."""
        fresh, self.fresh = self.fresh, False
        best = self._best(step) if fresh else None
        return best is not None and best.step == step

    def save_checkpoint(self, step: int) -> Path:
        """Of the checkpoints that are kept, the best one is not counted."""
        best = self._best(step)
        with told(Path(self.recipe.output)):
            place = self.checkpoints.save(step, spare=[] if best is None else [best.step])
        if best is not None and self.folder is not None:
            named = best.as_json(str(place.with_name(f"step-{best.step:05d}")))
            self.folder.write_text("best.json", json.dumps(named, indent=2) + "\n")
        return place

    def _best(self, step: int) -> Best | None:
        metric, found = self.recipe.eval.best, None
        if metric is None:
            return None
        if self.folder is not None:
            there = {step, *(int(path.name.removeprefix("step-")) for path in complete(self.checkpoints.folder))}
            found = best_of(read_metrics(self.folder.metrics_path), metric, there)
        return self.comm.broadcast(found)

    def interrupted(self, step: int) -> None:
        """Saves what is finished and says how to go on."""
        saved = self.save_checkpoint(step) if step > 0 else None
        resume = shlex.join(["posttrain", "train", str(self.loaded.path), *self.loaded.overrides, "--resume"])
        self.console.interrupted(step=step, checkpoint=saved, resume=resume)

    def finish(self, step: int) -> None:
        """The model, the summary, the report, and the closing table."""
        self.save_model()
        if self.folder is None:
            return
        before, after = (runner.read(self.folder.eval_path(name)) for name in ("before", "after"))
        self.folder.write_summary(self._summary(step, before, after))
        report = write_report(self.folder.path)
        self.console.finish(before=before, after=after, folder=self.folder.path, report=report)

    def _summary(self, step: int, before: Sequence[runner.Row], after: Sequence[runner.Row]) -> dict[str, Any]:
        return {
            "name": self.recipe.name,
            "seed": self.recipe.seed,
            "steps": step,
            "seconds": round(time.monotonic() - self.began, 1),
            "accuracy_before": runner.mean_accuracy(before),
            "accuracy_after": runner.mean_accuracy(after),
            "problems": len({row["problem_id"] for row in after or before}),
            "samples": self.recipe.eval.samples,
            "ranks": self.comm.world,
            "zero_stage": self.learner.policy.zero_stage,
        }

    def close(self) -> None:
        while self.resources:
            self.resources.pop().close()


def update_batches(groups: Sequence[Group], updates: int, beside: Sequence[Rollout] = ()) -> list[list[Rollout]]:
    """Equal shares of the groups, whole groups in each; fewer than `updates` where there are not as many groups.

    Rows beside the groups are dealt to the updates in turn.
    """
    filled = [g for g in groups if g.rollouts]
    count = min(updates, len(filled))
    if count == 0:
        return [list(beside)] if beside else []
    bounds = [len(filled) * i // count for i in range(count + 1)]
    shares = [[r for g in filled[a:b] for r in g.rollouts] for a, b in itertools.pairwise(bounds)]
    return [[*share, *beside[i::count]] for i, share in enumerate(shares)]


def _with_advantages(groups: Sequence[Group], trained: Sequence[Group]) -> list[Group]:
    """Every rollout that was sampled, with the advantage of those that were trained on."""
    known = {(g.prompt.id, r.seed): r for g in trained for r in g.rollouts}
    return [replace(g, rollouts=tuple(known.get((g.prompt.id, r.seed), r) for r in g.rollouts)) for g in groups]
