from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from posttrain import signals
from posttrain.signals import ECHO_SECONDS, Stop


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(signals.time, "monotonic", made)
    return made


@pytest.fixture
def restored() -> Iterator[None]:
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_nothing_is_asked_at_first() -> None:
    stop = Stop()
    assert not stop()
    assert stop.exit_code == 130


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_sets_the_flag(clock: Clock, number: int, code: int) -> None:
    stop = Stop()
    stop._receive(number, None)
    assert stop()
    assert stop.exit_code == code


@pytest.mark.parametrize("later", [0.0, 0.1, ECHO_SECONDS])
def test_an_echo_is_ignored(clock: Clock, later: float) -> None:
    stop = Stop()
    stop._receive(signal.SIGINT, None)
    clock.now += later
    stop._receive(signal.SIGTERM, None)
    assert stop.exit_code == 130  # the first one counts


def test_a_second_request_ends_the_run_at_once(clock: Clock) -> None:
    stop = Stop()
    stop._receive(signal.SIGINT, None)
    clock.now += 0.5
    stop._receive(signal.SIGINT, None)
    clock.now += ECHO_SECONDS  # measured from the first: echoes do not put it off
    with pytest.raises(KeyboardInterrupt):
        stop._receive(signal.SIGINT, None)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_real_signals_arrive(restored: None, number: int) -> None:
    stop = Stop()
    stop.install()
    os.kill(os.getpid(), number)
    deadline = time.monotonic() + 5
    while not stop() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert stop.signal == number
