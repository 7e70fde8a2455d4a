"""A stuck sample is set aside, and the samples behind it go on."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_scorer import gone, hostile, obey, prompt

from posttrain.scoring import crew, pool
from posttrain.scoring.api import Part
from posttrain.scoring.aside import FAIR, KNOWN, LEAST, PATIENT, STARVED, UNKNOWN, Durations, Look, resident
from posttrain.scoring.pool import ScorerBroken
from posttrain.scoring.scorer import Scorer

LONG = 300.0  # seconds: longer than a test may take


def learned(scorer: Scorer) -> None:
    """Judges enough for it to be known how long samples take."""
    scorer.score([("7", prompt())] * 4 * KNOWN)


def until(condition: Any, seconds: float = 30.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return bool(condition())


def inside(scorer: Scorer) -> crew.Crew:
    found = scorer._pool._crew
    assert found is not None
    return found


@pytest.mark.parametrize("completion", ["sleep 300", "loop", "backtrack", "stop", "ignore"])
def test_samples_behind_a_stuck_one_are_judged_while_it_is_stuck(completion: str) -> None:
    with obey(timeout=LONG) as scorer:
        learned(scorer)
        scorer.submit("stuck", completion, prompt())
        for i in range(300):
            scorer.submit(i, f"value {i}", prompt())
        got: dict[Any, Any] = {}
        assert until(lambda: got.update(scorer.ready()) or len(got) == 300)
        assert {key: score.value for key, score in got.items()} == {i: float(i) for i in range(300)}
        assert scorer.outstanding == 1


def test_more_stuck_ones_than_workers_hold_nobody_up() -> None:
    with obey(workers=2, timeout=LONG) as scorer:
        learned(scorer)
        for i in range(400):
            scorer.submit(i, "sleep 300" if i % 40 == 0 else f"value {i}", prompt())
        got: dict[Any, Any] = {}
        assert until(lambda: got.update(scorer.ready()) or len(got) == 390)
        assert all(score.value == float(key) for key, score in got.items())
        assert scorer.outstanding == 10


def test_one_that_is_slow_and_ends_has_its_own_verdict() -> None:
    items = [(f"sleep {0.3 + i / 100}" if i % 50 == 0 else f"value {i}", prompt()) for i in range(400)]
    with obey(timeout=20.0) as scorer:
        learned(scorer)
        scores = scorer.score(items)
        assert [s.status for s in scores] == ["ok"] * 400
        assert [s.value for s in scores] == [0.0 if i % 50 == 0 else float(i) for i in range(400)]
        assert until(lambda: len(scorer.pids()) <= 1 + 2 * crew.SPARES + 1)  # those that came back are not piled up


def test_a_stuck_one_is_killed_when_its_time_is_over() -> None:
    with obey(timeout=1.0) as scorer:
        learned(scorer)
        scores = scorer.score([("loop", prompt()), *[(f"value {i}", prompt()) for i in range(100)]])
        assert (scores[0].status, scores[0].value) == ("timeout", None)
        assert "scoring.timeout = 1 s" in scores[0].detail
        assert [s.value for s in scores[1:]] == [float(i) for i in range(100)]


def test_without_room_a_stuck_one_keeps_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "MOST", 1)
    with obey(timeout=0.5) as scorer:
        learned(scorer)
        scores = scorer.score([("sleep 300" if i % 20 == 0 else f"value {i}", prompt()) for i in range(60)])
    assert [s.status for s in scores] == ["timeout" if i % 20 == 0 else "ok" for i in range(60)]


def test_burning_ones_make_room_once_they_have_had_their_share() -> None:
    with obey(timeout=LONG) as scorer:
        learned(scorer)
        for i in range(200):
            scorer.submit(i, "loop" if i % 50 == 0 else f"value {i}", prompt())
        got: dict[Any, Any] = {}
        assert until(lambda: got.update(scorer.ready()) or len(got) == 196)
        stuck = [w for w in inside(scorer).workers if w.inflight]
        assert sum(w.lowered == 2 for w in stuck) >= 2
        nice = {w.pid: 19 if w.lowered == 2 else 7 for w in stuck if w.pid and w.lowered}
        assert until(lambda: {pid: os.getpriority(os.PRIO_PROCESS, pid) for pid in nice} == nice)


def test_the_next_ones_are_forked_from_one_that_has_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "LESSONS", (16, 32))
    monkeypatch.setattr(pool, "TAUGHT", 1)
    with obey(timeout=LONG) as scorer:
        learned(scorer)
        stuck = 0

        def one_more() -> bool:
            nonlocal stuck
            scorer.submit(("stuck", stuck), "sleep 300", prompt())
            stuck += 1
            return [s.value for s in scorer.score([(f"value {i}", prompt()) for i in range(100)])] == list(range(100))

        assert one_more()
        assert until(lambda: one_more() and len(inside(scorer)._heirs) == 2)
        last = inside(scorer)._heirs[-1]
        assert until(lambda: one_more() and any(w.parent is last for w in inside(scorer).workers))
        os.kill(last.pid or 0, signal.SIGKILL)
        assert one_more()
        pids = scorer.pids()
    assert gone(pids)


def test_another_one_starts_workers_when_the_first_is_killed() -> None:
    with obey(workers=2) as scorer:
        for _ in range(crew.RESTARTS):
            learned(scorer)
            first = inside(scorer)._first.process.pid
            os.kill(first, signal.SIGKILL)
            assert scorer.score([(f"value {i}", prompt()) for i in range(50)])[-1].value == 49.0
            assert until(lambda first=first: inside(scorer)._first.process.pid != first)
        learned(scorer)
        os.kill(inside(scorer)._first.process.pid, signal.SIGKILL)
        with pytest.raises(ScorerBroken, match="was killed 4 times"):
            until(lambda: scorer.score([("7", prompt())]) is None)


@pytest.mark.parametrize("kind", ["Threaded", "Opened"])
def test_what_no_fork_takes_along_is_loaded_in_every_worker(kind: str) -> None:
    with Scorer({"one": (getattr(hostile, kind)(), 1.0)}, workers=2, timeout=1.0) as scorer:
        scores = scorer.score([("7", prompt()), ("sleep 300", prompt()), *[("7", prompt())] * 50])
        assert [s.value for s in scores] == [1.0, None, *[1.0] * 50]
        assert scores[1].status == "timeout"
        assert inside(scorer).alone
        assert until(lambda: len(scorer.pids()) == 2)


def test_one_that_waits_for_others_is_prepared_in_its_worker_and_never_set_aside() -> None:
    for reward, shared in ((hostile.Prepared(), True), (hostile.BrieflyThreaded(), True), (hostile.Waits(), False)):
        with Scorer({"one": (reward, 1.0)}, timeout=LONG) as scorer:
            assert scorer.score([("7", prompt())])[0].value == (0.0 if shared else 1.0)
            assert inside(scorer).alone is not shared


def test_a_schedule_from_a_file_reaches_the_workers() -> None:
    weight = hostile.Ramp(0.5)
    with Scorer({"one": Part(hostile.Constant(1.0), weight)}, steps=11) as scorer:
        scores = scorer.score([("x", prompt(training_step=step)) for step in range(3)] + [("x", prompt())])
    assert [s.value for s in scores] == [0.0, 0.5, 1.0, 5.0]


def test_durations() -> None:
    durations = Durations()
    for _ in range(KNOWN - 1):
        durations.add(0.1)
    assert (durations.delay(), durations.fair()) == (UNKNOWN, FAIR[1])
    durations.add(0.1)
    assert durations.delay() == pytest.approx(0.2)
    for _ in range(1000):
        durations.add(0.001)
    assert (durations.delay(), durations.fair()) == (LEAST, FAIR[0])


def test_samples_that_take_long_now_and_then_are_given_time() -> None:
    durations = Durations()
    for i in range(1024):
        durations.add(0.05 if i % 100 == 0 else 0.002 + i % 2 * 0.004)
    assert durations.delay() == pytest.approx(0.012)  # twice what all but one in fifty take
    assert durations.fair() == pytest.approx(0.1)  # twice what all but one in two hundred take
    for i in range(1024):
        durations.add(0.5 if i % 20 == 0 else 0.001)
    assert durations.delay() == pytest.approx(0.26, rel=0.1)  # ten times the mean
    assert durations.fair() == FAIR[1]


def test_a_look_at_this_process() -> None:
    look = Look.at(os.getpid())
    assert look.running
    assert abs(look.burnt - time.process_time()) < 1.0
    assert resident(os.getpid()) > 1 << 20
    assert Look.at(None) == Look()
    assert resident(None) == 0
    assert not Path("/proc/None").exists()


def test_one_that_had_to_step_back_is_late_when_it_has_had_its_share() -> None:
    crew_ = object.__new__(crew.Crew)
    crew_.setup = SimpleNamespace(timeout=5.0)
    stuck = SimpleNamespace(lowered=1, burnt=0.2, aside=1.0, look=Look(running=True, burnt=1.0), looked=float("inf"))
    crew_.workers = [stuck]
    assert crew_.starved(stuck)  # 0.8 s of a core in all that time
    for changed in (
        {"look": Look(running=True, burnt=0.2 + STARVED * 5.0)},
        {"look": Look(running=False, burnt=1.0)},  # it sleeps
        {"lowered": 0},  # nobody held it up
    ):
        assert not crew_.starved(SimpleNamespace(**{**vars(stuck), **changed}))
    crew_.workers = [stuck] * (PATIENT + 1)  # they would fill all places
    assert not crew_.starved(stuck)
