"""The process in which rewards run: reads samples from a socket, writes one verdict each, in order."""

from __future__ import annotations

import ctypes
import math
import os
import resource
import select
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from posttrain.scoring import kin
from posttrain.scoring.api import Part, judge_all
from posttrain.scoring.loading import descriptors, load, prepare, unforkable
from posttrain.scoring.outcome import told
from posttrain.scoring.wire import Setup, as_json, receive, send

PR_SET_PDEATHSIG = 1


def run(sock: socket.socket, setup: Setup, parts: Mapping[str, Part] | None) -> bool:
    """Judges until the parent closes its end, or wants others to be forked from this process: then True.

    `parts` are None where they could not be loaded before the fork. A reward may have begun to keep a process or a
    connection while it judged: then a fork would share that with others, and this process ends instead.
    """
    before = descriptors()
    try:
        mine = load(setup) if parts is None else parts
        prepare(mine, waiting=True)
        _limit_memory(setup.memory_mb)
    except Exception as error:  # a plugin's import may raise anything; the parent reports it
        send(sock, {"broken": told(error)[:2000]})
        return False
    _offer_to_the_kernel(800)
    send(sock, {"ready": os.getpid()})
    if not serve(sock, mine, setup):
        return False
    if why := unforkable(before) or ("it has started processes" if kin.children() else ""):
        send(sock, {"unforkable": why})
        return False
    _offer_to_the_kernel(0)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (hard, hard))
    return True


def serve(sock: socket.socket, parts: Mapping[str, Part], setup: Setup) -> bool:
    """One verdict for each sample. Whatever has arrived is read before one is begun: a set tells which are not wanted."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    waiting: deque[Any] = deque()
    while True:
        try:
            while not waiting or poll.poll(0):
                message = receive(sock)
                if isinstance(message, str):
                    return True
                if isinstance(message, frozenset):
                    waiting = deque(sample for sample in waiting if sample[0] not in message)
                    send(sock, {"dropped": 1})
                else:
                    waiting.extend(message)
        except EOFError:
            return False
        number, completion, prompt = waiting.popleft()
        _limit_cpu(setup.timeout)
        began = time.perf_counter()
        score = judge_all(parts, completion, prompt, setup.steps)
        row = {"n": number, "t": round(time.perf_counter() - began, 6), **as_json(score)}
        # after a MemoryError the heap may stay full or torn, so a fresh worker judges the next sample
        retire = score.status == "error" and "MemoryError" in score.detail
        send(sock, {**row, "retire": 1} if retire else row)
        if retire:
            return False


def die_with(parent: int, how: signal.Signals) -> None:
    """The kernel sends that signal when the one that started this process dies; SIGKILL ends even a C loop."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, how, 0, 0, 0)
    if os.getppid() != parent:  # it died before the line above
        os._exit(0)


def _offer_to_the_kernel(points: int) -> None:
    """When memory runs out, the kernel ends the process with the most points: a worker, and not the trainer."""
    if sys.platform == "linux":
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write(str(points))


def _limit_memory(megabytes: int) -> None:
    """Address space on top of what the imports have taken (libraries reserve much more than they use)."""
    try:
        with open("/proc/self/statm") as file:
            base = int(file.read().split()[0]) * resource.getpagesize()
    except FileNotFoundError:  # not Linux
        base = 0
    limit = base + (megabytes << 20)
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard == resource.RLIM_INFINITY or limit < hard:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _limit_cpu(timeout: float) -> None:
    """A backstop, moved on with every sample: the parent's clock acts first unless the parent is stuck."""
    used = time.process_time()
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = math.ceil(used + 2 * timeout) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))
