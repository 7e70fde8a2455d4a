"""vLLM in a process of its own. The only module that names vLLM's API.

The engine's process has its own environment (threads, devices, none of the launcher's variables), its own log file
and its own process group: a Ctrl-C in the terminal reaches the trainer alone, which then ends the engine.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from posttrain.config.errors import ConfigError
from posttrain.rollout.engine import Completion, EngineError, Interrupted, Request, Sampling

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
_LAUNCHER_PREFIXES = ("MASTER_", "TORCHELASTIC_", "ACCELERATE_", "FSDP_", "OMP_", "DS_")


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """What one engine process needs to know. Sizes in GiB and tokens; `threads` counts CPU threads."""

    model: str
    dtype: str = "float32"
    context: int = 256
    max_sequences: int = 256
    kv_cache_gib: float = 1.0
    gpu_memory: float = 0.35
    device: str = "cpu"  # "cpu", or the CUDA device's number as a string


class VLLMEngine:
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
        self.settings, self.log, self.version = settings, log, 0
        self._deadline = time.monotonic() + start_timeout
        self._start_timeout, self._stopping = start_timeout, stopping
        ours, theirs = socket.socketpair()
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as sink:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "posttrain.rollout.vllm_engine",
                    str(theirs.fileno()),
                    json.dumps(asdict(settings)),
                ],
                pass_fds=(theirs.fileno(),),
                env=_child_environment(settings),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
            )
        theirs.close()
        self._connection: Connection | None = Connection(ours.detach())
        self._ready = False

    def wait_until_ready(self) -> None:
        """Blocks until the engine has loaded its model; at once when it already has."""
        if self._ready:
            return
        while not self._open().poll(0.5):
            if self._stopping():
                raise Interrupted
            if time.monotonic() > self._deadline:
                self.close()
                raise EngineError(
                    f"vLLM did not start within engine.start_timeout={self._start_timeout:.0f} s. "
                    f"The end of {self.log}:\n{self._tail()}"
                )
        self._expect("ready")
        self._ready = True

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

    def close(self) -> None:
        """Ends the process group at once. The engine holds nothing that has to be saved."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _open(self) -> Connection:
        if self._connection is None:
            raise EngineError("the engine has been closed")
        return self._connection

    def _send(self, message: tuple[Any, ...]) -> None:
        try:
            self._open().send(message)
        except (BrokenPipeError, ConnectionResetError):
            raise self._died() from None

    def _expect(self, kind: str) -> Any:
        connection = self._open()
        try:
            while not connection.poll(0.5):
                if self._stopping():
                    raise Interrupted
            got, body = connection.recv()
        except (EOFError, ConnectionResetError):
            raise self._died() from None
        if got == "failed":
            raise EngineError(f"vLLM: {body}\nIts log: {self.log}")
        if got != kind:
            raise EngineError(f"the engine answered {got!r} where {kind!r} was due")
        return body

    def _died(self) -> EngineError:
        code = self._process.wait()
        return EngineError(f"the vLLM process ended (exit code {code}). The end of {self.log}:\n{self._tail()}")

    def _tail(self, lines: int = 12) -> str:
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])


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
    else:
        kept["CUDA_VISIBLE_DEVICES"] = settings.device
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
    engine: Any, connection: Connection, rows: list[tuple[int, list[int], int]], sampling: dict[str, Any]
) -> None:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    end = engine.model_config.hf_config.eos_token_id
    stops = [end] if isinstance(end, int) else list(end or [])
    for key, ids, seed in rows:
        params = SamplingParams(
            **sampling,
            seed=seed,
            logprobs=0,
            detokenize=False,
            stop_token_ids=stops,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        engine.add_request(str(key), {"prompt_token_ids": ids}, params)
    while engine.has_unfinished_requests():
        finished = []
        for output in engine.step():
            if output.finished:
                [only] = output.outputs
                logp = [at[token].logprob for token, at in zip(only.token_ids, only.logprobs, strict=True)]
                finished.append((int(output.request_id.split("-")[0]), list(only.token_ids), logp, only.finish_reason))
        if finished:
            connection.send(("done", finished))


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
                _generate(engine, connection, message[1], message[2])
            else:
                engine.collective_rpc("reload_weights", kwargs={"weights_path": message[1]})
                engine.reset_prefix_cache()
                connection.send(("loaded", None))
        except (ValueError, RuntimeError) as error:
            connection.send(("failed", f"{type(error).__name__}: {error}"))
            raise


if __name__ == "__main__":
    _serve(int(sys.argv[1]), json.loads(sys.argv[2]))
