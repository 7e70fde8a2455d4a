"""Scratch folders that lie on a file system with others: how much a program has in its own, and their removal.

Nothing of what a program leaves there is trusted: folders may be nested thousands deep, closed by their modes, or named
in no encoding. Sizes are looked at from time to time, so for a moment there may be more than the limits allow: as much
as can be written within `_EVERY`. Files that have no name any more are looked at from outside, by `excess`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import select
import signal
import stat
from collections.abc import Generator

ENTRIES = 1024  # files and folders in one scratch folder
_DEPTH = 64  # of nested folders; each that is being looked at takes two descriptors
_EVERY = 0.05  # seconds between looks
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def watch(process: int, folder: str, most: int) -> str:
    """Waits for a process (a handle) to end. Kills it if its folder grows above `most` bytes; then the reason."""
    poll = select.poll()
    poll.register(process, select.POLLIN)
    excess = ""
    while not poll.poll(1000 * _EVERY):
        excess = excess or too_much(folder, most)
        if excess:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(process, signal.SIGKILL)
    return excess


def too_much(folder: str, most: int) -> str:
    """What there is too much of in a folder; nothing if it keeps to the limits."""
    used = 0
    try:
        with contextlib.closing(_below(_opened(folder), _DEPTH)) as found:
            for number, state in enumerate(found, 1):
                used += state.st_blocks * 512
                if number > ENTRIES:
                    return f"more than {ENTRIES} files in its scratch folder"
                if used > most:
                    return f"more than {most >> 20} MB in its scratch folder"
    except _TooDeep:
        return f"folders nested more than {_DEPTH} deep in its scratch folder"
    except OSError as error:
        return f"a scratch folder that cannot be looked into: {error.strerror}"
    return ""


class _TooDeep(Exception):
    """There is more below than is looked at."""


def _below(folder: int, depth: int) -> Generator[os.stat_result]:
    """All that is in an open folder, which is closed afterwards. The program goes on meanwhile."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                inner = None
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    state = entry.stat(follow_symlinks=False)
                    yield state
                    if stat.S_ISDIR(state.st_mode):
                        inner = _opened(entry.name, folder)
                if inner is not None:
                    if depth == 0:
                        os.close(inner)
                        raise _TooDeep
                    yield from _below(inner, depth - 1)
    finally:
        os.close(folder)


def remove(path: str) -> None:
    """A folder with all that is in it. What cannot be removed is left; never raises."""
    with contextlib.suppress(OSError):
        top = _opened(path)
        try:
            _empty(top)
        finally:
            os.close(top)
        os.rmdir(path)


def _empty(top: int) -> None:
    """Every folder within is brought up to the top before it is emptied: so no path gets long, and nothing nests."""
    mark, number = secrets.token_hex(8), itertools.count()
    waiting = _without_files(top)
    while waiting:
        name = waiting.pop()
        with contextlib.suppress(OSError):
            folder = _opened(name, top)
            try:
                for inner in _without_files(folder):
                    with contextlib.suppress(OSError):
                        os.close(_opened(inner, folder))  # to move a folder one must be allowed to write to it
                        above = f"{mark}-{next(number)}"
                        os.rename(inner, above, src_dir_fd=folder, dst_dir_fd=top)
                        waiting.append(above)
            finally:
                os.close(folder)
            os.rmdir(name, dir_fd=top)


def _without_files(folder: int) -> list[str]:
    """Removes what is no folder; the names of those that are."""
    with os.scandir(folder) as found:
        entries = list(found)
    folders = []
    for entry in entries:
        with contextlib.suppress(OSError):
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.name)
            else:
                os.unlink(entry.name, dir_fd=folder)
    return folders


def _opened(name: str, within: int | None = None) -> int:
    """A folder, and never what a link leads to; its mode is changed where that keeps its owner out."""
    handle = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=within)
    try:
        if os.fstat(handle).st_mode & stat.S_IRWXU != stat.S_IRWXU:
            try:
                os.chmod(f"/proc/self/fd/{handle}", stat.S_IRWXU)  # a name might be a link by now
            except FileNotFoundError:  # no /proc: within bubblewrap, where all but scratch folders is read-only
                os.chmod(name, stat.S_IRWXU, dir_fd=within)
        return os.open(".", _OPEN, dir_fd=handle)
    finally:
        os.close(handle)
