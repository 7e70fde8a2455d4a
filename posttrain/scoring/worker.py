"""The process in which rewards run: reads samples from a socket, writes one verdict each, in order.

Started by `posttrain.scoring.pool` with `python -c`, so that nothing of the trainer's main module is
imported. Requests are pickled (the parent is trusted), verdicts are JSON: nothing that a reward does can run
code in the parent.
"""

from __future__ import annotations

import ctypes
import fcntl
import importlib
import importlib.util
import json
import math
import os
import pickle
import resource
import signal
import socket
import struct
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from posttrain.config.imports import import_home
from posttrain.data.types import Score
from posttrain.scoring.api import Reward, judge_all

PR_SET_PDEATHSIG = 1
REQUEST = struct.Struct("!Q")  # length of a pickled message to the worker
REPLY = struct.Struct("!I")  # length of a JSON message from the worker
MAX_REPLY = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Setup:
    """The first message: what to judge with, and the limits."""

    modules: Mapping[str, str | None]  # module name -> file, for modules that cannot be imported by name
    rewards: bytes  # pickled, and opened only after the modules are there
    timeout: float
    memory_mb: int


def main(descriptor: int, parent: int) -> None:
    _die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the trainer's to handle; it closes the workers
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sock = socket.socket(fileno=_own(descriptor))
    setup: Setup = _receive(sock)
    try:
        rewards = _load(setup)
        _limit_memory(setup.memory_mb)
    except Exception as error:  # a plugin's import may raise anything; the parent reports it
        _send(sock, {"broken": f"{type(error).__name__}: {error}"[:2000]})
        return
    _send(sock, {"ready": os.getpid()})
    serve(sock, rewards, setup.timeout)


def serve(sock: socket.socket, rewards: Mapping[str, tuple[Reward, float]], timeout: float) -> None:
    while True:
        try:
            batch = _receive(sock)
        except EOFError:
            return
        for number, completion, prompt in batch:
            _limit_cpu(timeout)
            score = judge_all(rewards, completion, prompt)
            # after a MemoryError the heap may stay full or torn, so a fresh worker judges the next sample
            retire = score.status == "error" and "MemoryError" in score.detail
            _send(sock, {"n": number, **as_json(score), **({"retire": 1} if retire else {})})
            if retire:
                return


def as_json(score: Score) -> dict[str, Any]:
    row: dict[str, Any] = {"v": score.value}
    if score.correct:
        row["c"] = 1
    if score.status != "ok":
        row["s"] = score.status
    if score.parts:
        row["p"] = dict(score.parts)
    if score.detail:
        row["d"] = score.detail
    return row


def from_json(row: Mapping[str, Any]) -> Score:
    return Score(
        value=row["v"],
        correct=bool(row.get("c", 0)),
        status=row.get("s", "ok"),
        parts=row.get("p", {}),
        detail=row.get("d", ""),
    )


def _die_with(parent: int) -> None:
    """The kernel kills this process when the trainer dies, even in the middle of a C loop."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the line above
        os._exit(0)


def _own(descriptor: int) -> int:
    """The connection at the lowest number free, and closed in programs that rewards start.

    It arrives under the trainer's number, which grows with the files the trainer has open; what a reward does
    to descriptors must not depend on that.
    """
    own = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(descriptor)
    return own


def _load(setup: Setup) -> dict[str, tuple[Reward, float]]:
    for name, file in setup.modules.items():
        _ensure_module(name, file)
    rewards: dict[str, tuple[Reward, float]] = pickle.loads(setup.rewards)
    for reward, _ in rewards.values():
        prepare = getattr(reward, "prepare", None)
        if prepare is not None:
            prepare()
    return rewards


def _ensure_module(name: str, file: str | None) -> None:
    """Imports a module by name, or from its file: a reward beside a recipe is in no package."""
    if name.partition(".")[0] == "posttrain_rewards":
        import_home("posttrain_rewards")  # in a checkout that is not installed it is a folder of another name
    try:
        importlib.import_module(name)
        return
    except ModuleNotFoundError as error:
        if file is None or error.name is None or not (name == error.name or name.startswith(error.name + ".")):
            raise
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot load {name} from {file}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


def _limit_memory(megabytes: int) -> None:
    """Address space on top of what the imports have taken (libraries reserve much more than they use)."""
    try:
        with open("/proc/self/statm") as file:
            base = int(file.read().split()[0]) * resource.getpagesize()
    except FileNotFoundError:  # not Linux
        base = 0
    limit = base + (megabytes << 20)
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard == resource.RLIM_INFINITY or limit < hard:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _limit_cpu(timeout: float) -> None:
    """A backstop, moved on with every sample: the parent's clock acts first unless the parent is stuck."""
    used = time.process_time()
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = math.ceil(used + 2 * timeout) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def _receive(sock: socket.socket) -> Any:
    (length,) = REQUEST.unpack(_exactly(sock, REQUEST.size))
    return pickle.loads(_exactly(sock, length))


def _exactly(sock: socket.socket, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        chunk = sock.recv(min(length - len(data), 1 << 20))
        if not chunk:
            raise EOFError
        data += chunk
    return bytes(data)


def _send(sock: socket.socket, row: dict[str, Any]) -> None:
    data = json.dumps(row, separators=(",", ":")).encode()
    sock.sendall(REPLY.pack(len(data)) + data)
