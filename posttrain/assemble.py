"""From a recipe to the objects of a run. The only file that knows every concrete class."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from posttrain.comm import Distributed, SingleProcess
from posttrain.config.environment import holds_run, problems
from posttrain.config.errors import ConfigError
from posttrain.config.load import Loaded
from posttrain.config.models import TinyModel
from posttrain.config.recipe import Recipe
from posttrain.data.chat import fitting, message_builder
from posttrain.data.tasks import TaskData
from posttrain.data.types import Origin, Prompt
from posttrain.evaluation.runner import HeldOut
from posttrain.first_weights import context_of, dtype_of, first_model, warm_up
from posttrain.learner.checkpoint import Checkpoints, latest
from posttrain.learner.deepspeed import DeepSpeedLearner, zero_stage_of_launch
from posttrain.learner.models import load_policy
from posttrain.learner.publish import Probe, Publisher
from posttrain.losses.api import Objective, Part
from posttrain.rollout.engine import Sampling
from posttrain.rollout.sampler import Sampler
from posttrain.rollout.vllm_engine import EngineSettings, VLLMEngine
from posttrain.run import Run
from posttrain.scoring.scorer import Scorer
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
    data = recipe.task.load(message_builder(recipe.chat.system, recipe.chat.user), recipe.eval.problems, recipe.seed)
    folder = RunFolder(recipe.output) if comm.rank == 0 else None
    if folder is not None:
        _open(folder, loaded, resume, overwrite)
    comm.barrier()
    ground = Ground(loaded, comm, device, console, stop, folder)
    resources: list[Any] = []
    try:
        first = first_model(recipe, ground.output, comm, console, resume)
        engine = _engine(ground, first)
        scorer = _scorer(recipe) if engine else None
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
        for name in ("initial", "warm", "model", "checkpoints", "recipe.yaml"):
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
    engine_ranks = [rank for rank, has in enumerate(comm.gather_objects(engine is not None)) if has]
    with ground.console.during("starting DeepSpeed"):
        learner = _learner(ground, source)
    recipe.curriculum.start(train, recipe.seed)
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
        advantage=recipe.advantage,
        selects=recipe.selects,
        objective=_objective(recipe),
        sampler=Sampler(tokenizer, comm, engine, scorer, engine_ranks, context, recipe.seed, ground.stop),
        sampling=_sampling(recipe, recipe.sampling.temperature),
        probe_prompts=_probe_prompts(train, recipe.engine.probe.prompts * len(engine_ranks)),
        learner=learner,
        rate=recipe.learner.schedule,
        publisher=publisher,
        probe=_probe(ground),
        heldout=HeldOut(heldout, recipe.eval.samples, _sampling(recipe, recipe.eval.temperature)),
        checkpoints=Checkpoints(checkpoints, keep, source, learner, comm, _stateful(recipe, guards)),
        guards=guards,
        resources=[publisher],
    )


def _probe_prompts(prompts: Sequence[Prompt], count: int) -> list[Prompt]:
    """As many for every engine, also where there are fewer prompts than engines."""
    return [prompts[i % len(prompts)] for i in range(count)]


def _sampling(recipe: Recipe, temperature: float) -> Sampling:
    return Sampling(temperature=temperature, max_tokens=recipe.sampling.max_tokens)


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


def _scorer(recipe: Recipe) -> Scorer:
    return Scorer(
        {name: (part.reward, part.weight) for name, part in recipe.reward.items()},
        workers=recipe.scoring.workers,
        timeout=recipe.scoring.timeout,
        memory_mb=recipe.scoring.memory_mb,
    )


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


def _learner(ground: Ground, source: Path) -> DeepSpeedLearner:
    wait_for_builders(ground.comm, ground.console)
    import deepspeed

    with contextlib.redirect_stdout(sys.stderr):  # it reports what it loads between the lines of the progress table
        deepspeed.init_distributed(dist_backend=torch.distributed.get_backend(), verbose=False)
    model = ground.recipe.model
    attention = "auto" if isinstance(model, TinyModel) else model.attention
    policy = load_policy(source, dtype_of(model, ground.device), attention, ground.device)
    return DeepSpeedLearner(policy, ground.recipe.learner, ground.comm, ground.device, zero_stage_of_launch())


def _stateful(recipe: Recipe, guards: Guards) -> dict[str, Any]:
    """Whatever remembers something from step to step goes into the checkpoint."""
    candidates: dict[str, Any] = {
        "curriculum": recipe.curriculum,
        "guards": guards,
        "strategy": recipe.strategy,
        "advantage": recipe.advantage,
        **{f"selects.{i}": select for i, select in enumerate(recipe.selects)},
    }
    for name, part in recipe.objective.items():
        candidates[f"objective.{name}.term"] = part.term
        candidates |= {f"objective.{name}.gates.{i}": gate for i, gate in enumerate(part.gates)}
    return {name: thing for name, thing in candidates.items() if hasattr(thing, "state_dict")}


def _objective(recipe: Recipe) -> Objective:
    parts = {
        name: Part(
            term=part.term,
            weight=part.weight,
            rows=tuple(Origin[row.upper()] for row in part.rows),
            gates=tuple(part.gates),
            reduce=part.reduce,
            length=part.length,
            count=part.count,
        )
        for name, part in recipe.objective.items()
    }
    return Objective(parts)
