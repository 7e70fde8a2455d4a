"""Proves that the sandbox holds on this machine, and finds the best one that does."""

from __future__ import annotations

import os
import secrets
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from posttrain.config.errors import ConfigError
from posttrain.scoring.sandbox import landlock, wire
from posttrain.scoring.sandbox.launch import WALLS, Limits, Sandbox, SandboxError

_SECONDS = 20.0
_LIMITS = Limits(memory_mb=512, cpu=10, scratch_mb=1, threads=16)


class Unavailable(ConfigError):
    """No wall holds here."""


def prove(sandbox: Sandbox) -> None:
    """Tries to break out in every way of `probe`, and looks at this side too. Raises SandboxError with what went wrong."""
    with tempfile.TemporaryDirectory(prefix="posttrain-selftest-") as folder, socket.socket() as server:
        secret, outside = Path(folder, "secret"), Path(folder, "written")
        secret.write_text("secret")
        server.bind(("127.0.0.1", 0))
        server.listen()
        name = f"posttrain-{secrets.token_hex(8)}"
        with socket.socket(socket.AF_UNIX) as local:
            local.bind(f"\0{name}")
            local.listen()
            order = {"parent": os.getpid(), "secret": str(secret), "outside": str(outside), "name": name}
            order |= {"port": server.getsockname()[1], "memory_mb": _LIMITS.memory_mb, "scratch_mb": _LIMITS.scratch_mb}
            order |= {"threads": _LIMITS.threads}
            found = _asked(sandbox, order)
            for name in found.get("excesses", ()):
                found["done"] += _asked(sandbox, order | {"only": name})["done"]
        if found["done"] or outside.exists():
            raise SandboxError(f"from inside one can {', '.join(found['done']) or 'write a file of this machine'}")
        if found["failed"]:
            raise SandboxError(f"inside one cannot {', '.join(found['failed'])}")


def _asked(sandbox: Sandbox, order: dict[str, Any]) -> dict[str, Any]:
    ours, theirs = socket.socketpair()
    with ours, theirs, sandbox.spawn("probe", _LIMITS, [theirs.fileno()]) as process:
        theirs.close()
        process.begin()
        end = time.monotonic() + _SECONDS
        ours.settimeout(_SECONDS)
        try:
            wire.send(ours, order)
            process.watch(ours, end)
            found: dict[str, Any] = wire.receive(ours)
        except (TimeoutError, EOFError, ConnectionError, wire.BadMessage) as error:
            process.kill()
            code = process.ended()
            if not (process.excess and "only" in order):  # killed for what it was to try
                raise SandboxError(f"the self-test ended without a word ({code}, {error})") from None
            return {"done": []}
    return found


def candidates() -> Iterator[tuple[str, bool]]:
    """Walls and whether Landlock stands inside of them, best first."""
    inside = landlock.version() > 0
    for wall in WALLS:
        if inside or wall != "landlock":
            yield wall, inside


def start(walls: tuple[str, ...] = WALLS) -> Sandbox:
    """The best sandbox that this machine allows, proved. Raises Unavailable, which says what to install."""
    tried = []
    for wall, inside in candidates():
        if wall not in walls:
            continue
        try:
            sandbox = Sandbox(wall, inside)
        except SandboxError as error:
            tried.append(f"{wall}: {error}")
            continue
        try:
            prove(sandbox)
            return sandbox
        except SandboxError as error:
            sandbox.close()
            tried.append(f"{wall}: {error}")
    if not landlock.version():
        tried.append("landlock: not in this kernel")
    raise Unavailable(
        f"code cannot be run safely on this machine, so it is not run at all. Tried {'; '.join(tried)}. Install "
        "bubblewrap (apt install bubblewrap, dnf install bubblewrap), or allow unprivileged user namespaces (sysctl "
        "user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns=0), or use a kernel with Landlock "
        "(5.13 or later); in a container, a runtime whose seccomp profile lets one of them through."
    )


_shared: tuple[int, Sandbox] | None = None


def shared() -> Sandbox:
    """The sandbox of this process, started and proved when it is first asked for. Raises Unavailable."""
    global _shared
    if _shared is None or _shared[0] != os.getpid() or not _shared[1].alive:
        _shared = (os.getpid(), start())
    return _shared[1]


def describe(sandbox: Sandbox) -> str:
    """What stands around a candidate, in a line, and what it leaves open."""
    inside = f"Landlock {landlock.version()}, " if sandbox.need_landlock else ""
    around = "" if sandbox.wall == "landlock" else f"{sandbox.wall}, "
    left = "; whether files of this machine exist can be seen" if sandbox.wall == "landlock" else ""
    return f"{around}{inside}seccomp, limits; self-test passed{left}"
