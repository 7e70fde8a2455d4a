"""Shared by all tests. Nothing heavy is imported at the top, so that a single light test starts at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from posttrain.learner.learner import Learner
    from posttrain.rollout.vllm_engine import VLLMEngine

if "PYTEST_XDIST_WORKER" in os.environ:  # several of these share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
TINY = "{use: tiny, hidden: 64, layers: 2, heads: 2, kv_heads: 1, intermediate: 128, context: 128}"
# The whole loop at its smallest: two real processes under ZeRO-2, a real engine, a warm-up that is too short to teach.
SMALL = [
    f"model={TINY}",
    "warmup.steps=20",
    "warmup.demonstrations=400",
    "task.problems=200",
    "batch.prompts=4",
    "batch.samples=4",
    "sampling.max_tokens=24",
    "eval.problems=9",
    "eval.every=0",
    "checkpoint.every=2",
]


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data(root: Path) -> Path:
    """Public benchmark files beside the checkout, where somebody has put them."""
    folder = root.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no benchmark files in {folder}")
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained tiny model, in Hugging Face format."""
    from posttrain.config.models import TinyModel
    from posttrain.learner.tiny import build_tiny

    folder = tmp_path_factory.mktemp("tiny") / "model"
    build_tiny(TinyModel(hidden=64, layers=2, heads=2, kv_heads=1, intermediate=128, context=128), 0, folder)
    return folder


@pytest.fixture(scope="session")
def engine(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VLLMEngine]:
    """The one real engine of the session. Whoever loads other weights loads the first ones again."""
    from posttrain.rollout.vllm_engine import EngineSettings, VLLMEngine

    log = tmp_path_factory.mktemp("engine") / "engine.log"
    one = VLLMEngine(EngineSettings(model=str(tiny_model), context=128, max_sequences=64, kv_cache_gib=0.25), log)
    yield one
    one.close()


@pytest.fixture(scope="session")
def learner(tiny_model: Path) -> Iterator[Learner]:
    """A real DeepSpeed learner on one rank, on the engine's first weights."""
    import torch
    import torch.distributed as dist

    from posttrain.learner.batch import Cut
    from posttrain.learner.learner import Learner
    from posttrain.learner.models import load_policy
    from posttrain.learner.sharded import Optimizing, Sharded
    from posttrain.world import join_world

    before = {name: os.environ.get(name) for name in LAUNCHER}
    comm, device = join_world()
    import deepspeed

    deepspeed.init_distributed("gloo", verbose=False)
    policy = load_policy(tiny_model, "float32", "auto", torch.device("cpu"))
    sharded = Sharded(policy, Optimizing(1e-2, (0.9, 0.95), 1e-8, 0.0, 1.0), zero_stage=2)
    yield Learner(sharded, comm, device, Cut(tokens=8192, head_chunk=2048))
    dist.destroy_process_group()
    for name, value in before.items():
        os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)


def command(*words: str) -> tuple[list[str], dict[str, str]]:
    """`posttrain WORDS` of this environment, and an environment without a launcher's variables."""
    clean = {k: v for k, v in os.environ.items() if k not in LAUNCHER}
    return [sys.executable, "-m", "posttrain", *words], clean


@pytest.fixture
def posttrain(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the command in an empty folder, with everything it printed; never longer than `timeout` seconds."""

    def run(*words: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        line, clean = command(*words)
        process = subprocess.Popen(
            line,
            cwd=tmp_path,
            env=clean,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return subprocess.CompletedProcess(line, process.returncode, out, err)

    return run


def alive(marker: str) -> list[Any]:
    """Processes whose command line contains `marker`: what a run must not leave behind."""
    import psutil

    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        words = process.info["cmdline"] or []
        if process.pid != os.getpid() and any(marker in word for word in words):
            found.append(process)
    return found
