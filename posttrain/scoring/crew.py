"""The worker processes of a pool: how many there are, which of them get samples, and which are set aside."""

from __future__ import annotations

import contextlib
import selectors
import time
from dataclasses import replace

from posttrain.scoring.aside import MOST, PATIENT, STARVED, Look, resident
from posttrain.scoring.process import ScorerBroken, WorkerProcess, Zygote, ZygoteProcess, ending
from posttrain.scoring.wire import Setup

START_TIMEOUT = 120.0  # seconds to import the rewards, on a machine busy with training
CLOSE_TIMEOUT = 0.4  # seconds in which killed workers are waited for at the end
SPARES = 2  # workers that wait to take the place of another
LESSONS = (128, 512)  # samples that a pupil judges before it becomes an heir: the first one, the next ...
RESTARTS = 3  # of the first process, should somebody kill it
REVIEW = 0.2  # seconds between looks at the memory of what is set aside, and at what sleeps there
LOOK = 0.005  # seconds between looks at one that runs there


class Crew:
    """`count` workers serve; behind them stand spares, beside them those that are stuck in a sample.

    Where samples wait for something outside, or a fork cannot do what its parent does, there are neither: a stuck worker
    blocks its place until its sample's time is over.
    """

    def __init__(self, setup: Setup, count: int, selector: selectors.BaseSelector, waits: bool) -> None:
        self.setup, self.count, self.selector = setup, count, selector
        self.workers: list[WorkerProcess] = []
        self.waits = waits
        self._number = self._restarts = 0
        self._reviewed, self._held = 0.0, 0  # when, and how many bytes those that are aside hold
        self._first = self._start()
        self.pupil: WorkerProcess | None = None  # judges once more what others have judged, and then becomes the heir
        self._heirs: list[Zygote] = []  # others are forked from the last, each was itself from the one before
        self._wanted = False  # whether they are worth having: something was set aside
        self._barren = False  # whether a worker that has judged cannot be forked

    @property
    def alone(self) -> bool:
        return self.waits or not self.setup.shared

    def serving(self) -> list[WorkerProcess]:
        """Those that get samples."""
        able = (w for w in self.workers if w.ready and not w.aside and not w.closed and w is not self.pupil)
        return [w for w, _ in zip(able, range(self.count), strict=False)]

    def starting(self) -> bool:
        return not (self._first.loaded and all(w.ready for w in self.workers))

    def hear(self, zygote: Zygote) -> list[tuple[WorkerProcess, int | None]]:
        """What a zygote says; the workers that have ended, with their exit codes, None where it is not their doing."""
        zygote.flush()
        closed = zygote.receive()
        by_number = {w.number: w for w in self.workers}
        ended: list[tuple[WorkerProcess, int | None]] = []
        for message in zygote.messages():
            worker = by_number.get(message.get("started", message.get("exited", -1)))
            if "broken" in message:
                raise ScorerBroken(f"a scoring worker could not load the rewards: {message['broken']}")
            if "unforkable" in message and zygote in self._heirs:
                self._barren = True
            elif "unforkable" in message:
                self._restart(replace(self.setup, shared=False))
                return []
            if "loaded" in message:
                zygote.loaded = True
            elif worker is not None and "started" in message:
                worker.pid = message["pid"]
            elif worker is not None:
                ended.append((worker, message["code"]))
        if not closed:
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if zygote.wants_to_write else 0)
            self.selector.modify(zygote.sock, events, zygote)
        elif zygote in self._heirs:  # the kernel kills what was forked from it
            gone = self._disinherit(zygote)
            ended = [(w, None) for w in self.workers if w.parent in gone]
        return ended

    def lost(self) -> bool:
        """Whether the first process has ended by itself; the kernel kills all others then."""
        code = self._first.process.poll()
        late = not self._first.loaded and time.monotonic() - self._first.started > START_TIMEOUT
        if late or any(not w.ready and time.monotonic() - w.started > START_TIMEOUT for w in self.workers):
            raise ScorerBroken(f"a scoring worker did not start within {START_TIMEOUT:g} s")
        if code is None:
            return False
        if not self._first.loaded:
            self.hear(self._first)  # it may have said why
            if self._first.process.poll() is None:  # another one has taken over
                return False
            how = ending(code)
            raise ScorerBroken(f"a scoring worker ended while it loaded the rewards: {how}; its own words are above")
        return True

    def renew(self) -> None:
        """Another first process, when the last one was lost."""
        self._restarts += 1
        if self._restarts > RESTARTS:
            raise ScorerBroken(f"the process that starts scoring workers was killed {self._restarts} times")
        if self._heirs:
            self._disinherit(self._heirs[0])
        self._restart(self.setup)

    def knows(self, zygote: Zygote) -> bool:
        return zygote is self._first or zygote in self._heirs

    def fill(self) -> None:
        """As many workers as there have to be."""
        self._promote()
        zygote = next((heir for heir in reversed(self._heirs) if heir.loaded), self._first)
        if not zygote.loaded:
            return
        for _ in range(self.count + (0 if self.alone else SPARES) - len(self._able())):
            self._spawn(zygote)
        if self._wanted and not self._barren and len(self._heirs) < len(LESSONS) and self.pupil is None:
            self.pupil = self._spawn(zygote)
            self.pupil.pupil = True

    def _spawn(self, zygote: Zygote) -> WorkerProcess:
        worker = zygote.spawn(self._number)
        self._number += 1
        self.workers.append(worker)
        self.selector.register(worker.sock, selectors.EVENT_READ, worker)
        return worker

    def remove(self, worker: WorkerProcess) -> None:
        self.unwatch(worker)
        self.workers.remove(worker)
        worker.parent.kill(worker)
        if worker is self.pupil:
            self.pupil = None

    def watch(self, worker: WorkerProcess) -> None:
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if worker.wants_to_write else 0)
        if self.selector.get_key(worker.sock).events != events:
            self.selector.modify(worker.sock, events, worker)

    def unwatch(self, thing: WorkerProcess | Zygote) -> None:
        with contextlib.suppress(KeyError):  # it is not watched once its end is closed
            self.selector.unregister(thing.sock)

    def end(self) -> None:
        for heir in reversed(self._heirs):
            heir.end(CLOSE_TIMEOUT / 4)
        self._first.end(CLOSE_TIMEOUT)
        for worker in self.workers:
            worker.sock.close()
        self.workers = []

    # ---- stuck ones ----
    def room(self, fair: float) -> bool:
        """Whether one more may be set aside. One that has had its share of a core makes room."""
        stuck = [w for w in self.workers if w.aside]
        if self.alone or len(stuck) >= MOST or self._memory(stuck) > self.count * self.setup.memory_mb << 20:
            return False
        awake = [w for w in stuck if w.lowered < 2 and self._looked(w).running]
        if len(awake) < self.count:
            return True
        for worker in awake:
            if worker.look.burnt - worker.burnt > fair:
                worker.parent.lower(worker)
                return worker.lowered > 1 or self.room(fair)
        return False

    def ease(self, fair: float) -> None:
        """Has those that have had their share step back: half as many as there are workers a little, others behind."""
        for worker in self.workers:
            if worker.aside and not worker.lowered and self._looked(worker).burnt - worker.burnt > fair:
                worker.parent.lower(worker)
        most = max(1, self.count // 2)
        eased = [w for w in self.workers if w.aside and w.lowered == 1]
        if len(eased) > most:
            for worker in [w for w in eased if self._looked(w).running][:-most]:
                worker.parent.lower(worker)

    def starved(self, worker: WorkerProcess) -> bool:
        """Whether it is our doing that it has not come to an end: it had to step back, and others had the cores."""
        if not worker.lowered or sum(1 for w in self.workers if w.aside) > PATIENT:
            return False
        look = self._looked(worker)
        return look.running and look.burnt - worker.burnt < STARVED * self.setup.timeout

    def set_aside(self, worker: WorkerProcess) -> None:
        self._wanted = True
        worker.aside = worker.looked = time.monotonic()
        worker.look = replace(Look.at(worker.pid), running=True)  # until it has been seen asleep
        worker.burnt = worker.look.burnt

    def back(self, worker: WorkerProcess) -> None:
        """Its sample has come to an end after all."""
        worker.aside = 0.0
        if worker.lowered or len(self._able()) > self.count + 2 * SPARES:
            self.remove(worker)

    def _able(self) -> list[WorkerProcess]:
        return [w for w in self.workers if not w.aside and w is not self.pupil]

    def _looked(self, worker: WorkerProcess) -> Look:
        now = time.monotonic()
        if now - worker.looked > (LOOK if worker.look.running else REVIEW):
            worker.look, worker.looked = Look.at(worker.pid), now
        return worker.look

    def _memory(self, stuck: list[WorkerProcess]) -> int:
        """Bytes that those hold beyond what they share."""
        if time.monotonic() - self._reviewed > REVIEW:
            self._reviewed = time.monotonic()
            base = {zygote: resident(zygote.pid) for zygote in {w.parent for w in stuck}}
            self._held = sum(max(0, resident(w.pid) - base[w.parent]) for w in stuck)
        return self._held

    # ---- what they are forked from ----
    def to_learn(self) -> int:
        """How many samples the pupil has yet to judge."""
        return 0 if self.pupil is None else LESSONS[len(self._heirs)] - self.pupil.judged

    def _promote(self) -> None:
        """The pupil becomes the heir as soon as it has judged enough."""
        pupil = self.pupil
        if pupil is not None and not pupil.inflight and self.to_learn() <= 0:
            self.workers.remove(pupil)
            self._heirs.append(heir := pupil.promoted())
            self.pupil = None
            self.selector.modify(heir.sock, selectors.EVENT_READ | selectors.EVENT_WRITE, heir)

    def _disinherit(self, lost: Zygote) -> list[Zygote]:
        """Forgets an heir and those after it."""
        at = self._heirs.index(lost)
        gone, self._heirs = self._heirs[at:], self._heirs[:at]
        for heir in gone:
            self.unwatch(heir)
            heir.sock.close()
        return gone

    def _start(self) -> ZygoteProcess:
        zygote = ZygoteProcess(self.setup)
        self.selector.register(zygote.sock, selectors.EVENT_READ | selectors.EVENT_WRITE, zygote)
        return zygote

    def _restart(self, setup: Setup) -> None:
        self.unwatch(self._first)
        self._first.end(CLOSE_TIMEOUT)
        self.setup = setup
        self._first = self._start()
