"""Ctrl-C and SIGTERM as a flag that the loop looks at, so that a step is never torn apart."""

from __future__ import annotations

import ctypes
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# A launcher passes on the signal that its ranks already got from the terminal: an echo, not a second request.
ECHO_SECONDS = 5.0
ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stop:
    """`stop()` is True once the run was asked to end. A second request, seconds later, ends it at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._at = 0.0
        self._shielded = False

    def install(self) -> None:
        for number in ASKING:
            signal.signal(number, self._receive)

    def __call__(self) -> bool:
        return self.signal is not None and not self._shielded

    @contextmanager
    def shielded(self) -> Iterator[None]:
        """Inside, nobody is told: for work that all ranks must finish together once it has begun."""
        self._shielded = True
        try:
            yield
        finally:
            self._shielded = False

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, 143 after SIGTERM, as shells count."""
        return 128 + (self.signal or signal.SIGINT)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.signal is not None and now - self._at > ECHO_SECONDS:
            raise KeyboardInterrupt
        if self.signal is None:
            self.signal, self._at = number, now


def die_with_parent() -> None:
    """Ends this process when the one that started it ends, however that happens (PR_SET_PDEATHSIG, Linux)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
