"""Tries to get out, from inside, and says what it could do. Our own code: its word is trusted."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from posttrain.scoring.sandbox import folders, jail, wire

_NOTICED = 1.0  # seconds in which what is too much is noticed


def run(channel: int) -> int:
    """Gets what it is to try; reports the names of what it could do, and of what it could not but must.

    What a process is killed for is tried one by one, in a process each: it may not live to report.
    """
    talk = socket.socket(fileno=channel)
    order = wire.receive(talk)
    if name := order.get("only"):
        wire.send(talk, {"done": [name] if _succeeds(_excesses(order)[name]) else []})
        return 0
    attempts = _attempts(order)
    done = [name for name, attempt in attempts.items() if _succeeds(attempt)]
    failed = [name for name, need in _needs().items() if not _succeeds(need)]
    wire.send(talk, {"done": done, "failed": failed, "tried": list(attempts), "excesses": list(_excesses(order))})
    return 0


def _succeeds(attempt: Callable[[], Any]) -> bool:
    try:
        return attempt() is not False
    except (OSError, RuntimeError, MemoryError, ValueError):
        return False


def _attempts(order: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """Every one of these must fail."""
    parent, secret, outside, port, name = (order[k] for k in ("parent", "secret", "outside", "port", "name"))
    return {
        "connect to a server of this machine": lambda: socket.create_connection(("127.0.0.1", port), 1),
        "connect to a socket of this machine by name": lambda: _connect_to(name),
        "open a network socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        "read a file of this machine": lambda: open(secret).read(),
        "read /etc/passwd": lambda: open("/etc/passwd").read(),
        "list the home folders": lambda: os.listdir("/home") + os.listdir("/root") + _unexpected("/root"),
        "write a file of this machine": lambda: open(outside, "w").write("x"),
        "write beside the standard library": lambda: open(f"{jail.libraries()[0]}/posttrain-probe", "w"),
        "change the mode of a file of this machine": lambda: _changes(secret, lambda: os.chmod(secret, 0o640)),
        "change the times of a file of this machine": lambda: _changes(secret, lambda: os.utime(secret, (1, 1))),
        "change a file that it may read": lambda: _changes(os.__file__, lambda: _touch(os.__file__)),
        "cut off a file of this machine": lambda: os.truncate(secret, 0),
        "list other scratch folders": lambda: os.path.realpath("..") != "/" and os.listdir(".."),
        "see processes": lambda: os.listdir("/proc")[0],
        "read what the kernel says of itself": lambda: open("/proc/self/environ", "rb").read(),
        "read its memory as a file": lambda: open("/proc/self/mem", "rb"),
        "read the parent's command": lambda: open(f"/proc/{parent}/cmdline", "rb").read(),
        "read the parent's environment": lambda: open(f"/proc/{parent}/environ", "rb").read(),
        "signal the worker": lambda: os.kill(parent, 0),
        "signal everybody": lambda: os.kill(-1, signal.SIGCONT),
        "signal its group": lambda: os.killpg(0, signal.SIGCONT),
        "trace the worker": lambda: _called("ptrace", 16, parent, 0, 0) == 0,
        "start a process": _fork,
        "run a program": lambda: os.execv("/bin/true", ["true"]),
        "get privileges": lambda: _called("unshare", 0x10000000) == 0,
        "mount": lambda: _called("mount", b"none", b"/tmp", b"tmpfs", 0, None) == 0,
        "allocate more than its memory": lambda: bytearray((order["memory_mb"] << 20) + 1),
        "write a file above its size": lambda: os.posix_fallocate(_file("large"), 0, (order["scratch_mb"] << 20) + 1),
        "clear its death signal": lambda: _called("prctl", 1, 0, 0, 0, 0) == 0,
    }


def _excesses(order: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """Every one of these must fail or be the end."""
    return {
        "run more threads than it may": lambda: _crowd(order["threads"]),
        "hold more in deleted files than its scratch folder takes": lambda: _hold(order["scratch_mb"] << 20),
        "make more files than it may": lambda: _litter(folders.ENTRIES),
    }


def _needs() -> dict[str, Callable[[], Any]]:
    """Every one of these must succeed: otherwise nothing above has been proved."""
    return {
        "write into its scratch folder": lambda: os.write(_file("small"), b"x") == 1,
        "read the standard library": lambda: open(os.__file__).read(10),
        "start a thread": _thread,
        "import a compiled module": lambda: __import__("zlib").crc32(b"x"),
        "allocate memory": lambda: bytearray(1 << 24),
    }


def _unexpected(folder: str) -> list[str]:
    """What lies in a folder and does not lead to the standard library. An OSError if that is nothing."""
    own = [name for name in os.listdir(folder) if not any(p.startswith(f"{folder}/{name}") for p in jail.libraries())]
    if not own:
        raise PermissionError
    return own


def _called(name: str, *arguments: Any) -> int:
    return int(getattr(ctypes.CDLL(None), name)(*arguments))


def _connect_to(name: str) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.connect(f"\0{name}")


def _file(name: str) -> int:
    return os.open(name, os.O_CREAT | os.O_WRONLY, 0o600)


def _changes(path: str, change: Callable[[], Any]) -> bool:
    """Whether a file is another one afterwards: a call that does nothing may say that it has succeeded."""
    before = os.stat(path)
    change()
    after = os.stat(path)
    return (before.st_mode, before.st_mtime, before.st_ctime_ns) != (after.st_mode, after.st_mtime, after.st_ctime_ns)


def _touch(path: str) -> None:
    """Sets the times that it has already, of a file that is opened for reading; only its last change shows."""
    with open(path, "rb") as file:
        state = os.fstat(file.fileno())
        os.utime(file.fileno(), ns=(state.st_atime_ns, state.st_mtime_ns))


def _fork() -> None:
    if os.fork() == 0:
        os._exit(0)
    with contextlib.suppress(ChildProcessError):
        os.wait()


def _hold(size: int) -> None:
    """Files that have no name any more, for as long as it takes to be noticed."""
    for _ in range(4):
        held = _file("deleted")
        os.unlink("deleted")
        os.posix_fallocate(held, 0, size)
    time.sleep(_NOTICED)


def _litter(most: int) -> None:
    """More than so many empty files for as long as it takes to be noticed."""
    for number in range(most + 1):
        os.close(_file(str(number)))
    time.sleep(_NOTICED)


def _crowd(most: int) -> bool:
    """More than so many threads for as long as it takes to be noticed."""
    over = threading.Event()
    before = threading.stack_size(1 << 18)  # so that memory is not what stops them
    try:
        for _ in range(most):
            threading.Thread(target=over.wait, daemon=True).start()
        return not over.wait(_NOTICED)
    finally:
        over.set()
        threading.stack_size(before)


def _thread() -> bool:
    seen: list[int] = []
    one = threading.Thread(target=lambda: seen.append(1))
    one.start()
    one.join()
    return bool(seen)
