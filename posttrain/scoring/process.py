"""The parent's ends of the processes: never block, whatever these do."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from posttrain.config.errors import ConfigError
from posttrain.scoring.api import Part
from posttrain.scoring.aside import Look
from posttrain.scoring.wire import DEMOTE, EASE, KILL, MAX_REPLY, ORDER, PROMOTE, REPLY, REQUEST, SPAWN, Setup

# -P keeps the working directory off the path until the parent's own path is in place
_BOOT = (
    "import sys; import json; sys.path[:] = json.loads(sys.argv[1]); "
    "from posttrain.scoring.zygote import main; main(int(sys.argv[2]), int(sys.argv[3]))"
)


class ScorerBroken(RuntimeError):
    """The workers cannot do their job at all: a reward cannot be imported, or the scorer is closed."""


class ProtocolError(RuntimeError):
    """The worker wrote something that is not a verdict."""


def setup_of(parts: Mapping[str, Part], timeout: float, memory_mb: int, steps: int) -> Setup:
    modules: dict[str, str | None] = {}
    for name, part in parts.items():
        inner: Iterable[Any] = getattr(part.reward, "inner", tuple)()  # rewards within a reward
        for module in (type(thing).__module__ for thing in (part.reward, *inner, part.weight)):
            if module == "__main__":
                raise ConfigError(
                    f"reward {name!r} is defined in the program's main module, which workers cannot import; "
                    "move it to a file of its own"
                )
            modules[module] = getattr(sys.modules.get(module), "__file__", None)
    try:
        pickled = pickle.dumps(dict(parts))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"the rewards {list(parts)} cannot be sent to a worker process: {error}; "
            "define them at the top level of a module and keep open files and locks out of their fields"
        ) from error
    return Setup(modules=modules, rewards=pickled, steps=steps, timeout=timeout, memory_mb=memory_mb)


class Connection:
    """A socket to a process, with what has not been sent yet and what has not been read to the end."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.setblocking(False)
        self._out = bytearray()
        self._in = bytearray()

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
        """Reads what has arrived; True when the process has closed its end."""
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


class Zygote(Connection):
    """A process that workers are forked from, which also kills them."""

    loaded = False
    pid: int | None = None

    def spawn(self, number: int) -> WorkerProcess:
        own, child = socket.socketpair()
        with child:
            self._order(SPAWN, number, child)
        return WorkerProcess(number, own, self)

    def kill(self, worker: WorkerProcess) -> None:
        """SIGKILL to the worker and, when it is dead, to everything it has started. Does not wait."""
        worker.sock.close()
        worker.inflight.clear()
        self._order(KILL, worker.number)

    def lower(self, worker: WorkerProcess) -> None:
        """Lowers its priority: at first somewhat, then to the lowest."""
        worker.lowered += 1
        self._order(EASE if worker.lowered == 1 else DEMOTE, worker.number)

    def end(self, seconds: float) -> None:
        """Has it kill its workers and end."""
        with contextlib.suppress(OSError):  # it has gone
            self.sock.shutdown(socket.SHUT_WR)
            self.sock.settimeout(seconds)
            while self.sock.recv(1 << 16):
                continue
        self.sock.close()

    def _order(self, what: bytes, number: int, passed: socket.socket | None = None) -> None:
        if self.sock.fileno() < 0:  # lost, and its workers with it
            return
        order = ORDER.pack(what, number)
        try:
            sent = socket.send_fds(self.sock, [order], [passed.fileno()] if passed else [])
        except (BrokenPipeError, ConnectionResetError):  # it is dead, which is looked after elsewhere
            return
        except BlockingIOError:
            sent = 0
        if sent < len(order):
            raise ScorerBroken("the process that starts scoring workers no longer listens")


class ZygoteProcess(Zygote):
    """The first one, in which the rewards are loaded."""

    def __init__(self, setup: Setup) -> None:
        own, child = socket.socketpair()
        super().__init__(own)
        self.started = time.monotonic()
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
                start_new_session=True,  # Ctrl-C does not reach it
                env={**os.environ, **threads},
            )
        self.pid = self.process.pid
        self.send(pickle.dumps(setup))

    def end(self, seconds: float) -> None:
        """Has it kill its workers, and what these have started, and end.

        Killed when that takes longer; then the kernel kills the workers, and what they have started may be left.
        """
        if not self.loaded:
            self.process.kill()
        super().end(seconds)
        try:
            self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):  # stuck in the kernel: init will reap it
                self.process.wait(timeout=0.2)


class WorkerProcess(Connection):
    """One worker, and what has been sent to it and not answered (`inflight`, in order)."""

    def __init__(self, number: int, sock: socket.socket, parent: Zygote) -> None:
        super().__init__(sock)
        self.number, self.parent = number, parent
        self.pid: int | None = None
        self.started = time.monotonic()
        self.ready = False
        self.judged = 0
        self.pupil = False  # its verdicts count for nothing: it judges to have judged
        self.inflight: deque[int] = deque()
        self.head_since = 0.0  # when the first sample in flight began, as far as the parent can tell
        self.dropped: set[int] = set()  # taken away from it, until it says that it knows
        self.aside = 0.0  # since when the samples behind its first one are another worker's; 0: they are its own
        self.look, self.looked = Look(), 0.0  # what it was doing there, and when
        self.burnt = 0.0  # seconds of a core before it was set aside
        self.lowered = 0  # how often its priority was
        self.closed = 0.0  # since when its end of the connection is closed

    def promoted(self) -> Zygote:
        """The process as one that others are forked from, on the same connection."""
        self.send(PROMOTE)
        heir = Zygote(self.sock)
        heir.pid = self.pid
        heir._out = self._out
        return heir


def ending(code: int) -> str:
    """How a worker ended, in words."""
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
