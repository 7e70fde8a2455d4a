"""From a recipe to the objects of a run. The only file that knows every concrete class."""

from __future__ import annotations

import os
import shutil
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from posttrain import doctor
from posttrain.comm import Distributed, SingleProcess
from posttrain.config.environment import problems
from posttrain.config.errors import ConfigError
from posttrain.config.load import Loaded
from posttrain.config.models import PretrainedModel, TinyModel
from posttrain.config.recipe import Recipe
from posttrain.data.chat import fitting, message_builder
from posttrain.data.tasks import TaskData
from posttrain.data.types import Origin
from posttrain.evaluation.runner import HeldOut
from posttrain.learner.checkpoint import Checkpoints, latest
from posttrain.learner.deepspeed import DeepSpeedLearner, zero_stage_of_launch
from posttrain.learner.models import load_policy
from posttrain.learner.publish import Probe, Publisher
from posttrain.learner.tiny import build_tiny
from posttrain.losses.api import Objective, Part
from posttrain.rollout.engine import Interrupted, Sampling
from posttrain.rollout.sampler import Sampler
from posttrain.rollout.vllm_engine import EngineSettings, VLLMEngine
from posttrain.run import Run
from posttrain.scoring.scorer import Scorer
from posttrain.signals import Stop
from posttrain.telemetry.console import Console
from posttrain.telemetry.guards import Guards
from posttrain.telemetry.sinks import RunFolder
from posttrain.warmup import run_warmup

# nats; what float32 and bfloat16 arithmetic in two different programs may differ by on a sampled token
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.5}
WORLD_TIMEOUT = timedelta(hours=6)  # ranks wait for rank 0's warm-up and evaluations


def join_world() -> tuple[Distributed | SingleProcess, torch.device]:
    """The launched ranks. Without a launcher: one process, which joins a world of its own."""
    cuda = torch.cuda.is_available()
    if not cuda:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    # torch looks for ninja on the PATH even when the extension is built, and it lies beside this Python.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    # In the environment's own folder: a build killed elsewhere leaves a lock that every later start waits for.
    os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(doctor.extensions_dir()))
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("MASTER_PORT", str(_free_port()))
    local, local_world = int(os.environ["LOCAL_RANK"]), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if cuda:
        torch.cuda.set_device(local)
    else:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // local_world))
    torch.distributed.init_process_group("nccl" if cuda else "gloo", timeout=WORLD_TIMEOUT)
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    return Distributed(device), device


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
        first = _first_model(recipe, output, comm, console)
        dtype = _dtype(recipe.model, device)
        engine = _engine(recipe, first, dtype, device, comm, output, stop)
        resources += [engine] if engine else []
        scorer = Scorer(
            {name: (part.reward, part.weight) for name, part in recipe.reward.items()},
            workers=recipe.scoring.workers,
            timeout=recipe.scoring.timeout,
            memory_mb=recipe.scoring.memory_mb,
        ) if engine else None  # fmt: skip
        resources += [scorer] if scorer else []
        source = _warm(recipe, first, output, comm, console, stop, resume)
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
    elif folder.holds_run() or latest(folder.path / "checkpoints"):
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
    context = _context(recipe, source)
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
    stateful = {"curriculum": recipe.curriculum, "guards": guards}
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
            Path(recipe.output) / "checkpoints", recipe.checkpoint.keep, source, learner, comm, stateful
        ),
        guards=guards,
        resources=[publisher],
    )


# ---- the model ----
def _first_model(recipe: Recipe, output: Path, comm: Distributed | SingleProcess, console: Console) -> Path:
    """A folder with weights, configuration and tokenizer, the same for every rank."""
    model = recipe.model
    if isinstance(model, TinyModel):
        folder = output / "initial"
        if comm.rank == 0 and not (folder / "model.safetensors").is_file():
            with console.during("building the tiny model"):
                build_tiny(model, recipe.seed, folder)
        comm.barrier()
        return folder
    assert isinstance(model, PretrainedModel)
    return model.folder if model.is_local else Path(comm.broadcast(_download(model) if comm.rank == 0 else None))


def _download(model: PretrainedModel) -> str:
    import httpx
    from huggingface_hub import snapshot_download

    try:
        patterns = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]  # never pickles, never code
        return snapshot_download(model.path, revision=model.revision, allow_patterns=patterns)
    except (OSError, ValueError, RuntimeError, httpx.HTTPError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(
            f"model.path={model.path!r} could not be fetched from the Hugging Face hub: {reason}. Check the id and the "
            "network, or give a local folder in Hugging Face format"
        ) from None


def _warm(
    recipe: Recipe,
    first: Path,
    output: Path,
    comm: Distributed | SingleProcess,
    console: Console,
    stop: Stop,
    resume: bool,
) -> Path:
    """The model after supervised warm-up; `first` itself where the recipe has none."""
    if recipe.warmup is None:
        return first
    warm = output / "warm"
    if comm.rank == 0 and not (resume and (warm / "model.safetensors").is_file()):
        with console.during("supervised warm-up"):
            report = lambda step, steps, loss: console.progress(step, steps, loss=loss)  # noqa: E731
            if not run_warmup(recipe, output / "recipe.yaml", first, warm, report, stop):
                raise Interrupted
    comm.barrier()
    return warm


def _dtype(model: Any, device: torch.device) -> str:
    if isinstance(model, TinyModel):
        return "float32"
    if model.dtype != "auto":
        return str(model.dtype)
    return "float32" if device.type == "cpu" else "bfloat16"


def _context(recipe: Recipe, source: Path) -> int:
    """Tokens of prompt and completion together: the model's own limit, or the recipe's where that is smaller."""
    from transformers import AutoConfig

    own = int(AutoConfig.from_pretrained(source).max_position_embeddings)
    return min(own, recipe.engine.context or own)


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
        context=_context(recipe, model),
        max_sequences=recipe.engine.max_sequences,
        kv_cache_gib=recipe.engine.kv_cache_gib,
        gpu_memory=recipe.engine.gpu_memory,
        device="cpu" if device.type == "cpu" else (visible.split(",")[local] if visible else str(local)),
    )
    return VLLMEngine(settings, output / f"engine-{comm.rank}.log", recipe.engine.start_timeout, stop)


def _wait_for_builders(comm: Distributed | SingleProcess, console: Console) -> None:
    """torch waits for the lock of an extension for ever and without a word; we remove dead ones and name living ones."""
    if comm.rank == 0:
        folder = Path(os.environ["TORCH_EXTENSIONS_DIR"])
        for lock in doctor.remove_stale_locks(folder):
            console.note(f"removed {lock}: the process that was compiling there is gone")
        deadline = time.monotonic() + doctor.BUILD_LIMIT
        while held := doctor.locks(folder):
            console.working(f"waiting for the process that compiles behind {held[0]}")
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"another process has been compiling behind {held[0]} for {doctor.BUILD_LIMIT:.0f} s: end it"
                )
            time.sleep(0.5)
    comm.barrier()


def _learner(
    recipe: Recipe,
    source: Path,
    dtype: str,
    comm: Distributed | SingleProcess,
    device: torch.device,
    console: Console,
) -> DeepSpeedLearner:
    _wait_for_builders(comm, console)
    import deepspeed

    deepspeed.init_distributed(dist_backend=torch.distributed.get_backend(), verbose=False)
    attention = "auto" if isinstance(recipe.model, TinyModel) else recipe.model.attention
    policy = load_policy(source, dtype, attention, device)
    return DeepSpeedLearner(policy, recipe.learner, comm, device, zero_stage_of_launch())


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


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
