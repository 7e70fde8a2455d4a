"""What the driver tells the worker about each test, and when a test has passed."""

from __future__ import annotations

import socket
import threading
import traceback
import unittest
from typing import Any

from posttrain.scoring.sandbox import wire
from posttrain.scoring.sandbox.exceptions import of_the_candidate
from posttrain.scoring.sandbox.peer import Peer

SAID = 300  # characters
_TEST = 120


class Report:
    """Sends `{"test", "passed", "detail"}` as each test ends, and `{"total"}` when their number is another."""

    def __init__(self, sock: socket.socket, peer: Peer, total: int, stop: bool) -> None:
        self._sock, self._peer, self._stop = sock, peer, stop
        self.total, self.told = total, 0
        self.over = False  # nothing more is to be run
        self._in_thread = ""
        threading.excepthook = self._thread_ended

    def count(self, more: int) -> None:
        """There are so many more tests than were known of."""
        if more:
            self.total += more
            wire.send(self._sock, {"total": self.total})

    def test(self, name: str, wrong: str | None) -> None:
        """`wrong`: what the tests themselves found, None where they passed. They did not if the candidate is gone."""
        fault = self._peer.gone or self._peer.no_crossing or self._in_thread
        passed = wrong is None and not fault
        detail = "" if passed else self._detail(name, fault or str(wrong))
        wire.send(self._sock, {"test": 1, "passed": passed, "detail": detail})
        self.told += 1
        self.over = self.over or bool(self._peer.no_crossing) or (self._stop and not passed)

    def step(self, name: str, wrong: str | None) -> None:
        """A step that is no test: it counts only where it fails, as one test more."""
        if wrong is not None or self._peer.gone or self._peer.no_crossing or self._in_thread:
            self.count(1)
            self.test(name, wrong)

    def _detail(self, name: str, wrong: str) -> str:
        last = self._peer.last()
        return (
            f"{name[:_TEST]}: {wrong[:SAID]}; {last}"[: _TEST + 2 * SAID] if last else f"{name[:_TEST]}: {wrong[:SAID]}"
        )

    def _thread_ended(self, ended: Any) -> None:
        """A check that fails in a thread of the tests has failed, though nobody hears of it."""
        if isinstance(ended.exc_value, AssertionError) and not of_the_candidate(ended.exc_value):
            self._in_thread = f"in a thread: {said(ended.exc_value)}"


def said(error: BaseException) -> str:
    """An error in a line. What it is made of may be the candidate's, and fail when it is written out."""
    try:
        return traceback.format_exception_only(error)[-1].strip()[:SAID]
    except BaseException:
        return type(error).__name__


class Results(unittest.TestResult):
    """A test has passed when unittest says so, and the candidate was there to the end; a skipped one is none.

    Only what is skipped before anything is asked of the candidate: else it could have itself spared the test.
    """

    def __init__(self, report: Report, peer: Peer) -> None:
        super().__init__()
        self._report, self._peer = report, peer
        self._test: unittest.TestCase | None = None
        self._passed = self._skipped = self._spared = False
        self._before, self._asked = (0, 0), peer.asked
        self.classes_skipped = False

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self._test, self._passed, self._skipped, self._spared = test, False, False, False
        self._before, self._asked = self._wrong(), self._peer.asked

    def addSuccess(self, test: unittest.TestCase) -> None:
        super().addSuccess(test)
        self._passed = True

    def addExpectedFailure(self, test: unittest.TestCase, err: Any) -> None:
        super().addExpectedFailure(test, err)
        self._passed = True

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        super().addError(test, err)
        if test is not self._test:  # of a class or module: before its tests, which are not run then, or behind them
            self._report.step(test.id(), said(err[1]))

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        super().addSkip(test, reason)
        innocent = self._peer.asked == self._asked
        wrong = f"skipped after a question to the candidate: {reason}"
        if isinstance(test, unittest.TestCase):
            if not innocent:
                self.failures.append((test, wrong))
            elif test is self._test:
                self._skipped = True
            else:  # one of its subtests: the test goes on, and must not fail elsewhere
                self._spared = True
                self._asked = self._peer.asked
        elif innocent:
            self.classes_skipped = True
        else:
            self._report.step(test.id(), wrong)

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: Any) -> None:
        super().addSubTest(test, subtest, err)
        self._asked = self._peer.asked

    def _wrong(self) -> tuple[int, int]:
        return len(self.failures), len(self.errors)

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        self._asked = self._peer.asked
        if self._skipped and self._wrong() == self._before:
            self._report.count(-1)
            return
        passed = self._passed or (self._spared and self._wrong() == self._before)
        failures, errors = self._before
        words = [text for _, text in self.failures[failures:] + self.errors[errors:]]
        last = words[-1].strip().splitlines()[-1] if words else "it did not fail, as it was expected to"
        self._report.test(test.id(), None if passed else last)
        if self._report.over:
            self.stop()
