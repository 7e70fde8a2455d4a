"""When a sample counts as stuck, and how many stuck ones may stay beside the workers.

A stuck sample keeps its process until its time is over: that is its right, for it may yet come to an end. So that the
samples behind it need not wait, its worker is set aside: a spare one, forked beforehand, takes its place, and gets the
samples that waited.

What bounds the throughput then. Let a worker judge a sample in t seconds on average, a share p of the samples hang, and
T be their limit.

- Before anybody knows that one hangs, its worker has been silent for a delay: twice what all but one in fifty of the
  last samples took, 10 t at most. Where all take about the same nothing much is lost, and a tenth with p = 1 % where a
  few take most of the time. Below 1.5 ms a sample the delay stays 3 ms, and more is lost, for starting and ending a
  process costs some 15 ms of a core too.
- Hung samples that sleep cost a process each, p T / t of them for each worker: 50 with T = 5 s and 1 ms a sample. Above
  MOST a stuck worker keeps its place, so that no more than MOST / T hung samples pass in a second.
- Those that burn a core are in the way of the workers and of others that are merely slow. Each has a share at full
  priority: twice what all but one in two hundred of the last samples took, within FAIR. Then it steps back, to a sixth
  of a core that a worker wants too; of those only half as many as there are workers run, the others have what is left
  over. Where no core is free that is nothing. So one that was ready to run all the time, and yet has had less than
  STARVED of its limit, is waited for longer: its lateness is our doing. One that needs more, or is one of many, may be
  late where no core is free; no other is. Nobody can tell those that are late from hung ones.
- What that makes of the throughput depends on the cores. With one to spare eight to nine tenths are left for burning samples of
  even length, and six to seven where the slowest healthy ones take fifty times the mean. Where as many workers as there are
  cores are never idle, seven tenths and more are left for samples that all take 5 ms, and half for uneven ones of 3.5 ms on
  average: one in a hundred of these takes 90 ms and more, so the hung ones cannot be told from them any sooner
  (tests/bench/bench_scoring.py).
- Whatever hangs last is waited for: a batch with a hung sample takes T at least.
"""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass

KNOWN = 8  # samples after which it is known how long they take
UNKNOWN = 0.5  # seconds that are not suspicious before that
RECENT, REORDER = 512, 16  # samples that count; after so many new ones they are looked at again
TYPICAL = 10.0  # times the mean duration are suspicious,
SLOW = 0.02  # and so is more than all but this share of the samples take,
SLOWEST = 0.005  # all but this share end
MARGIN = 2.0  # times
LEAST = 0.003  # seconds that are never suspicious: the kernel may have had something else to do
MOST = 128  # processes set aside
FAIR = (0.03, 0.15)  # seconds of a core that a stuck sample gets at full priority, at least and at most
STARVED = 0.3  # of its limit in seconds of a core: one that steps back is not late before it has had so much,
PATIENCE, PATIENT = 10.0, 32  # but waits for so many times its limit at most, and only beside so many others


class Durations:
    """How long samples take that come to an end: the last ones."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._new = 0  # since the last time they were put in order
        self._delay, self._fair = UNKNOWN, FAIR[1]

    def add(self, seconds: float) -> None:
        self._recent.append(seconds)
        self._new += 1
        if len(self._recent) == KNOWN or self._new == REORDER:
            self._order()

    def _order(self) -> None:
        self._new = 0
        ordered = sorted(self._recent)
        slow, slowest = (ordered[int(len(ordered) * (1 - share))] for share in (SLOW, SLOWEST))
        self._delay = max(LEAST, min(TYPICAL * sum(ordered) / len(ordered), MARGIN * slow))
        self._fair = min(FAIR[1], max(FAIR[0], MARGIN * slowest))

    def delay(self) -> float:
        """Seconds after which the samples behind one are given to another worker."""
        return self._delay

    def fair(self) -> float:
        """Seconds of a core that a stuck sample gets at full priority."""
        return self._fair


@dataclass(frozen=True)
class Look:
    """What a process is doing. Without /proc all seem to sleep."""

    running: bool = False  # or ready to run, if it only had a core
    burnt: float = 0.0  # seconds of a core since it began

    @classmethod
    def at(cls, pid: int | None) -> Look:
        fields = _fields(pid, "stat")
        if not fields:
            return cls()
        return cls(fields[-50] == "R", (int(fields[-39]) + int(fields[-38])) / os.sysconf("SC_CLK_TCK"))


def resident(pid: int | None) -> int:
    """Bytes of a process in memory, those it shares included; 0 when it is gone, or where there is no /proc."""
    fields = _fields(pid, "statm")
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") if fields else 0


def _fields(pid: int | None, name: str) -> list[str]:
    try:
        with open(f"/proc/{pid}/{name}") as file:
            return file.read().split()
    except (FileNotFoundError, ProcessLookupError):
        return []
