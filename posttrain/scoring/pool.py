"""The thread that owns the worker processes: hands out samples, reads verdicts, kills what overruns."""

from __future__ import annotations

import os
import pickle
import selectors
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from posttrain.data.types import Prompt, Score, Status
from posttrain.scoring.process import ProtocolError, WorkerProcess
from posttrain.scoring.worker import from_json

CHUNK = 32  # samples in one message
LOW = 16  # a worker with fewer in flight gets more, so that it never waits for the parent
CHUNK_CHARACTERS = 1 << 18
START_TIMEOUT = 120.0  # seconds to import the rewards, on a machine busy with training
TICK = 0.5  # seconds between looks at workers that say nothing
CLOSE_TIMEOUT = 0.5  # seconds in which all killed workers together are waited for at the end
GATHER = 0.003  # seconds between reads under load: one wake-up for many verdicts


class ScorerBroken(RuntimeError):
    """The workers cannot do their job at all: a reward cannot be imported, or the scorer is closed."""


@dataclass(frozen=True)
class Sample:
    completion: str
    prompt: Prompt
    done: Callable[[Score], None]


class Pool:
    def __init__(self, setup: bytes, workers: int, timeout: float) -> None:
        self._setup, self._count, self._timeout = setup, workers, timeout
        self._workers: list[WorkerProcess] = []
        self._dying: list[subprocess.Popen[bytes]] = []
        self._started: dict[WorkerProcess, float] = {}
        self._samples: dict[int, Sample] = {}  # queued or in flight, by number
        self._queue: deque[int] = deque()
        self._number = 0
        self._lock = threading.Lock()  # guards _inbox, _closing
        self._inbox: list[Sample] = []
        self._closing = False
        self._failure: BaseException | None = None
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._selector = selectors.DefaultSelector()
        self._thread = threading.Thread(target=self._run, name="scorer", daemon=True)

    # Called from any thread

    def start(self) -> None:
        self._thread.start()

    def add(self, samples: Iterable[Sample]) -> None:
        self.raise_failure()
        with self._lock:
            self._inbox.extend(samples)
            self._wake()

    def raise_failure(self) -> None:
        if self._failure is not None:
            raise ScorerBroken(str(self._failure)) from self._failure
        if self._closing:
            raise ScorerBroken("the scorer is closed")

    def pids(self) -> list[int]:
        return [worker.process.pid for worker in list(self._workers)]

    def close(self) -> None:
        with self._lock:
            if not self._closing:
                self._closing = True
                self._wake()
        self._thread.join()

    def _wake(self) -> None:
        try:
            os.write(self._wake_write, b"w")
        except (BlockingIOError, OSError):  # full: it will wake anyway; closed: the thread has ended
            return

    # The thread

    def _run(self) -> None:
        try:
            self._selector.register(self._wake_read, selectors.EVENT_READ)
            while len(self._workers) < self._count and not self._closing:
                self._start_worker()
            while not self._closing:
                self._step()
        except BaseException as error:  # handed to the caller's thread by raise_failure
            self._failure = error
        finally:
            self._end()

    def _step(self) -> None:
        for key, _ in self._selector.select(self._patience()):
            if key.fileobj == self._wake_read:
                self._take_inbox()
            else:
                self._serve(key.data)
        # every verdict that has arrived is read before any clock is looked at: a late parent harms nobody
        for worker in list(self._workers):
            self._check_clock(worker)
        self._dying = [process for process in self._dying if process.poll() is None]
        for worker in self._workers:
            self._feed(worker)
        if len(self._samples) > CHUNK:
            time.sleep(GATHER)

    def _patience(self) -> float | None:
        now = time.monotonic()
        waits = [w.head_since + self._timeout - now for w in self._workers if w.ready and w.inflight]
        if not waits and all(w.ready for w in self._workers) and not self._dying:
            return None
        return max(0.0, min([TICK, *waits]))

    def _take_inbox(self) -> None:
        try:
            os.read(self._wake_read, 1 << 16)
        except BlockingIOError:
            return
        with self._lock:
            samples, self._inbox = self._inbox, []
        for sample in samples:
            self._samples[self._number] = sample
            self._queue.append(self._number)
            self._number += 1

    def _serve(self, worker: WorkerProcess) -> None:
        worker.flush()
        closed = worker.receive()
        try:
            for message in worker.messages():
                if self._accept(worker, message):
                    return
        except (ProtocolError, KeyError, TypeError) as error:
            self._replace(worker, "error", f"worker sent something that is not a verdict: {error}")
            return
        if closed:
            self._dead(worker)
        else:
            self._watch(worker)

    def _accept(self, worker: WorkerProcess, message: dict[str, Any]) -> bool:
        """Takes one message; True when the worker has been replaced."""
        if "broken" in message:
            raise ScorerBroken(f"a scoring worker could not load the rewards: {message['broken']}")
        if "ready" in message:
            worker.ready = True
            self._started.pop(worker, None)
            return False
        if not worker.inflight or message["n"] != worker.inflight[0]:
            raise ProtocolError(f"verdict on sample {message['n']} out of turn")
        score = from_json(message)
        self._samples.pop(worker.inflight.popleft()).done(score)
        worker.head_since = time.monotonic()
        if message.get("retire"):
            self._replace(worker, None, "")
            return True
        return False

    def _check_clock(self, worker: WorkerProcess) -> None:
        if worker.ready:
            if self._overdue(worker):
                self._serve(worker)  # once more: this thread itself may have been held up since it last read
                if worker not in self._workers or not self._overdue(worker):
                    return
                self._replace(worker, "timeout", f"no verdict within scoring.timeout = {self._timeout:g} s")
            elif worker.process.poll() is not None:  # dead, while a copy of its socket lives in some other process
                self._serve_last(worker)
        elif time.monotonic() - self._started[worker] > START_TIMEOUT:
            raise ScorerBroken(f"a scoring worker did not start within {START_TIMEOUT:g} s")
        elif worker.process.poll() is not None:
            self._serve_last(worker)

    def _overdue(self, worker: WorkerProcess) -> bool:
        return bool(worker.inflight) and time.monotonic() - worker.head_since > self._timeout

    def _serve_last(self, worker: WorkerProcess) -> None:
        """Reads what a dead worker has left behind, then replaces it."""
        self._serve(worker)
        if worker in self._workers:
            self._dead(worker)

    def _dead(self, worker: WorkerProcess) -> None:
        ending = worker.ending(hurry=lambda: self._closing)
        if not worker.ready:
            raise ScorerBroken(f"a scoring worker ended while it loaded the rewards: {ending}; its own words are above")
        cpu = "SIGXCPU" in ending
        self._replace(worker, "timeout" if cpu else "error", ending)

    def _replace(self, worker: WorkerProcess, status: Status | None, detail: str) -> None:
        """Kills a worker; its first sample gets the status (if any), the others are queued again, first."""
        numbers = list(worker.inflight)
        if status is not None and numbers:
            self._samples.pop(numbers.pop(0)).done(Score(value=None, status=status, detail=detail))
        self._queue.extendleft(reversed(numbers))
        self._selector.unregister(worker.sock)
        self._workers.remove(worker)
        self._started.pop(worker, None)
        worker.kill()
        self._dying.append(worker.process)
        if not self._closing:
            self._start_worker()

    def _start_worker(self) -> None:
        worker = WorkerProcess(self._setup)
        self._started[worker] = time.monotonic()
        self._workers.append(worker)
        self._selector.register(worker.sock, selectors.EVENT_READ | selectors.EVENT_WRITE, worker)

    def _feed(self, worker: WorkerProcess) -> None:
        if not worker.ready or len(worker.inflight) >= LOW or not self._queue:
            return
        if not worker.inflight:
            worker.head_since = time.monotonic()
        share = -(-len(self._queue) // len(self._workers))  # a few samples are spread over all workers
        chunk: list[tuple[int, str, Prompt]] = []
        characters = 0
        while self._queue and len(chunk) < min(CHUNK, share) and characters < CHUNK_CHARACTERS:
            number = self._queue.popleft()
            sample = self._samples[number]
            chunk.append((number, sample.completion, sample.prompt))
            characters += len(sample.completion)
            worker.inflight.append(number)
        worker.send(pickle.dumps(chunk, pickle.HIGHEST_PROTOCOL))
        self._watch(worker)

    def _watch(self, worker: WorkerProcess) -> None:
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if worker.wants_to_write else 0)
        self._selector.modify(worker.sock, events, worker)

    def _end(self) -> None:
        for worker in self._workers:
            worker.kill()
        end = time.monotonic() + CLOSE_TIMEOUT
        for process in [*self._dying, *(worker.process for worker in self._workers)]:
            try:
                process.wait(timeout=max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                continue  # stuck in the kernel; it is dead to us and init will reap it
        self._workers = []
        self._selector.close()
        with self._lock:
            os.close(self._wake_read)
            os.close(self._wake_write)
            self._closing = True
