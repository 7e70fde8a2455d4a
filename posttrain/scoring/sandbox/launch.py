"""The worker's side: starts the zygote, asks it for processes, and kills them."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from posttrain.scoring.sandbox import excess, folders, jail, seccomp

WALLS = ("namespaces", "bubblewrap", "landlock")  # best first
_PREFIX = "posttrain-sandbox-"
_DAY = 86400.0
_START = 20.0  # seconds in which a zygote must be ready
_LOOK = 0.02  # seconds between looks at what a process uses
_TRIES = 10  # to remove a folder
_BOOT = (
    "import sys; sys.path.insert(0, sys.argv[1]); from posttrain.scoring.sandbox.zygote import main; "
    "sys.path.pop(0); main(int(sys.argv[2]), sys.argv[3], sys.argv[4], sys.argv[5] == '1')"
)
_ENVIRONMENT = {"LANG": "C.UTF-8", "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "TZ": "UTC"}
# Otherwise every thread reserves 64 to 128 MB of addresses for an allocator of its own, and 32 of them find none left.
_ENVIRONMENT |= {"MALLOC_ARENA_MAX": "1"}


class SandboxError(RuntimeError):
    """The sandbox itself failed: nothing is known about the candidate."""


@dataclass(frozen=True)
class Limits:
    """Of one process."""

    memory_mb: int = 1024
    cpu: int = 10  # seconds
    scratch_mb: int = 16  # of the scratch folder, and of each file in it; bubblewrap's holds 64 at most
    threads: int = 128  # at once; counted from outside, for the kernel's own limit does not hold for root


class Contained:
    """One running process of the sandbox, with all that it starts."""

    def __init__(self, status: socket.socket, zygote: _Zygote | None, limits: Limits, folder: str) -> None:
        self._status, self._zygote = status, zygote  # the zygote is ours alone, if there is one
        self._limits, self._folder, self._look = limits, folder, 0.0
        self.excess = ""  # why it was killed, by `watch` or by its guard
        self._handle = -1
        self._code: int | None = None

    def begin(self) -> None:
        """Waits until it has been started. Raises SandboxError if it was not."""
        if self._handle < 0:
            message, handles = self._message()
            if "started" not in message or not handles:
                raise SandboxError(f"a process could not be locked in: {message.get('broken', 'it ended')}")
            self._handle = handles[0]

    def kill(self) -> None:
        """At once, with its threads and whatever else is in its namespace. May be called again."""
        if self._handle >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, signal.SIGKILL)

    def ended(self, by: float | None = None) -> int:
        """Waits for the end: the exit code, or a signal's number below 0.

        SandboxError if it never began; TimeoutError if it has not ended by this time of the monotonic clock.
        """
        self.begin()
        if by is not None and self._code is None:
            self.watch(self._handle, by)  # readable when the process has ended
        while self._code is None:
            message, _ = self._message()
            if "exit" not in message:
                raise SandboxError(f"a process could not be locked in: {message.get('broken', 'its guard ended')}")
            self.excess = self.excess or str(message.get("excess", ""))
            self._code = int(message["exit"])
        return self._code

    def watch(self, readable: int | socket.socket, by: float) -> None:
        """Waits until there is something to read; kills the process if it uses too much meanwhile.

        TimeoutError if there is nothing by this time of the monotonic clock.
        """
        poll = select.poll()
        poll.register(readable, select.POLLIN)
        while True:
            now = time.monotonic()
            if now >= self._look:
                self._look = now + _LOOK
                limits, held = self._limits, self._limits.scratch_mb << 20
                if too_much := excess.found(self._handle, limits.threads, held, self._folder):
                    self.excess = too_much
                    self.kill()
            if poll.poll(1000 * max(0.0, min(_LOOK, by - now))):
                return
            if now >= by:
                raise TimeoutError

    def close(self) -> None:
        with contextlib.suppress(SandboxError):
            self.begin()  # without its handle it could not be killed
        self.kill()
        self._status.close()
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
        if self._zygote is not None:
            self._zygote.close()

    def __enter__(self) -> Contained:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _message(self) -> tuple[dict[str, Any], list[int]]:
        try:
            data, handles, _, _ = socket.recv_fds(self._status, 1 << 16, 1)
        except TimeoutError:
            return {"broken": f"no word from it within {_START:g} s"}, []
        return (json.loads(data) if data else {}), handles


class Sandbox:
    """Starts processes behind one kind of wall. SandboxError where this machine does not let it."""

    def __init__(self, wall: str, need_landlock: bool) -> None:
        if not seccomp.supported():
            raise SandboxError(f"seccomp filters are written for x86_64 and aarch64, this is {os.uname().machine}")
        self.wall, self.need_landlock = wall, need_landlock
        self._single = wall == "bubblewrap" and not need_landlock  # nothing would part one program from the next
        self._zygote: _Zygote | None = self._start()

    @property
    def alive(self) -> bool:
        """Whether it can still start processes."""
        return self._single or (self._zygote is not None and self._zygote.process.poll() is None)

    def spawn(self, role: str, limits: Limits, sockets: Sequence[int]) -> Contained:
        """A new process that plays `role` with these descriptors. Does not wait for it: `begin` does."""
        zygote = self._zygote if self._zygote is not None else self._start()
        if self._single:
            self._zygote = None
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(_START)
        order = json.dumps({"role": role, "limits": asdict(limits)}).encode()
        with theirs:
            try:
                socket.send_fds(zygote.control, [order], [theirs.fileno(), *sockets])
            except OSError as error:
                ours.close()
                raise SandboxError(f"the sandbox's first process is gone: {error}") from error
        return Contained(ours, zygote if self._single else None, limits, zygote.folder)

    def close(self) -> None:
        if self._zygote is not None:
            self._zygote.close()
            self._zygote = None

    def _start(self) -> _Zygote:
        return _Zygote(self.wall, self.need_landlock)


class _Zygote:
    """The first process. It and everything it has started end with this object, or with the thread that made it."""

    def __init__(self, wall: str, need_landlock: bool) -> None:
        own = _scratch() if wall == "landlock" else ""
        self.folder = own or (
            jail.SCRATCH if wall == "bubblewrap" else ""
        )  # one for all programs; none where each has its own
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        root = str(Path(__file__).resolve().parents[3])
        python = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
        words = [python, "-P", "-s", "-S", "-X", "utf8", "-c", _BOOT, root]
        words += [str(theirs.fileno()), wall, own or jail.SCRATCH, str(int(need_landlock))]
        command = (_bubblewrap(python, root) if wall == "bubblewrap" else []) + words
        with theirs:
            try:
                self.process = _started(command, theirs.fileno())
            except OSError as error:
                self.control.close()
                if own:
                    os.rmdir(own)
                raise SandboxError(str(error)) from error
        self.close = weakref.finalize(self, _stop, os.getpid(), self.control, self.process, own)
        self.control.settimeout(_START)
        try:
            word = json.loads(self.control.recv(1 << 16) or b"{}")
        except (TimeoutError, ConnectionResetError):
            word = {}
        if "ready" not in word:
            self.process.kill()
            said = self.process.stderr.read().decode(errors="replace").strip() if self.process.stderr else ""
            self.close()
            raise SandboxError(str(word.get("broken") or said.splitlines()[-1:] or "it did not start"))
        self.control.settimeout(None)


def _started(command: list[str], control: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        pass_fds=[control],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=_ENVIRONMENT,
        cwd="/",
    )


def _scratch() -> str:
    """A folder for scratch folders. Those that killed workers have left behind a day ago are removed."""
    for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            state = left.lstat()
            if state.st_uid == os.geteuid() and time.time() - state.st_mtime > _DAY:
                folders.remove(str(left))
    return tempfile.mkdtemp(prefix=_PREFIX)


def _bubblewrap(python: str, root: str) -> list[str]:
    """The walls of `jail.enter_namespaces`, put up by bwrap."""
    program = shutil.which("bwrap")
    if program is None:
        raise SandboxError("bwrap is not installed")
    words = [
        program,
        "--unshare-all",
        "--die-with-parent",
        "--new-session",
        "--cap-drop",
        "ALL",
        "--hostname",
        "sandbox",
    ]
    words += ["--size", str(64 << 20), "--tmpfs", jail.SCRATCH]  # first, for what follows may lie below it
    for path in [*jail.libraries(), python, f"{root}/posttrain/scoring/sandbox"]:
        words += ["--ro-bind", path, path]
    for folder in ("posttrain", "posttrain/scoring"):
        words += ["--ro-bind", f"{root}/{folder}/__init__.py", f"{root}/{folder}/__init__.py"]
    for path in jail.packages():
        words += ["--tmpfs", path]
    for path, target in jail.links().items():
        words += ["--symlink", target, path]
    for path in jail.DEVICES:
        words += ["--dev-bind", path, path]
    return [*words, "--remount-ro", "/", "--chdir", "/", "--"]


def _stop(owner: int, control: socket.socket, process: subprocess.Popen[bytes], folder: str) -> None:
    if os.getpid() != owner:  # a fork of the owner ends; the sandbox is not its own
        return
    control.close()
    process.kill()
    process.wait()
    if process.stderr:
        process.stderr.close()
    for _ in range(_TRIES if folder else 0):  # what it had started is being killed, and may still write
        folders.remove(folder)
        if not os.path.lexists(folder):
            break
        time.sleep(_LOOK)
