"""Where the first weights of a run come from: built from the seed, taken from a folder or the hub, warmed up."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from posttrain.comm import Distributed, SingleProcess
from posttrain.config.errors import ConfigError
from posttrain.config.models import PretrainedModel, TinyModel
from posttrain.config.recipe import Recipe
from posttrain.learner.tiny import build_tiny
from posttrain.rollout.engine import Interrupted
from posttrain.signals import Stop
from posttrain.telemetry.console import Console
from posttrain.warmup import run_warmup


def first_model(
    recipe: Recipe, output: Path, comm: Distributed | SingleProcess, console: Console, resume: bool
) -> Path:
    """A folder with weights, configuration and tokenizer, the same for every rank."""
    model = recipe.model
    if isinstance(model, TinyModel):
        folder = output / "initial"
        if comm.rank == 0 and not (resume and (folder / "model.safetensors").is_file()):
            with console.during("building the tiny model"):
                part = folder.with_name("initial.part")
                build_tiny(model, recipe.seed, part)
                shutil.rmtree(folder, ignore_errors=True)
                part.rename(folder)  # a folder of this name is complete
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


def warm_up(
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


def dtype_of(model: Any, device: torch.device) -> str:
    if isinstance(model, TinyModel):
        return "float32"
    if model.dtype != "auto":
        return str(model.dtype)
    return "float32" if device.type == "cpu" else "bfloat16"


def context_of(recipe: Recipe, source: Path) -> int:
    """Tokens of prompt and completion together: the model's own limit, or the recipe's where that is smaller."""
    from transformers import AutoConfig

    own = int(AutoConfig.from_pretrained(source).max_position_embeddings)
    return min(own, recipe.engine.context or own)
