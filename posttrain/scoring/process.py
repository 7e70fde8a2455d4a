"""The parent's end of one worker process: never blocks, whatever the worker does."""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from posttrain.config.errors import ConfigError
from posttrain.scoring.api import Reward
from posttrain.scoring.worker import MAX_REPLY, REPLY, REQUEST, Setup

# -P keeps the working directory off the path until the parent's own path is in place
_BOOT = (
    "import sys; import json; sys.path[:] = json.loads(sys.argv[1]); "
    "from posttrain.scoring.worker import main; main(int(sys.argv[2]), int(sys.argv[3]))"
)


class ProtocolError(RuntimeError):
    """The worker wrote something that is not a verdict."""


def setup_message(rewards: Mapping[str, tuple[Reward, float]], timeout: float, memory_mb: int) -> bytes:
    modules: dict[str, str | None] = {}
    for name, (reward, _) in rewards.items():
        inner = getattr(type(reward), "function", None)
        for module in (type(reward).__module__, getattr(inner, "__module__", None)):
            if module == "__main__":
                raise ConfigError(
                    f"reward {name!r} is defined in the program's main module, which workers cannot import; "
                    "move it to a file of its own"
                )
            if isinstance(module, str):
                modules[module] = getattr(sys.modules.get(module), "__file__", None)
    try:
        pickled = pickle.dumps(dict(rewards))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"the rewards {list(rewards)} cannot be sent to a worker process: {error}; "
            "define them at the top level of a module and keep open files and locks out of their fields"
        ) from error
    return pickle.dumps(Setup(modules=modules, rewards=pickled, timeout=timeout, memory_mb=memory_mb))


class WorkerProcess:
    """One process, its socket, and what has been sent to it and not answered (`inflight`, in order)."""

    def __init__(self, setup: bytes) -> None:
        self.inflight: deque[int] = deque()
        self.ready = False
        self.head_since = 0.0  # when the first sample in flight began, as far as the parent can tell
        self._out = bytearray()
        self._in = bytearray()
        self.sock, child = socket.socketpair()
        self.sock.setblocking(False)
        arguments = [
            json.dumps([os.path.abspath(p) for p in sys.path]),
            str(child.fileno()),
            str(os.getpid()),
        ]
        # one thread per worker: linear algebra pools would take cores and address space
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        with child:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", _BOOT, *arguments],
                pass_fds=[child.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # what a reward prints would tear the trainer's progress display
                start_new_session=True,  # Ctrl-C does not reach it; its own children are killed with it
                env={**os.environ, **threads},
            )
        self.send(setup)

    def fileno(self) -> int:
        return self.sock.fileno()

    @property
    def wants_to_write(self) -> bool:
        return bool(self._out)

    def send(self, message: bytes) -> None:
        self._out += REQUEST.pack(len(message)) + message
        self.flush()

    def flush(self) -> None:
        try:
            while self._out:
                sent = self.sock.send(memoryview(self._out)[: 1 << 18])
                del self._out[:sent]
        except BlockingIOError:
            return
        except (BrokenPipeError, ConnectionResetError):
            self._out.clear()  # it is dead; receive() says so after the last verdicts have been read

    def receive(self) -> bool:
        """Reads what has arrived; True when the worker has closed its end."""
        try:
            while data := self.sock.recv(1 << 18):
                self._in += data
            return True
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True

    def messages(self) -> Iterator[dict[str, Any]]:
        """The complete messages read so far, each once."""
        while len(self._in) >= REPLY.size:
            (length,) = REPLY.unpack_from(self._in)
            if length > MAX_REPLY:
                raise ProtocolError(f"a message of {length} bytes")
            end = REPLY.size + length
            if len(self._in) < end:
                return
            data = bytes(self._in[REPLY.size : end])
            del self._in[:end]
            yield _decoded(data)

    def kill(self) -> None:
        """SIGKILL to the worker and everything it started. Does not wait."""
        self.sock.close()
        self.inflight.clear()
        if self.process.poll() is None:  # not reaped yet, so the group id is still this worker's
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                self.process.kill()

    def ending(self, hurry: Callable[[], bool]) -> str:
        """How the process ended, in words. Gives it a second to do so, less once there is a hurry."""
        end = time.monotonic() + 1.0
        while (code := self.process.poll()) is None:
            if hurry() or time.monotonic() > end:
                return "worker closed its connection"
            time.sleep(0.002)
        if code >= 0:
            return f"worker exited with code {code}"
        hint = " (out of memory?)" if -code in (signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV) else ""
        return f"worker was killed by {signal.Signals(-code).name}{hint}"


def _decoded(data: bytes) -> dict[str, Any]:
    try:
        row = json.loads(data)
    except ValueError as error:
        raise ProtocolError(f"not JSON: {data[:80]!r}") from error
    if not isinstance(row, dict):
        raise ProtocolError(f"not an object: {data[:80]!r}")
    return row
