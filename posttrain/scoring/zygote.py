"""The process that workers are forked from: it has the rewards loaded, so a new worker takes milliseconds.

Started by `posttrain.scoring.pool` with `python -c`, so that nothing of the trainer's main module is imported. It judges
nothing that a policy wrote, and it alone kills and reaps workers: a process number that it signals is still that worker's.
Workers share its memory until they write to it.

What a worker has started ends with it, in whatever session that runs (`posttrain.scoring.kin`; where there is no Linux,
its process group alone). When the trainer is killed this process still clears up; only when it is killed itself, what
rewards have started in sessions of their own is left.

Once something hangs, one worker judges some samples over again and then takes over: what a library has cached and
compiled by then is in its copies too. A computer algebra system is several times faster then than at its first hundred
samples, and where samples hang, new workers are needed all the time.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import resource
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Mapping
from typing import NoReturn

from posttrain.scoring import kin, worker
from posttrain.scoring.api import Part
from posttrain.scoring.loading import descriptors, load, unforkable
from posttrain.scoring.outcome import told
from posttrain.scoring.wire import DEMOTE, EASE, KILL, ORDER, SPAWN, Setup, receive, send

NICE = {EASE: 7, DEMOTE: 19}  # of a core that another one wants too: a sixth, and what is left
REAP = 0.3  # seconds in which killed processes are waited for at the end


def main(descriptor: int, parent: int) -> None:
    worker.die_with(parent, signal.SIGKILL)  # an import may never end
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the trainer's to handle; it closes the workers
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sock = socket.socket(fileno=_own(descriptor))
    before = descriptors()
    try:
        setup: Setup = receive(sock)
    except EOFError:  # closed before it had begun
        return
    parts: Mapping[str, Part] | None = None
    if setup.shared:
        try:
            parts = load(setup)
        except Exception as error:  # a plugin's import may raise anything; the parent reports it
            send(sock, {"broken": told(error)[:2000]})
            return
        if why := unforkable(before):
            send(sock, {"unforkable": why})
            return
    Zygote(sock, setup, parts).run()


class Zygote:
    """Forks, kills and reaps as it is told. `workers` are process ids by the number that the parent gave them."""

    def __init__(self, sock: socket.socket, setup: Setup, parts: Mapping[str, Part] | None) -> None:
        self.sock, self.setup, self.parts = sock, setup, parts
        self.workers: dict[int, int] = {}
        self.over = False
        self.woken, self.wake = os.pipe()
        for end in (self.woken, self.wake):
            os.set_blocking(end, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # without a handler nothing is written to the pipe
        signal.signal(signal.SIGTERM, self._told_to_end)
        signal.set_wakeup_fd(self.wake, warn_on_full_buffer=False)
        kin.adopt()
        worker.die_with(os.getppid(), signal.SIGTERM)  # from now on there is something to clear up

    def run(self) -> None:
        """Until the parent closes its end; then no worker is left."""
        gc.collect()
        gc.freeze()  # the collector would write to every page that workers share
        try:
            self._listen()
        except (BrokenPipeError, ConnectionResetError):
            self.sock.close()  # the parent closed its end while it was being told something
        finally:
            self._end()

    def _told_to_end(self, *_: object) -> None:
        self.over = True

    def _listen(self) -> None:
        send(self.sock, {"loaded": os.getpid()})
        poll = select.poll()
        for thing in (self.sock.fileno(), self.woken):
            poll.register(thing, select.POLLIN)
        while not self.over:
            ready = {thing for thing, _ in poll.poll()}
            if self.woken in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self.woken, 1 << 12)
                self._reap()
            if self.sock.fileno() in ready and not self._obey():
                return

    def _obey(self) -> bool:
        """Does what one order says; False when the parent has closed its end."""
        order, descriptors, _, _ = socket.recv_fds(self.sock, ORDER.size, 1)
        if len(order) < ORDER.size:
            return False
        what, number = ORDER.unpack(order)
        if what == SPAWN:
            self._spawn(number, descriptors[0])
        elif number in self.workers and what == KILL:
            self._kill(self.workers[number])
        elif number in self.workers:
            _lower(self.workers[number], what)
        return True

    def _spawn(self, number: int, descriptor: int) -> None:
        own = os.getpid()
        try:
            child = os.fork()
        except OSError as error:
            send(self.sock, {"broken": f"a process cannot be started: {error}"})
            return
        if child == 0:
            self._become_worker(number, descriptor, own)
        os.close(descriptor)
        with contextlib.suppress(OSError):  # the child does it too: whoever is first
            os.setpgid(child, child)
        self.workers[number] = child
        send(self.sock, {"started": number, "pid": child})

    def _become_worker(self, number: int, descriptor: int, parent: int) -> NoReturn:
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for changed in (signal.SIGCHLD, signal.SIGTERM):
                signal.signal(changed, signal.SIG_DFL)
            self.sock.close()
            os.close(self.woken)
            os.close(self.wake)
            os.setpgid(0, 0)  # what a reward starts is killed with it,
            kin.mark(number)  # and found in other groups
            worker.die_with(parent, signal.SIGKILL)
            sock = socket.socket(fileno=_own(descriptor))
            if worker.run(sock, self.setup, self.parts):
                Zygote(sock, self.setup, self.parts).run()
            code = 0
        except BaseException:  # a forked copy must never return into the loop above
            traceback.print_exc()
        finally:
            os._exit(code)

    def _reap(self) -> None:
        for number, child in list(self.workers.items()):
            if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                continue
            self._kill(child)  # what it has started and left behind; its number is not free before the next line
            _, status = os.waitpid(child, 0)
            del self.workers[number]
            send(self.sock, {"exited": number, "code": os.waitstatus_to_exitcode(status)})
        kin.sweep(self.workers.values(), self.workers)

    def _kill(self, child: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child, signal.SIGKILL)

    def _end(self) -> None:
        for child in self.workers.values():
            self._kill(child)
        end = time.monotonic() + REAP
        while not kin.kill_all() and time.monotonic() < end:
            time.sleep(0.002)


def _lower(child: int, order: bytes) -> None:
    """Lowers its priority. There is no way back without privileges."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.setpriority(os.PRIO_PGRP, child, NICE[order])
        if order == DEMOTE and sys.platform == "linux":  # many at the lowest priority still add up to a core's third
            os.sched_setscheduler(child, os.SCHED_IDLE, os.sched_param(0))


def _own(descriptor: int) -> int:
    """The connection at the lowest number free, and closed in programs that rewards start.

    It arrives under a number that depends on the files the sender has open; what a reward does to descriptors must
    not depend on that.
    """
    own = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(descriptor)
    return own
