"""vLLM in a process of its own. The only module that names vLLM's API.

The engine's process has its own environment (threads, devices, none of the launcher's variables), its own log file
and its own process group: a Ctrl-C in the terminal reaches the trainer alone, which then ends the engine.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from posttrain.config.errors import ConfigError
from posttrain.rollout.engine import Completion, Request, Sampling
from posttrain.rollout.process import EngineProcess

INSTALL = (
    "vLLM is not installed: run `make setup` in the checkout, or `pip install 'posttrain[vllm]'` on a CUDA machine."
)
# Of the launcher's variables none may reach vLLM, which would take itself for a rank of the learner's world.
_LAUNCHER = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "GROUP_RANK",
    "ROLE_RANK",
    "CROSS_RANK",
    "CROSS_SIZE",
)
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM's kernels are made for
_LAUNCHER_PREFIXES = ("MASTER_", "TORCHELASTIC_", "ACCELERATE_", "FSDP_", "OMP_", "DS_")


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """What one engine process needs to know. Sizes in GiB and tokens."""

    model: str
    dtype: str = "float32"
    context: int = 256
    max_sequences: int = 256
    kv_cache_gib: float = 1.0
    gpu_memory: float = 0.35
    device: str = "cpu"  # "cpu", or the CUDA devices' numbers, "0" or "0,1"
    threads: int | None = None  # of OpenMP for each part, on the CPU; None: all cores but one
    tensor_parallel: int = 1  # processes that share the model
    prefill: int | None = None  # most tokens of one forward pass on GPUs; None: vLLM's own choice
    logprobs: bool = True  # of the sampled tokens; without them, completions come with an empty `logp`
    stops: tuple[int, ...] = ()  # token ids that end a completion beside those of the model's configuration
    adapter: str = ""  # folder of a LoRA adapter that every completion is sampled with
    lora_rank: int = 0  # its rank
    batch_invariant: bool = False  # on GPUs: the same tokens whatever runs beside them, at some cost of speed


class VLLMEngine(EngineProcess):
    """The parent's side: starts the process, sends requests, hands on completions as they finish.

    Raises `EngineError` when the process does not come up within `start_timeout` seconds or dies later, and
    `Interrupted` when `stopping()` turns true during a wait; the engine is then good for nothing but `close`.
    """

    def __init__(
        self,
        settings: EngineSettings,
        log: Path,
        start_timeout: float = 300.0,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        if importlib.util.find_spec("vllm") is None:
            raise ConfigError(INSTALL)
        self.settings, self.version = settings, 0
        environment, argument = _child_environment(settings), json.dumps(asdict(settings))
        super().__init__("posttrain.rollout.vllm_engine", argument, environment, log, start_timeout, stopping)

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, on_done: Callable[[Completion], None] | None = None
    ) -> list[Completion]:
        self.wait_until_ready()
        if not requests:
            return []
        rows = [(r.key, [int(t) for t in r.prompt_ids], r.seed) for r in requests]
        self._send(("generate", rows, asdict(sampling)))
        done: dict[int, Completion] = {}
        while len(done) < len(requests):
            for key, ids, logp, finish in self._expect("done"):
                completion = Completion(
                    key=key,
                    token_ids=np.asarray(ids, dtype=np.int64),
                    logp=np.asarray(logp, dtype=np.float32),
                    finish="stop" if finish == "stop" else "length",
                    version=self.version,
                )
                done[key] = completion
                if on_done is not None:
                    on_done(completion)
        return [done[r.key] for r in requests]

    def load_weights(self, folder: Path, version: int) -> None:
        self.wait_until_ready()
        self._send(("load", str(folder)))
        self._expect("loaded")
        self.version = version


def _child_environment(settings: EngineSettings) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in _LAUNCHER and not k.startswith(_LAUNCHER_PREFIXES)}
    kept |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # this process already is the engine's own
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
    }
    if settings.device == "cpu":
        kept["CUDA_VISIBLE_DEVICES"] = ""
        # An idle OpenMP team spins for 200 ms by default and takes the learner's cores.
        kept["KMP_BLOCKTIME"] = "1"
        cores, parts = sorted(os.sched_getaffinity(0)), settings.tensor_parallel
        # Threads that wait for each other crawl where anything else takes turns with one of them, as verdicts do.
        kept["OMP_NUM_THREADS"] = str(settings.threads or max(1, len(cores) // parts - 1))
        if parts > 1:  # vLLM itself would give each part a NUMA node of its own
            shares = [cores[i * len(cores) // parts : (i + 1) * len(cores) // parts] for i in range(parts)]
            kept["VLLM_CPU_OMP_THREADS_BIND"] = "|".join(",".join(map(str, share)) for share in shares)
    else:
        kept["CUDA_VISIBLE_DEVICES"] = settings.device
        if settings.batch_invariant:
            kept["VLLM_BATCH_INVARIANT"] = "1"
    return kept


# ---- the engine's process ----


def _build(settings: dict[str, Any]) -> Any:
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine

    on_cpu = settings["device"] == "cpu"
    if on_cpu:
        backend = {
            "kv_cache_memory_bytes": int(settings["kv_cache_gib"] * 2**30),
            "enforce_eager": True,
            # A prompt that is prefilled in pieces makes vLLM rewind the request's seeded generator, which a CPU
            # generator cannot do ("CPU Generator does not use offset"): prompts are prefilled whole.
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(8192, settings["context"]),
        }
    else:
        backend = {"gpu_memory_utilization": settings["gpu_memory"]}
        if settings["prefill"] is not None:
            backend["max_num_batched_tokens"] = settings["prefill"]
    if settings["tensor_parallel"] > 1:
        backend |= {"tensor_parallel_size": settings["tensor_parallel"], "distributed_executor_backend": "mp"}
    if settings["adapter"]:
        rank = next((size for size in LORA_RANKS if size >= settings["lora_rank"]), LORA_RANKS[-1])
        backend |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": rank}
    return LLMEngine.from_engine_args(
        EngineArgs(
            model=settings["model"],
            dtype=settings["dtype"],
            max_model_len=settings["context"],
            max_num_seqs=settings["max_sequences"],
            enable_prefix_caching=True,  # the samples of a prompt share its prefill; forgotten with every new version
            # What the importance ratio needs: log-probabilities of the distribution that was sampled from.
            logprobs_mode="processed_logprobs",
            skip_tokenizer_init=True,
            seed=0,
            disable_log_stats=True,
            generation_config="vllm",  # the model folder's own defaults must not change the sampling
            **backend,
        )
    )


def _generate(
    engine: Any,
    connection: Connection,
    rows: list[tuple[int, list[int], int]],
    sampling: dict[str, Any],
    settings: dict[str, Any],
) -> None:
    from vllm import SamplingParams
    from vllm.lora.request import LoRARequest
    from vllm.sampling_params import RequestOutputKind

    end = engine.model_config.hf_config.eos_token_id
    stops = [end] if isinstance(end, int) else list(end or [])
    stops += [token for token in settings["stops"] if token not in stops]
    adapter = LoRARequest("adapter", 1, settings["adapter"]) if settings["adapter"] else None
    for key, ids, seed in rows:
        params = SamplingParams(
            **sampling,
            seed=seed,
            logprobs=0 if settings["logprobs"] else None,
            detokenize=False,
            stop_token_ids=stops,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        engine.add_request(str(key), {"prompt_token_ids": ids}, params, lora_request=adapter)
    while engine.has_unfinished_requests():
        finished = [_finished(output) for output in engine.step() if output.finished]
        if finished:
            connection.send(("done", finished))


def _finished(output: Any) -> tuple[int, list[int], list[float], str]:
    """Key, tokens, their log-probabilities where they were asked for, and why it ended."""
    [only] = output.outputs
    at = [] if only.logprobs is None else zip(only.token_ids, only.logprobs, strict=True)
    logp = [by_token[token].logprob for token, by_token in at]
    return int(output.request_id.split("-")[0]), list(only.token_ids), logp, only.finish_reason


def _serve(fd: int, settings: dict[str, Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: never outlive the trainer
    connection = Connection(fd)
    engine = _build(settings)
    connection.send(("ready", None))
    while True:
        try:
            message = connection.recv()
        except EOFError:
            return
        try:
            if message[0] == "generate":
                _generate(engine, connection, message[1], message[2], settings)
            else:
                engine.collective_rpc("reload_weights", kwargs={"weights_path": message[1]})
                engine.reset_prefix_cache()
                connection.send(("loaded", None))
        except (ValueError, RuntimeError) as error:
            connection.send(("failed", f"{type(error).__name__}: {error}"))
            raise


if __name__ == "__main__":
    _serve(int(sys.argv[1]), json.loads(sys.argv[2]))
