"""From a recipe to the objects of a run. The only file that knows every concrete class."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from posttrain.collect.credit import Credit
from posttrain.collect.mix import started
from posttrain.comm import Distributed, SingleProcess
from posttrain.config.environment import holds_run, problems
from posttrain.config.errors import ConfigError
from posttrain.config.load import Loaded
from posttrain.config.models import TinyModel
from posttrain.config.recipe import Critic as CriticSettings
from posttrain.config.recipe import Learner as LearnerSettings
from posttrain.config.recipe import Recipe
from posttrain.config.registries import REWARDS
from posttrain.data.chat import fitting, message_builder
from posttrain.data.demonstrations import Renderer
from posttrain.data.tasks import TaskData
from posttrain.data.types import Prompt
from posttrain.evaluation.runner import HeldOut, load_benchmarks
from posttrain.first_weights import context_of, dtype_of, first_model, warm_up
from posttrain.learner.batch import Cut
from posttrain.learner.checkpoint import Checkpoints, latest
from posttrain.learner.learner import Learner, reads_reference
from posttrain.learner.models import load_critic, load_frozen, load_policy, varlen
from posttrain.learner.publish import Probe, Publisher
from posttrain.learner.reference import Reference
from posttrain.learner.sharded import Optimizing, Sharded, zero_stage_of_launch
from posttrain.losses.build import objective_of
from posttrain.rollout.engine import Sampling
from posttrain.rollout.sampler import Sampler
from posttrain.rollout.vllm_engine import EngineSettings, VLLMEngine
from posttrain.run import Run
from posttrain.scoring.scorer import Scorer, scorer_of
from posttrain.signals import Stop
from posttrain.telemetry.console import Console
from posttrain.telemetry.guards import Guards
from posttrain.telemetry.sinks import RunFolder
from posttrain.world import wait_for_builders

# nats; what float32 and bfloat16 arithmetic in two different programs may differ by on a sampled token
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.5}


@dataclass(frozen=True)
class Ground:
    """What every part of a run stands on."""

    loaded: Loaded
    comm: Distributed | SingleProcess
    device: torch.device
    console: Console
    stop: Stop
    folder: RunFolder | None  # on rank 0
    benchmarks: Mapping[str, Sequence[Prompt]]  # that are evaluated beside the held-out problems

    @property
    def recipe(self) -> Recipe:
        return self.loaded.recipe

    @property
    def output(self) -> Path:
        return Path(self.recipe.output)


def assemble(
    loaded: Loaded, comm: Distributed | SingleProcess, device: torch.device, stop: Stop, resume: bool, overwrite: bool
) -> Run:
    """Every object of the run. The engine starts while the warm-up still trains."""
    recipe, began = loaded.recipe, time.monotonic()
    console = Console(steps=recipe.steps, rank=comm.rank)
    messages = message_builder(recipe.chat.system, recipe.chat.user)
    data = recipe.task.load(messages, recipe.eval.problems, recipe.seed)
    judged_by = {REWARDS.name_of(type(part.reward)) for part in recipe.reward.values()}
    benchmarks = load_benchmarks(recipe.eval.bench, messages, judged_by)
    folder = RunFolder(recipe.output) if comm.rank == 0 else None
    if folder is not None:
        _open(folder, loaded, resume, overwrite)
    comm.barrier()
    ground = Ground(loaded, comm, device, console, stop, folder, benchmarks)
    resources: list[Any] = []
    try:
        first = first_model(recipe, ground.output, comm, console, resume)
        engine = _engine(ground, first)
        scorer = scorer_of(recipe) if engine else None
        resources += [thing for thing in (engine, scorer) if thing]
        source = warm_up(recipe, first, ground.output, comm, console, stop, resume)
        run = _connect(ground, data, source, engine, scorer)
    except BaseException:
        while resources:
            resources.pop().close()
        raise
    run.resources[:0] = resources
    run.began, run.resuming = began, resume
    return run


def _open(folder: RunFolder, loaded: Loaded, resume: bool, overwrite: bool) -> None:
    """Makes the folder this run's own, and never at the cost of another run's work."""
    if found := problems(loaded, resume=resume, overwrite=overwrite):
        raise ConfigError("\n".join(found))
    if overwrite and not resume:
        folder.start_over()
        for name in ("initial", "warm", "model", "checkpoints", "recipe.yaml", "best.json"):
            _remove(folder.path / name)
    if resume:
        done = latest(folder.path / "checkpoints")
        folder.truncate_metrics(int(done.name.removeprefix("step-")) + 1 if done else 0)
    elif holds_run(folder.path):
        raise ConfigError(
            f"output: {folder.path} already holds a run of this recipe. Continue it with --resume, start over with "
            "--overwrite (its checkpoints are deleted), or give the new run its own folder with output=runs/NAME"
        )
    folder.write_text("recipe.yaml", loaded.yaml())


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _connect(ground: Ground, data: TaskData, source: Path, engine: VLLMEngine | None, scorer: Scorer | None) -> Run:
    from transformers import AutoTokenizer

    recipe, comm = ground.recipe, ground.comm
    tokenizer, context = AutoTokenizer.from_pretrained(source), context_of(recipe, source)
    room = min(context, recipe.learner.tokens_per_micro_batch) - recipe.sampling.max_tokens  # for a prompt
    train, heldout = (fitting(tokenizer, p, room, recipe.chat.too_long) for p in (data.train, data.heldout))
    benches = {name: fitting(tokenizer, of, room, recipe.chat.too_long) for name, of in ground.benchmarks.items()}
    for name, of in benches.items():
        if left_out := len(ground.benchmarks[name]) - len(of):
            ground.console.note(f"eval.bench {name}: {left_out} questions are too long, and no part of its score")
    engine_ranks = [rank for rank, has in enumerate(comm.gather_objects(engine is not None)) if has]
    objective = objective_of(recipe)
    assign = Credit(recipe.shaping, recipe.advantage, recipe.selects)
    with ground.console.during("starting DeepSpeed"):
        learner = _learner(ground, source, reads_reference(objective, assign.needs))
    recipe.curriculum.start(train, recipe.seed)
    render = Renderer(tokenizer, min(context, recipe.learner.tokens_per_micro_batch))
    messages = message_builder(recipe.chat.system, recipe.chat.user)
    mixes = started(
        recipe.mixes,
        {origin for part in objective.parts.values() for origin in part.rows},
        lambda mix: mix.start(train, messages, render, recipe.seed, data.heldout),
        ground.console.note,
    )
    guards = _guards(recipe)
    keep, checkpoints = recipe.checkpoint.keep, ground.output / "checkpoints"
    publisher = Publisher(learner, comm, engine.load_weights if engine else None)
    return Run(
        loaded=ground.loaded,
        comm=comm,
        console=ground.console,
        stop=ground.stop,
        folder=ground.folder,
        model=source,
        curriculum=recipe.curriculum,
        strategy=recipe.strategy,
        assign=assign,
        mixes=mixes,
        objective=objective,
        sampler=Sampler(
            tokenizer,
            comm,
            engine,
            scorer,
            engine_ranks,
            context,
            recipe.seed,
            ground.stop,
            longest=recipe.learner.tokens_per_micro_batch,
        ),
        sampling=_sampling(recipe, recipe.sampling.temperature),
        probe_prompts=_probe_prompts(train, recipe.engine.probe.prompts * len(engine_ranks)),
        learner=learner,
        rate=recipe.learner.schedule,
        publisher=publisher,
        probe=_probe(ground),
        evaluations=_evaluations(recipe, {**benches, "": heldout}),
        checkpoints=Checkpoints(checkpoints, keep, source, learner, comm, _stateful(recipe, guards)),
        guards=guards,
        resources=[publisher],
    )


def _probe_prompts(prompts: Sequence[Prompt], count: int) -> list[Prompt]:
    """As many for every engine, also where there are fewer prompts than engines."""
    return [prompts[i % len(prompts)] for i in range(count)]


def _sampling(recipe: Recipe, temperature: float) -> Sampling:
    return Sampling(temperature=temperature, max_tokens=recipe.sampling.max_tokens)


def _evaluations(recipe: Recipe, problems: Mapping[str, Sequence[Prompt]]) -> list[HeldOut]:
    """The held-out ones last: their file says that the evaluation is complete."""
    sampling = _sampling(recipe, recipe.eval.temperature)
    return [HeldOut(of, recipe.eval.samples, sampling, name) for name, of in problems.items()]


def _guards(recipe: Recipe) -> Guards:
    return Guards(
        max_tokens=recipe.sampling.max_tokens,
        all_zero_steps=recipe.guards.all_zero_steps,
        truncated=recipe.guards.truncated,
        max_failed=recipe.scoring.max_failed,
    )


def _probe(ground: Ground) -> Probe:
    tolerance = ground.recipe.engine.probe.tolerance
    return Probe(TOLERANCE[dtype_of(ground.recipe.model, ground.device)] if tolerance == "auto" else tolerance)


# ---- engine and learner ----
def _engine(ground: Ground, model: Path) -> VLLMEngine | None:
    """One engine per rank on GPUs, one per node on the CPU."""
    recipe, on_cpu = ground.recipe, ground.device.type == "cpu"
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if on_cpu and local != 0:
        return None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    settings = EngineSettings(
        model=str(model),
        dtype=dtype_of(recipe.model, ground.device),
        context=context_of(recipe, model),
        max_sequences=recipe.engine.max_sequences,
        kv_cache_gib=recipe.engine.kv_cache_gib,
        gpu_memory=recipe.engine.gpu_memory,
        device="cpu" if on_cpu else (visible.split(",")[local] if visible else str(local)),
    )
    log = ground.output / f"engine-{ground.comm.rank}.log"
    return VLLMEngine(settings, log, recipe.engine.start_timeout, ground.stop)


def _learner(ground: Ground, source: Path, needs_reference: bool) -> Learner:
    wait_for_builders(ground.comm, ground.console)
    import deepspeed

    with contextlib.redirect_stdout(sys.stderr):  # it reports what it loads between the lines of the progress table
        deepspeed.init_distributed(dist_backend=torch.distributed.get_backend(), verbose=False)
    recipe, stage = ground.recipe, zero_stage_of_launch()
    attention = "auto" if isinstance(recipe.model, TinyModel) else recipe.model.attention
    dtype = dtype_of(recipe.model, ground.device)
    settings, reference, critic = recipe.learner, None, None
    policy = Sharded(load_policy(source, dtype, attention, ground.device), _optimizing(recipe, settings), stage)
    if recipe.critic is not None:
        module = load_critic(Path(recipe.critic.path or source), dtype, attention)
        critic = Sharded(module, _optimizing(recipe, recipe.critic), stage)
    if needs_reference:
        frozen = load_frozen(Path(recipe.reference.path or source), dtype, attention, ground.device)
        reference = Reference(frozen)
    packed = varlen(attention) if settings.packing == "auto" else settings.packing
    return Learner(
        policy=policy,
        comm=ground.comm,
        device=ground.device,
        cut=Cut(settings.tokens_per_micro_batch, settings.head_chunk, packed),
        critic=critic,
        reference=reference,
        critic_warmup=recipe.critic.warmup if recipe.critic is not None else 0,
    )


def _optimizing(recipe: Recipe, own: LearnerSettings | CriticSettings) -> Optimizing:
    """The critic has a learning rate and a clipping of its own; the rest of AdamW is the policy's."""
    shared = recipe.learner
    return Optimizing(own.lr, (shared.betas[0], shared.betas[1]), shared.eps, shared.weight_decay, own.max_grad_norm)


def _stateful(recipe: Recipe, guards: Guards) -> dict[str, Any]:
    """Whatever remembers something from step to step goes into the checkpoint."""
    candidates: dict[str, Any] = {
        "curriculum": recipe.curriculum,
        "guards": guards,
        "strategy": recipe.strategy,
        "advantage": recipe.advantage,
        **{f"shaping.{name}": shape for name, shape in recipe.shaping.items()},
        **{f"mixes.{name}": mix for name, mix in recipe.mixes.items()},
        **{f"selects.{i}": select for i, select in enumerate(recipe.selects)},
    }
    for name, part in recipe.objective.items():
        candidates[f"objective.{name}.term"] = part.term
        candidates |= {f"objective.{name}.gates.{i}": gate for i, gate in enumerate(part.gates)}
    return {name: thing for name, thing in candidates.items() if hasattr(thing, "state_dict")}
