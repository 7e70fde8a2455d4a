"""Rewards that start processes and leave them behind, in whatever session and at whatever depth."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

SLEEP = "import time; time.sleep(300)"
DEEPER = (
    "import subprocess, sys, time; "
    f"p = subprocess.Popen([sys.executable, '-c', {SLEEP!r}], start_new_session=True); "
    "open(sys.argv[1], 'a').write(f'{p.pid}\\n'); time.sleep(300)"
)


@dataclass(frozen=True)
class Strays:
    """Does what the completion says, and writes the ids of what it has started into the file that is the answer."""

    def __call__(self, completion: str, prompt: Any) -> float:
        word, _, then = completion.partition(" ")
        if word == "session":
            started(prompt.answer, subprocess.Popen([sys.executable, "-c", SLEEP], start_new_session=True).pid)
        if word == "deep":
            command = [sys.executable, "-c", DEEPER, prompt.answer]
            started(prompt.answer, subprocess.Popen(command, start_new_session=True).pid)
        if word == "daemon":
            daemon(prompt.answer)
        if then == "hang":
            time.sleep(300)
        if then == "exit":
            time.sleep(1.5)  # so that those it has started have started others
            os._exit(0)
        return 1.0


def started(file: str, pid: int) -> None:
    with open(file, "a") as out:
        out.write(f"{pid}\n")


def daemon(file: str) -> None:
    """The usual double fork, without exec and without an environment."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    started(file, os.getpid())
    time.sleep(300)
    os._exit(0)


KEPT: list[subprocess.Popen[bytes]] = []


@dataclass(frozen=True)
class Keeps:
    """Asks a process that it keeps for itself; 1 where it gets its own answer."""

    def __call__(self, completion: str, prompt: Any) -> float:
        if completion == "hang":
            time.sleep(300)
        if not KEPT:
            command = ["cat", "-u"]
            KEPT.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0))
        (kept,) = KEPT
        assert kept.stdin is not None
        assert kept.stdout is not None
        asked = f"{completion}\n".encode()
        kept.stdin.write(asked)
        return float(kept.stdout.readline() == asked)
