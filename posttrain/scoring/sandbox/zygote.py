"""The process that starts all others: in the jail already, with what they import, and without a secret.

It is started once, gets descriptors and limits but no code and no tests, and forks twice for each program:

    zygote -> guard (makes the process namespace and the scratch folder, waits) -> the program, locked
"""

from __future__ import annotations

import builtins
import contextlib
import gc
import importlib
import json
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from typing import Any

from posttrain.scoring.sandbox import candidate, driver, folders, jail, kernel, probe, program

Role = Callable[..., int]
ROLES: dict[str, Role] = {
    "candidate": candidate.serve,
    "program": program.run_program,
    "driver": driver.run,
    "probe": probe.run,
}
# What programs import most, so that they find it loaded.
_PRELOADED = (
    "array", "bisect", "collections", "copy", "dataclasses", "datetime", "decimal", "enum", "fractions", "functools", "heapq",
    "itertools", "math", "operator", "queue", "random", "re", "statistics", "string", "threading", "typing", "unittest",
)  # fmt: skip


def main(descriptor: int, wall: str, scratch: str, need_landlock: bool) -> None:
    """`wall` is namespaces, bubblewrap (which has been put up around us) or landlock."""
    control = socket.socket(fileno=descriptor)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # guards need no burial
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (most, most))  # the worker's own soft limit is not for what it starts
    try:
        for name in _PRELOADED:
            importlib.import_module(name)
        if wall == "namespaces":
            jail.enter_namespaces()
        elif wall == "landlock":
            jail.enter_landlock(scratch)
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    except OSError as error:
        control.send(json.dumps({"broken": str(error)}).encode())
        return
    sys.path[:] = [path for path in sys.path if os.path.isdir(path) and path not in jail.packages()]
    vars(builtins).update(exit=sys.exit, quit=sys.exit)  # as the module site has them, which is not loaded
    gc.freeze()  # what is shared with the children stays shared
    control.send(b'{"ready": 1}')
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 2)  # until here, errors were for the worker
    while True:
        data, descriptors, _, _ = socket.recv_fds(control, 1 << 16, 8)
        if not data:
            return
        if os.fork() == 0:
            _guard(control, json.loads(data), wall, scratch, need_landlock, descriptors)
        for one in descriptors:
            os.close(one)


def _guard(
    control: socket.socket,
    order: Mapping[str, Any],
    wall: str,
    scratch: str,
    need_landlock: bool,
    descriptors: list[int],
) -> None:
    """Never returns."""
    status = socket.socket(fileno=descriptors[0])
    try:
        control.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        os.setsid()
        if wall == "namespaces":
            jail.fresh_namespaces(order["limits"]["scratch_mb"])
            scratch = jail.SCRATCH
        elif need_landlock:  # which keeps each program to its own folder in the common one
            scratch = f"{scratch}/{os.getpid()}"
            os.mkdir(scratch, 0o700)
        child = os.fork()
        if child == 0:
            _become(order, scratch, need_landlock, status, descriptors[1:])
        for one in descriptors[1:]:
            os.close(one)
        handle = os.pidfd_open(child)
        socket.send_fds(status, [b'{"started": 1}'], [handle])
        excess = "" if wall == "namespaces" else folders.watch(handle, scratch, order["limits"]["scratch_mb"] << 20)
        _, code = os.waitpid(child, 0)
        if wall != "namespaces" and need_landlock:
            folders.remove(scratch)  # what is left goes with the folder it is in
        status.send(json.dumps({"exit": os.waitstatus_to_exitcode(code), "excess": excess}).encode())
    except BaseException as error:
        with contextlib.suppress(OSError):
            status.send(json.dumps({"broken": f"{type(error).__name__}: {error}"}).encode())
    os._exit(0)


def _become(
    order: Mapping[str, Any], scratch: str, need_landlock: bool, status: socket.socket, descriptors: list[int]
) -> None:
    """The program's process: locks itself in, then plays its role. Never returns."""
    try:
        jail.lock(order["limits"], scratch, need_landlock)
    except BaseException as error:  # nothing has been run, and nothing will be
        status.send(json.dumps({"broken": f"{type(error).__name__}: {error}"}).encode())
        os._exit(0)
    status.close()
    code = 1
    try:
        code = ROLES[order["role"]](*descriptors)
    finally:
        os._exit(code)
