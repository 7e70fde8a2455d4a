"""The processes that rewards start: whose they are, whatever session they are in, and that none of them is left.

A process whose parent has ended becomes the child of the next `adopt`ing process above it. So whatever a worker has
started, and those have started, is sooner or later a child of the process that forked the worker; a mark that is
inherited and does nothing else says which worker it began with. Linux alone has this.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
from collections.abc import Container

PR_SET_CHILD_SUBREAPER = 36
LINUX = sys.platform == "linux"
# Microseconds of a real-time process, which nobody is: 31 years and the worker's number.
_MARK = 10**15


def adopt() -> None:
    """From now on, what is left of a descendant that ends becomes this process's child."""
    if LINUX:
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def mark(number: int) -> None:
    """This process and everything it will start is that worker's."""
    if LINUX:
        with contextlib.suppress(OSError, ValueError):  # a lower limit is in force here: what is left goes at the end
            _, hard = resource.getrlimit(resource.RLIMIT_RTTIME)
            resource.setrlimit(resource.RLIMIT_RTTIME, (_MARK + number, hard))


def children() -> list[int]:
    """Process ids of this process's children, ended ones that nobody has waited for included. It has one thread."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            return [int(pid) for pid in file.read().split()]
    except FileNotFoundError:  # not Linux, or a kernel without that list
        return []


def sweep(own: Container[int], alive: Container[int]) -> None:
    """Kills this process's children that began with a worker that is not `alive`, but for its `own` ones.

    They may have children, which are this process's as soon as they are dead: each death asks for another sweep. A child
    keeps its number until it is waited for here, so no other process is hit.
    """
    for pid in children():
        number = None if pid in own else _marked(pid)
        if number is None:  # a worker, or something that a reward has started when it was loaded
            continue
        if number not in alive:
            _kill(pid)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def kill_all() -> bool:
    """Kills and reaps every child there is; whether none was left."""
    for pid in children():
        _kill(pid)
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            continue
    except ChildProcessError:
        return True
    return False


def _marked(pid: int) -> int | None:
    try:
        soft, _ = resource.prlimit(pid, resource.RLIMIT_RTTIME)
    except (OSError, ValueError):
        return None
    return soft - _MARK if soft >= _MARK else None


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)
