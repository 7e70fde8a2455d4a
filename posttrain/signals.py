"""Ctrl-C and SIGTERM as a flag that the loop looks at, so that a step is never torn apart."""

from __future__ import annotations

import signal
import time
from types import FrameType

# A launcher passes on the signal that its ranks already got from the terminal: an echo, not a second request.
ECHO_SECONDS = 5.0


class Stop:
    """`stop()` is True once the run was asked to end. A second request, seconds later, ends it at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._at = 0.0

    def install(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._receive)

    def __call__(self) -> bool:
        return self.signal is not None

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
