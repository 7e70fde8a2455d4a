"""From a recipe to the objects of a run. The only file that knows every concrete class."""

from __future__ import annotations

import os
import shutil
import time
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
from posttrain.data.types import Origin
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


def assemble(
    loaded: Loaded, comm: Distributed | SingleProcess, device: torch.device, stop: Stop, resume: bool, overwrite: bool
) -> Run:
    """Every object of the run. The engine starts while the warm-up still trains."""
    recipe = loaded.recipe
    console = Console(steps=recipe.steps, rank=comm.rank)
    began = time.monotonic()
    data = recipe.task.load(message_builder(recipe.chat.system, recipe.chat.user), recipe.eval.problems, recipe.seed)
    output = Path(recipe.output)
    folder = RunFolder(output) if comm.rank == 0 else None
    if folder is not None:
        _open(folder, loaded, resume, overwrite)
    comm.barrier()
    resources: list[Any] = []
    try:
        first = first_model(recipe, output, comm, console, resume)
        dtype = dtype_of(recipe.model, device)
        engine = _engine(recipe, first, dtype, device, comm, output, stop)
        resources += [engine] if engine else []
        scorer = Scorer(
            {name: (part.reward, part.weight) for name, part in recipe.reward.items()},
            workers=recipe.scoring.workers,
            timeout=recipe.scoring.timeout,
            memory_mb=recipe.scoring.memory_mb,
        ) if engine else None  # fmt: skip
        resources += [scorer] if scorer else []
        source = warm_up(recipe, first, output, comm, console, stop, resume)
        run = _connect(loaded, data, comm, device, console, stop, folder, source, dtype, engine, scorer)
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


def _connect(
    loaded: Loaded,
    data: TaskData,
    comm: Distributed | SingleProcess,
    device: torch.device,
    console: Console,
    stop: Stop,
    folder: RunFolder | None,
    source: Path,
    dtype: str,
    engine: VLLMEngine | None,
    scorer: Scorer | None,
) -> Run:
    from transformers import AutoTokenizer

    recipe = loaded.recipe
    tokenizer = AutoTokenizer.from_pretrained(source)
    context = context_of(recipe, source)
    train = fitting(tokenizer, data.train, context - recipe.sampling.max_tokens, recipe.chat.too_long)
    heldout = fitting(tokenizer, data.heldout, context - recipe.sampling.max_tokens, recipe.chat.too_long)
    engine_ranks = [rank for rank, has in enumerate(comm.gather_objects(engine is not None)) if has]
    console.phase("starting DeepSpeed")
    learner = _learner(recipe, source, dtype, comm, device, console)
    console.done()
    sampler = Sampler(tokenizer, comm, engine, scorer, engine_ranks, context, recipe.seed)
    publisher = Publisher(learner, comm, engine.load_weights if engine else None)
    recipe.curriculum.start(train, recipe.seed)
    guards = Guards(
        max_tokens=recipe.sampling.max_tokens,
        all_zero_steps=recipe.guards.all_zero_steps,
        truncated=recipe.guards.truncated,
        max_failed=recipe.scoring.max_failed,
    )
    tolerance = recipe.engine.probe.tolerance
    return Run(
        loaded=loaded,
        comm=comm,
        console=console,
        stop=stop,
        folder=folder,
        model=source,
        curriculum=recipe.curriculum,
        strategy=recipe.strategy,
        advantage=recipe.advantage,
        selects=recipe.selects,
        objective=_objective(recipe),
        sampler=sampler,
        sampling=Sampling(temperature=recipe.sampling.temperature, max_tokens=recipe.sampling.max_tokens),
        probe_prompts=train[: recipe.engine.probe.prompts * len(engine_ranks)],
        learner=learner,
        rate=recipe.learner.schedule,
        publisher=publisher,
        probe=Probe(TOLERANCE[dtype] if tolerance == "auto" else tolerance),
        heldout=HeldOut(
            heldout,
            recipe.eval.samples,
            Sampling(temperature=recipe.eval.temperature, max_tokens=recipe.sampling.max_tokens),
        ),
        checkpoints=Checkpoints(
            Path(recipe.output) / "checkpoints",
            recipe.checkpoint.keep,
            source,
            learner,
            comm,
            _stateful(recipe, guards),
        ),
        guards=guards,
        resources=[publisher],
    )


# ---- engine and learner ----
def _engine(
    recipe: Recipe,
    model: Path,
    dtype: str,
    device: torch.device,
    comm: Distributed | SingleProcess,
    output: Path,
    stop: Stop,
) -> VLLMEngine | None:
    """One engine per rank on GPUs, one per node on the CPU."""
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if device.type == "cpu" and local != 0:
        return None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    settings = EngineSettings(
        model=str(model),
        dtype=dtype,
        context=context_of(recipe, model),
        max_sequences=recipe.engine.max_sequences,
        kv_cache_gib=recipe.engine.kv_cache_gib,
        gpu_memory=recipe.engine.gpu_memory,
        device="cpu" if device.type == "cpu" else (visible.split(",")[local] if visible else str(local)),
    )
    return VLLMEngine(settings, output / f"engine-{comm.rank}.log", recipe.engine.start_timeout, stop)


def _learner(
    recipe: Recipe,
    source: Path,
    dtype: str,
    comm: Distributed | SingleProcess,
    device: torch.device,
    console: Console,
) -> DeepSpeedLearner:
    wait_for_builders(comm, console)
    import deepspeed

    deepspeed.init_distributed(dist_backend=torch.distributed.get_backend(), verbose=False)
    attention = "auto" if isinstance(recipe.model, TinyModel) else recipe.model.attention
    policy = load_policy(source, dtype, attention, device)
    return DeepSpeedLearner(policy, recipe.learner, comm, device, zero_stage_of_launch())


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
