"""The launched ranks, and what has to be true of the machine before they can talk."""

from __future__ import annotations

import os
import socket
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch

from posttrain import doctor
from posttrain.comm import Distributed, SingleProcess
from posttrain.config.errors import ConfigError
from posttrain.telemetry.console import Console

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


def wait_for_builders(comm: Distributed | SingleProcess, console: Console) -> None:
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


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
