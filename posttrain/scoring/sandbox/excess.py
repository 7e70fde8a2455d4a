"""What a process of the sandbox has too much of, where no limit of the kernel's says so. Looked at from outside."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path


def found(handle: int, most_threads: int, most_held: int, scratch: str) -> str:
    """The reason to end the process behind a handle; nothing if there is none, or if it has ended.

    `most_held` are bytes of files that had a name below `scratch` and have none any more, which no look at a folder
    shows. No such folder: its own file system counts them.
    """
    process = _number(handle)
    if not process:
        return ""
    if threads(process) > most_threads:
        return f"more than {most_threads} threads at once"
    if scratch and held(process, scratch) > most_held:
        return f"more than {most_held >> 20} MB in deleted files"
    return ""


def threads(process: int) -> int:
    """How many it has; 0 when it has ended. Where it cannot be seen at all, the self-test says so."""
    try:
        return os.stat(f"/proc/{process}/task").st_nlink - 2
    except OSError:
        return 0


def held(process: int, scratch: str) -> int:
    """Bytes of the deleted files of a folder that a process has open or mapped.

    seccomp lets no thread have descriptors of its own. The path tells them, and not the mark alone: memory bears it
    too, and libraries that were replaced while in use.
    """
    sizes: dict[int, int] = {}
    with contextlib.suppress(OSError):
        sizes.update(_mapped(Path(f"/proc/{process}/maps").read_text(errors="replace"), scratch))
        for name in os.listdir(f"/proc/{process}/fd"):
            path = f"/proc/{process}/fd/{name}"
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                state = os.stat(path)
                nameless = stat.S_ISREG(state.st_mode) and state.st_nlink == 0
                if nameless and os.readlink(path).startswith(f"{scratch}/"):
                    sizes[state.st_ino] = state.st_blocks * 512
    return sum(sizes.values())


def _mapped(text: str, scratch: str) -> Iterator[tuple[int, int]]:
    """Inodes of the deleted files in a process's list of mappings, and up to which byte they are mapped."""
    ends: dict[int, int] = {}
    for line in text.splitlines() if " (deleted)" in text else ():
        addresses, _, offset, _, inode, *path = line.split(maxsplit=5)
        if path and path[0].endswith(" (deleted)") and path[0].startswith(f"{scratch}/"):
            first, last = (int(address, 16) for address in addresses.split("-"))
            ends[int(inode)] = max(ends.get(int(inode), 0), int(offset, 16) + last - first)
    yield from ends.items()


def _number(handle: int) -> int:
    """The process id behind a handle; 0 when it has ended."""
    try:
        _, _, rest = Path(f"/proc/self/fdinfo/{handle}").read_text().partition("\nPid:")
        return max(0, int(rest.split()[0]))
    except (OSError, IndexError):
        return 0
