"""The walls: what a process of the sandbox sees, and what it may use."""

from __future__ import annotations

import os
import resource
import signal
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from typing import Any

from posttrain.scoring.sandbox import folders, kernel, landlock, seccomp

SCRATCH = "/tmp"
DEVICES = ("/dev/null", "/dev/urandom")
_STACK = 64 << 20  # how far the main thread's may grow; other threads get what was the limit when Python started
_PACKAGES = ("site-packages", "dist-packages")
_FRESH = kernel.CLONE_NEWPID | kernel.CLONE_NEWNS | kernel.CLONE_NEWIPC
_ONCE = kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS


def libraries() -> list[str]:
    """Folders with the standard library and the shared libraries that it loads; none lies in another."""
    wanted = [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), f"{sys.base_prefix}/lib"]
    wanted += ["/usr/lib", "/usr/lib64", "/lib", "/lib64"]
    real = sorted({os.path.realpath(path) for path in wanted if os.path.isdir(path)})
    return [path for path in real if not any(path.startswith(f"{other}/") for other in real)]


def packages() -> list[str]:
    """Folders of installed packages below `libraries`: no concern of a candidate."""
    parents = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), "/usr/lib/python3"}
    found = [os.path.realpath(f"{parent}/{name}") for parent in parents for name in _PACKAGES]
    return sorted({path for path in found if os.path.isdir(path)})


def links() -> dict[str, str]:
    """Links of the root folder that lead into `libraries`, such as /lib64."""
    return {path: os.readlink(path) for path in ("/lib", "/lib64", "/lib32") if os.path.islink(path)}


def enter_namespaces() -> None:
    """A user, network, file system and host name of one's own; the old root folder is gone afterwards.

    Raises OSError where the kernel or its settings do not let this user.
    """
    user, group = os.geteuid(), os.getegid()
    kernel.unshare(_ONCE)
    for name, text in (("setgroups", "deny"), ("uid_map", f"1000 {user} 1"), ("gid_map", f"1000 {group} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    shown, hidden, linked = libraries(), packages(), links()
    kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("tmpfs", "/tmp", "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=1m,mode=755")
    os.mkdir("/tmp/old")
    kernel.pivot_root("/tmp", "/tmp/old")
    os.chdir("/")
    for path in shown:
        os.makedirs(path)
        kernel.mount(f"/old{path}", path, None, kernel.MS_BIND | kernel.MS_REC)
        kernel.make_read_only(path)
    for path in hidden:
        kernel.mount("tmpfs", path, "tmpfs", kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV, "size=4k,mode=555")
    for path, target in linked.items():
        if not os.path.lexists(path):
            os.symlink(target, path)
    os.mkdir("/dev")
    for path in DEVICES:
        open(path, "w").close()
        kernel.mount(f"/old{path}", path, None, kernel.MS_BIND)
    os.mkdir(SCRATCH)
    kernel.unmount("/old")
    os.rmdir("/old")
    kernel.mount(
        "none", "/", None, kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV
    )


def enter_landlock(scratch: str) -> None:
    """No file but the standard library's, devices that are none, and what is below `scratch`. Raises OSError.

    None can be opened, listed or changed, /proc included. What Landlock leaves is to look up a path: whether there is a
    file, its owner, size and times, and so which process ids are taken.
    """
    hidden = set(packages())
    landlock.restrict(list(_without(libraries(), hidden)), [scratch, *DEVICES])


def _without(folders: Iterable[str], hidden: set[str]) -> Iterable[str]:
    """The folders, those that contain a hidden one replaced by what else is in them."""
    for folder in folders:
        if folder in hidden:
            continue
        if any(path.startswith(f"{folder}/") for path in hidden):
            yield from _without((entry.path for entry in os.scandir(folder) if not entry.is_symlink()), hidden)
        else:
            yield folder


def fresh_namespaces(scratch_mb: int) -> None:
    """Process ids and a scratch folder for one program. The next child is process 1: when it ends, all of them do."""
    kernel.unshare(_FRESH)
    flags = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
    kernel.mount("tmpfs", SCRATCH, "tmpfs", flags, f"size={scratch_mb}m,nr_inodes={folders.ENTRIES},mode=700")


def lock(limits: Mapping[str, Any], scratch: str, need_landlock: bool) -> None:
    """Gives up everything that is left, for good. Raises OSError; then nothing may be run."""
    os.chdir(scratch)
    memory, files = limits["memory_mb"] << 20, limits["scratch_mb"] << 20
    hard = {
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_CPU: limits["cpu"],
        resource.RLIMIT_FSIZE: files,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    for which, value in hard.items():
        resource.setrlimit(which, (value, value))
    _, most = resource.getrlimit(resource.RLIMIT_STACK)
    deep = _STACK if most == resource.RLIM_INFINITY else min(_STACK, most)
    resource.setrlimit(resource.RLIMIT_STACK, (deep, most))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a file that is too large is an error, not the end
    kernel.drop_capabilities()
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)  # behind every change of credentials, which would clear it
    if need_landlock:  # not to read below "/": the scratch folders of others are there
        landlock.restrict(libraries(), [scratch, *DEVICES])
    if scratch == SCRATCH:  # a file system of its own, and all others are read-only
        seccomp.restrict()
    else:
        # Landlock does not keep anybody from changing modes and times of files that cannot be opened, nor, before its
        # version 3, from cutting them off.
        seccomp.restrict(pretended=seccomp.ATTRIBUTES, refused=() if landlock.version() >= 3 else ("truncate",))
