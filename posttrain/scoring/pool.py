"""The thread that owns the worker processes: hands out samples, reads verdicts, kills what overruns."""

from __future__ import annotations

import os
import pickle
import selectors
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from posttrain.data.types import Prompt, Score, Status
from posttrain.scoring.aside import PATIENCE, Durations
from posttrain.scoring.crew import LOOK, Crew
from posttrain.scoring.process import ProtocolError, ScorerBroken, WorkerProcess, Zygote, ending
from posttrain.scoring.wire import Setup, from_json

__all__ = ["Pool", "Sample", "ScorerBroken"]

CHUNK = 32  # samples in one message
LOW = 16  # a worker with fewer in flight gets more, so that it never waits for the parent
CHUNK_CHARACTERS = 1 << 18
TICK = 0.5  # seconds between looks at workers that say nothing
GATHER = 0.003  # seconds between reads under load: one wake-up for many verdicts
TAUGHT = 3  # of so many samples the pupil judges one: it must not be in the way
DEAF = 1.0  # seconds in which a worker that has closed its connection has to end


@dataclass(frozen=True)
class Sample:
    completion: str
    prompt: Prompt
    done: Callable[[Score], None]


class Pool:
    def __init__(self, setup: Setup, workers: int, waits: bool) -> None:
        self._setup, self._count, self._waits = setup, workers, waits
        self._crew: Crew | None = None
        self._durations = Durations()
        self._samples: dict[int, Sample] = {}  # queued or in flight, by number
        self._queue: deque[int] = deque()
        self._lesson: list[Sample] = []  # judged without trouble, and soon once more by the pupil
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
        crew = self._crew
        return [] if crew is None else [worker.pid for worker in list(crew.workers) if worker.pid is not None]

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
            self._crew = Crew(self._setup, self._count, self._selector, self._waits)
            while not self._closing:
                self._step(self._crew)
        except BaseException as error:  # handed to the caller's thread by raise_failure
            self._failure = error
        finally:
            self._end()

    def _step(self, crew: Crew) -> None:
        for key, _ in self._selector.select(self._patience(crew)):
            if key.fileobj == self._wake_read:
                self._take_inbox()
            elif isinstance(key.data, Zygote):
                for worker, code in crew.hear(key.data) if crew.knows(key.data) else ():
                    self._ended(crew, worker, code)
            elif key.data in crew.workers:
                self._serve(crew, key.data)
        if crew.lost():
            for worker in list(crew.workers):
                self._replace(crew, worker, None, "")
            crew.renew()
        # every verdict that has arrived is read before any clock is looked at: a late parent harms nobody
        delay = self._durations.delay()
        for worker in list(crew.workers):
            self._check_clock(crew, worker, delay)
        crew.ease(self._durations.fair())
        crew.fill()
        for worker in crew.serving():
            self._feed(crew, worker)
        if crew.pupil is not None:
            self._teach(crew, crew.pupil)
        if len(self._samples) > CHUNK:
            time.sleep(min(GATHER, delay))

    def _patience(self, crew: Crew) -> float | None:
        now, delay = time.monotonic(), self._durations.delay()
        waits = [self._limit(crew, w, delay) - (now - w.head_since) for w in crew.workers if w.inflight or w.dropped]
        if not waits and not crew.starting():
            return TICK if any(w.closed for w in crew.workers) else None
        return min([TICK, *(wait if wait > 0 else LOOK for wait in waits)])  # overdue: there was no room beside

    def _limit(self, crew: Crew, worker: WorkerProcess, delay: float) -> float:
        """Seconds that its first sample may take before something happens."""
        limit = self._setup.timeout
        if worker.aside:
            late = time.monotonic() - worker.head_since > limit
            return PATIENCE * limit if late and crew.starved(worker) else limit
        others_wait = (len(worker.inflight) > 1 or bool(self._queue)) and not worker.pupil
        return min(delay, limit) if others_wait else limit

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

    def _serve(self, crew: Crew, worker: WorkerProcess) -> None:
        if worker.closed:
            return
        worker.flush()
        closed = worker.receive()
        try:
            for message in worker.messages():
                if self._accept(crew, worker, message):
                    return
        except (ProtocolError, KeyError, TypeError, ValueError) as error:
            self._replace(crew, worker, "error", f"worker sent something that is not a verdict: {error}")
            return
        if closed:  # the zygote will say how it ended
            worker.closed = time.monotonic()
            crew.unwatch(worker)
        else:
            crew.watch(worker)

    def _accept(self, crew: Crew, worker: WorkerProcess, message: dict[str, Any]) -> bool:
        """Takes one message; True when the worker is gone."""
        if "broken" in message:
            raise ScorerBroken(f"a scoring worker could not load the rewards: {message['broken']}")
        worker.head_since = time.monotonic()
        if "ready" in message:
            worker.ready, worker.pid = True, int(message["ready"])
            return False
        if "dropped" in message:
            worker.dropped.clear()
        elif message["n"] not in worker.dropped:  # what was taken away from it is another one's to judge
            if not worker.inflight or message["n"] != worker.inflight[0]:
                raise ProtocolError(f"verdict on sample {message['n']} out of turn")
            self._judged(worker, from_json(message), float(message["t"]))
        if message.get("retire"):
            self._replace(crew, worker, None, "")
        elif worker.aside and not worker.inflight and not worker.dropped:
            crew.back(worker)
        return worker not in crew.workers

    def _judged(self, worker: WorkerProcess, score: Score, seconds: float) -> None:
        number = worker.inflight.popleft()
        worker.judged += 1
        if worker.pupil:
            return
        self._durations.add(seconds)
        sample = self._samples.pop(number)
        if score.status == "ok" and number % TAUGHT == 0 and len(self._lesson) < LOW:
            self._lesson.append(sample)
        sample.done(score)

    def _check_clock(self, crew: Crew, worker: WorkerProcess, delay: float) -> None:
        if worker.closed and time.monotonic() - worker.closed > DEAF:
            self._replace(crew, worker, "error", "worker closed its connection")
        if worker.closed or not (worker.inflight or worker.dropped) or not self._overdue(crew, worker, delay):
            return
        self._serve(crew, worker)  # once more: this thread itself may have been held up since it last read
        if worker not in crew.workers or worker.closed or not self._overdue(crew, worker, delay):
            return
        if not self._overdue(crew, worker, self._setup.timeout):
            if crew.room(self._durations.fair()):
                self._set_aside(crew, worker)
        elif worker.inflight:
            limit = f"scoring.timeout = {self._setup.timeout:g} s"
            self._replace(crew, worker, "timeout", f"no verdict within {limit}")
        else:
            self._replace(crew, worker, None, "")

    def _overdue(self, crew: Crew, worker: WorkerProcess, delay: float) -> bool:
        return time.monotonic() - worker.head_since > self._limit(crew, worker, delay)

    def _set_aside(self, crew: Crew, worker: WorkerProcess) -> None:
        """Leaves it its first sample and gives the others to somebody else."""
        first, *others = worker.inflight
        self._queue.extendleft(reversed(others))
        worker.inflight = deque([first])
        if others:
            worker.dropped.update(others)
            worker.send(pickle.dumps(frozenset(others)))
            crew.watch(worker)
        crew.set_aside(worker)

    def _ended(self, crew: Crew, worker: WorkerProcess, code: int | None) -> None:
        """Reads what a dead worker has left behind, then replaces it. Without a code it is not to blame."""
        self._serve(crew, worker)
        if worker not in crew.workers:
            return
        if code is None:
            self._replace(crew, worker, None, "")
            return
        if not worker.ready:
            raise ScorerBroken(f"a scoring worker ended before it could begin: {ending(code)}; its own words are above")
        self._replace(crew, worker, "timeout" if code == -signal.SIGXCPU else "error", ending(code))

    def _replace(self, crew: Crew, worker: WorkerProcess, status: Status | None, detail: str) -> None:
        """Kills a worker; its first sample gets the status (if any), the others are queued again, first."""
        numbers = [] if worker.pupil else list(worker.inflight)
        if status is not None and numbers:
            self._samples.pop(numbers.pop(0)).done(Score(value=None, status=status, detail=detail))
        self._queue.extendleft(reversed(numbers))
        crew.remove(worker)

    def _feed(self, crew: Crew, worker: WorkerProcess) -> None:
        if len(worker.inflight) >= LOW or not self._queue:
            return
        if not worker.inflight:
            worker.head_since = time.monotonic()
        share = -(-len(self._queue) // self._count)  # a few samples are spread over all workers
        chunk: list[tuple[int, str, Prompt]] = []
        characters = 0
        while self._queue and len(chunk) < min(CHUNK, share) and characters < CHUNK_CHARACTERS:
            number = self._queue.popleft()
            sample = self._samples[number]
            chunk.append((number, sample.completion, sample.prompt))
            characters += len(sample.completion)
            worker.inflight.append(number)
        worker.send(pickle.dumps(chunk, pickle.HIGHEST_PROTOCOL))
        crew.watch(worker)

    def _teach(self, crew: Crew, pupil: WorkerProcess) -> None:
        """Has it judge some that others have just judged: their time has shown that they do no harm."""
        if not pupil.ready or pupil.closed or pupil.inflight or crew.to_learn() <= 0 or not self._lesson:
            return
        pupil.head_since = time.monotonic()
        pupil.inflight.extend(range(len(self._lesson)))
        chunk = [(number, sample.completion, sample.prompt) for number, sample in enumerate(self._lesson)]
        self._lesson = []
        pupil.send(pickle.dumps(chunk, pickle.HIGHEST_PROTOCOL))
        crew.watch(pupil)

    def _end(self) -> None:
        if self._crew is not None:
            self._crew.end()
        self._selector.close()
        with self._lock:
            os.close(self._wake_read)
            os.close(self._wake_write)
            self._closing = True
