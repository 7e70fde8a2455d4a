"""seccomp: the system calls that a computing, single-process Python program makes; every other one is refused.

No new process, no program run, no socket but an unnamed pair, no signal to anybody else, no shared memory, no mounts, no
tracing, no kernel keyrings, io_uring or bpf. A list of what is allowed, so that calls of later kernels are refused too.
Threads share their descriptors, so that looking at the process shows all of them.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Collection, Iterator

from posttrain.scoring.sandbox import kernel

# name, number on x86_64, number on aarch64 (- where that machine has no such call)
_ALLOWED = """
read 0 63, write 1 64, futex 202 98, mmap 9 222, munmap 11 215, mprotect 10 226, brk 12 214, madvise 28 233,
mremap 25 216, lseek 8 62, close 3 57, fstat 5 80, newfstatat 262 79, statx 332 291, stat 4 -, lstat 6 -,
readv 19 65, writev 20 66, pread64 17 67, pwrite64 18 68,
preadv 295 69, pwritev 296 70, access 21 -, faccessat 269 48, faccessat2 439 439, readlink 89 -,
readlinkat 267 78, getdents 78 -, getdents64 217 61, getcwd 79 17, chdir 80 49, fchdir 81 50, mkdir 83 -,
mkdirat 258 34, rmdir 84 -, unlink 87 -, unlinkat 263 35, rename 82 -, renameat 264 38, renameat2 316 276,
symlink 88 -, symlinkat 266 36, truncate 76 45, ftruncate 77 46, fallocate 285 47, fsync 74 82, fdatasync 75 83,
chmod 90 -, fchmod 91 52, fchmodat 268 53, utimensat 280 88, umask 95 166, dup 32 23, dup2 33 -, dup3 292 24,
flock 73 32, statfs 137 43, fstatfs 138 44, fadvise64 221 223, copy_file_range 326 285, sendfile 40 71,
pipe 22 -, pipe2 293 59, poll 7 -, ppoll 271 73, select 23 -, pselect6 270 72, epoll_create 213 -,
epoll_create1 291 20, epoll_ctl 233 21, epoll_wait 232 -, epoll_pwait 281 22, eventfd2 290 19, recvfrom 45 207,
shutdown 48 210, getsockopt 55 209, getsockname 51 204, getpeername 52 205, msync 26 227,
membarrier 324 283, exit 60 93, exit_group 231 94, wait4 61 260, waitid 247 95, set_tid_address 218 96,
set_robust_list 273 99, rseq 334 293, arch_prctl 158 -, sched_yield 24 124, sched_getaffinity 204 123,
getpid 39 172, getppid 110 173, gettid 186 178, getuid 102 174, geteuid 107 175, getgid 104 176, getegid 108 177,
getgroups 115 158, getresuid 118 148, getresgid 120 150, getpgrp 111 -, getpgid 121 155, getsid 124 156,
getpriority 140 141, getrlimit 97 163, getrusage 98 165, sysinfo 99 179, uname 63 160, times 100 153,
getcpu 309 168, rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139, rt_sigpending 127 136,
rt_sigsuspend 130 133, rt_sigtimedwait 128 137, sigaltstack 131 132, pause 34 -, alarm 37 -, setitimer 38 103,
getitimer 36 102, restart_syscall 219 128, clock_gettime 228 113, clock_getres 229 114, clock_nanosleep 230 115,
nanosleep 35 101, gettimeofday 96 169, time 201 -, getrandom 318 278
"""
# They change modes and times, of files that cannot be opened too. `shutil.copy` and others end where they are refused;
# pretended, they say that they have succeeded even where there is no such file.
ATTRIBUTES = ("chmod", "fchmod", "fchmodat", "utimensat")
# Answered as by a file system without extended attributes, which `shutil.copy2` and `copytree` put up with.
_EXTENDED = """
setxattr 188 5, lsetxattr 189 6, fsetxattr 190 7, getxattr 191 8, lgetxattr 192 9, fgetxattr 193 10, listxattr 194 11,
llistxattr 195 12, flistxattr 196 13, removexattr 197 14, lremovexattr 198 15, fremovexattr 199 16
"""
# Allowed with some arguments only: name and numbers as above; then checks of (argument, bits looked at, values).
_THREAD = 0x10000 | 0x400  # CLONE_THREAD, CLONE_FILES
_ACCESS = 3 | os.O_TRUNC
# Truncation only of what is opened for writing: Landlock before version 3 does not see it. Not access 3, for ioctl.
_OPENING = (os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC, os.O_RDWR | os.O_TRUNC)
_TERMINAL = (
    0x5401,
    0x5413,
    0x541B,
    0x5421,
    0x5450,
    0x5451,
)  # is it a terminal, its size, bytes waiting; blocking; cloexec
_DESCRIPTOR = (0, 1, 2, 3, 4, 5, 6, 7, 1030)  # copies, flags and locks; not F_SETOWN and F_SETSIG, which send signals
_WORD, _HIGH = 0xFFFFFFFF, 32
_Check = tuple[int, int, tuple[int, ...]]


def _checked(own: int) -> dict[str, tuple[int | None, int | None, tuple[_Check, ...]]]:
    """`own` is the process id the process sees of itself. An argument + _HIGH means the upper half of that argument."""
    return {
        "open": (2, None, ((1, _ACCESS, _OPENING),)),
        "openat": (257, 56, ((2, _ACCESS, _OPENING),)),
        "close_range": (436, 436, ((2, _WORD, (0, 4)),)),  # CLOSE_RANGE_CLOEXEC
        "clone": (56, 220, ((0, _THREAD, (_THREAD,)),)),
        "fcntl": (72, 25, ((1, _WORD, _DESCRIPTOR),)),
        "ioctl": (16, 29, ((1, _WORD, _TERMINAL),)),
        "prctl": (157, 167, ((0, _WORD, (15, 16)),)),  # a thread's name
        "prlimit64": (302, 261, ((0, _WORD, (0,)),)),
        "sendto": (44, 206, ((4, _WORD, (0,)), (4 + _HIGH, _WORD, (0,)))),  # to the other end, to no address
        "socketpair": (53, 199, ((0, _WORD, (1,)), (1, 0xF, (1,)))),  # AF_UNIX, SOCK_STREAM
        "tgkill": (234, 131, ((0, _WORD, (own,)),)),  # abort()
    }


_CLONE3 = 435  # its arguments are out of reach of a filter; without it the C library uses clone
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_LOAD, _AND, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
_ALLOW, _KILL, _REFUSE = 0x7FFF0000, 0x80000000, 0x00050000
_X32 = 0x40000000


def supported() -> bool:
    """Whether the filter is written for this machine."""
    return platform.machine() in _MACHINES


def restrict(pretended: Collection[str] = (), refused: Collection[str] = ()) -> None:
    """From now on and for ever, for this process and its threads.

    Of the calls allowed otherwise, the `pretended` are said to have succeeded and do nothing.
    """
    filters = b"".join(_program(platform.machine(), os.getpid(), pretended, refused))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filters", ctypes.c_char_p))

    program = Program(len(filters) // 8, filters)
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    kernel.prctl(kernel.PR_SET_SECCOMP, 2, ctypes.byref(program))


def _program(machine: str, own: int, pretended: Collection[str] = (), refused: Collection[str] = ()) -> Iterator[bytes]:
    column, architecture = _MACHINES[machine]
    yield _line(_LOAD, 4)
    yield _line(_EQUAL, architecture, 1, 0)
    yield _line(_RETURN, _KILL)
    yield _line(_LOAD, 0)
    if machine == "x86_64":
        yield _line(_AT_LEAST, _X32, 0, 1)
        yield _line(_RETURN, _KILL)
    for name, number in _numbers(_ALLOWED, column).items():
        if name not in refused:
            body = [_line(_RETURN, _ALLOW)] if name not in pretended else list(_pretending(name))
            yield _line(_EQUAL, number, 0, len(body))
            yield from body
    for *numbers, checks in _checked(own).values():
        if (checked := numbers[column]) is not None:
            body = [line for check in checks for line in _checking(*check)] + [_line(_RETURN, _ALLOW)]
            yield _line(_EQUAL, checked, 0, len(body))
            yield from body
    for number in _numbers(_EXTENDED, column).values():
        yield _line(_EQUAL, number, 0, 1)
        yield _line(_RETURN, _REFUSE | errno.ENOTSUP)
    yield _line(_EQUAL, _CLONE3, 0, 1)
    yield _line(_RETURN, _REFUSE | errno.ENOSYS)
    yield _line(_RETURN, _REFUSE | errno.EPERM)


def _pretending(name: str) -> Iterator[bytes]:
    """Success without doing anything, but a refusal to set the present time: `Path.touch` then makes a file instead."""
    if name == "utimensat":
        for half, otherwise in ((0, 3), (4, 1)):
            yield _line(_LOAD, 16 + 8 * 2 + half)
            yield _line(_EQUAL, 0, 0, otherwise)
        yield _line(_RETURN, _REFUSE | errno.EPERM)
    yield _line(_RETURN, _REFUSE)  # with no error


def _checking(argument: int, bits: int, values: tuple[int, ...]) -> Iterator[bytes]:
    """Goes on behind these lines if the argument has one of the values, else refuses."""
    upper, index = divmod(argument, _HIGH)
    yield _line(_LOAD, 16 + 8 * index + 4 * upper)
    yield _line(_AND, bits)
    for position, value in enumerate(values):
        yield _line(_EQUAL, value, len(values) - position, 0)
    yield _line(_RETURN, _REFUSE | errno.EPERM)


def _numbers(listed: str, column: int) -> dict[str, int]:
    calls = [call.split() for call in listed.replace("\n", " ").split(",")]
    return {name: int(numbers[column]) for name, *numbers in calls if numbers[column] != "-"}


def _line(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)
