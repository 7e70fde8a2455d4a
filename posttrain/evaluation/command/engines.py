"""From a model's folder to what serves it: tokenizer, limits, the tokens that end a completion, engines on devices."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from posttrain.config.errors import ConfigError
from posttrain.evaluation.environment import gpus
from posttrain.evaluation.models import Model, read_json
from posttrain.evaluation.protocols import Protocol
from posttrain.evaluation.weights import Broken
from posttrain.rollout.fleet import Fleet
from posttrain.rollout.vllm_engine import EngineSettings, VLLMEngine

START_TIMEOUT = 1800.0  # seconds for large models from a slow disk, compiled kernels included
PREFILL = 16384  # tokens of one forward pass on GPUs, as vLLM itself takes for offline work on large ones


@dataclass(frozen=True, kw_only=True)
class Serving:
    """How models are served. `devices` has the CUDA numbers of each engine; empty on the CPU."""

    dtype: str
    context: int | None  # asked for; None: what prompts and completions need, within the model's own limit
    tensor_parallel: int
    data_parallel: int
    devices: tuple[str, ...]
    max_sequences: int
    gpu_memory: float
    kv_cache_gib: float
    batch_invariant: bool


def serving(options: Any) -> Serving:
    """From the options of the command. Raises ConfigError where there are not as many GPUs as asked for."""
    present = _visible(len(gpus()))
    tensor, data = options.tensor_parallel, options.data_parallel
    for name, value in (("--tensor-parallel", tensor), ("--data-parallel", data), ("--context", options.context)):
        if value is not None and value < 1:
            raise ConfigError(f"{name}={value}: at least 1 is needed.")
    if present and tensor * data > len(present):
        raise ConfigError(
            f"--tensor-parallel={tensor} times --data-parallel={data} needs {tensor * data} GPUs, and {len(present)} can be "
            "seen (CUDA_VISIBLE_DEVICES). Lower one of them."
        )
    shares = tuple(",".join(present[i * tensor : (i + 1) * tensor]) for i in range(data)) if present else ()
    dtype = options.dtype if options.dtype != "auto" else ("bfloat16" if present else "float32")
    return Serving(
        dtype=dtype,
        context=options.context,
        tensor_parallel=tensor,
        data_parallel=data,
        devices=shares,
        max_sequences=options.max_sequences or (1024 if present else 256),
        gpu_memory=options.gpu_memory,
        kv_cache_gib=options.kv_cache_gib,
        batch_invariant=options.batch_invariant,
    )


def _visible(count: int) -> list[str]:
    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [str(i) for i in range(count)] if told is None else [d for d in told.split(",") if d and count]


# ---- what the model's folder says ----
def base_of(model: Model) -> Path:
    """The folder with the weights: of an adapter, that of the model it belongs to."""
    return model.base or model.path


def tokenizer_of(model: Model) -> Any:
    """An adapter's own tokenizer where it has one. Raises ConfigError, whatever is wrong with the files."""
    from transformers import AutoTokenizer

    folder = model.path if (model.path / "tokenizer_config.json").is_file() else base_of(model)
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # broken files raise anything here, from KeyError to Rust's bare Exception
        reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise ConfigError(
            f"{folder}: the tokenizer cannot be loaded ({type(error).__name__}: {reason[:300]})"
        ) from None


def limit_of(folder: Path) -> int:
    """Most tokens of prompt and completion that the model was made for."""
    config = _json(folder / "config.json", needed=True)
    found = config.get("max_position_embeddings") or (config.get("text_config") or {}).get("max_position_embeddings")
    if not isinstance(found, int) or found < 2:
        raise ConfigError(f"{folder / 'config.json'} has no max_position_embeddings: say --context N.")
    return found


def stops_of(folder: Path, tokenizer: Any, protocol: Protocol) -> tuple[int, ...]:
    """Ids of the tokens that end a completion: the generation config's, the tokenizer's and the protocol's."""
    end = _json(folder / "generation_config.json").get("eos_token_id")
    named = end if isinstance(end, list) else [end]
    ids = [*named, tokenizer.eos_token_id, *protocol.stop_ids(tokenizer)]
    return tuple(dict.fromkeys(token for token in ids if isinstance(token, int)))


def _json(path: Path, needed: bool = False) -> dict[str, Any]:
    if not path.is_file() and not needed:
        return {}
    try:
        return read_json(path)
    except Broken as error:
        raise ConfigError(str(error)) from None


# ---- engines ----
def context_for(model: Model, serving: Serving, prompts: Sequence[int], max_tokens: int) -> int:
    """Tokens of prompt and completion together: what the longest prompt needs, within the model's limit."""
    limit = serving.context or limit_of(base_of(model))
    return min(limit, max(prompts, default=0) + max_tokens)


def start(
    model: Model, serving: Serving, stops: Sequence[int], context: int, logs: Path, stopping: Callable[[], bool]
) -> Fleet:
    """One engine process for each share of the data, all at once. They come up while the caller goes on."""
    settings = EngineSettings(
        model=str(base_of(model)),
        dtype=serving.dtype,
        context=context,
        max_sequences=serving.max_sequences,
        kv_cache_gib=serving.kv_cache_gib,
        gpu_memory=serving.gpu_memory,
        tensor_parallel=serving.tensor_parallel,
        prefill=max(PREFILL, context),
        logprobs=False,
        stops=tuple(stops),
        adapter=str(model.path) if model.kind == "adapter" else "",
        lora_rank=model.rank or 0,
        batch_invariant=serving.batch_invariant,
    )
    engines = []
    for i in range(serving.data_parallel):
        device = serving.devices[i] if serving.devices else "cpu"
        log = logs / f"{model.key}-{i}.log"
        log.unlink(missing_ok=True)
        engines.append(VLLMEngine(replace(settings, device=device), log, START_TIMEOUT, stopping))
    return Fleet(engines)
