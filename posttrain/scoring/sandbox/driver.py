"""The tests' process: runs them against the candidate's, compares here, and reports to the worker.

It holds the expected values. The candidate's process shares nothing with it but the socket over which it is asked.
"""

from __future__ import annotations

import builtins
import socket
import traceback
import unittest
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from posttrain.scoring.sandbox import wire
from posttrain.scoring.sandbox.proxies import Gone, Peer

_SAID = 300


class Unusable(Exception):
    """The tests cannot be run, whatever the candidate is."""


def run(channel: int, peer: int) -> int:
    """Reports `{"test", "passed", "detail"}` as each test ends; last `{"end"}`, `{"failed"}` or `{"unusable"}`."""
    report = socket.socket(fileno=channel)
    order = wire.receive(report)
    sock = socket.socket(fileno=peer)
    try:
        loaded = wire.receive(sock)
    except (EOFError, wire.BadMessage):
        loaded = {"failed": "the candidate's process ended while it was loaded"}
    if not isinstance(loaded, dict) or "loaded" not in loaded:
        said = loaded.get("failed") if isinstance(loaded, dict) else None
        wire.send(report, {"failed": str(said or "the candidate did not load")[:_SAID]})
        return 0
    asking = Peer(sock)
    try:
        space = namespace(asking, order)
        tests = _unittests if order["kind"] == "unittest" else _asserts
        tests(report, asking, space, order)
        end = {"unusable": asking.no_crossing} if asking.no_crossing else {"end": 1}
    except Unusable as error:
        end = {"unusable": str(error)[:_SAID]}
    wire.send(report, end)
    return 0


def namespace(peer: Peer, order: Mapping[str, Any]) -> dict[str, Any]:
    """The names that tests see: Python's, and stand-ins for those they want of the candidate."""
    space: dict[str, Any] = {"__name__": "tests", "__builtins__": builtins}
    for name, alias in order["names"]:
        try:
            space[alias] = peer.ask("name", name)
        except KeyError:
            continue  # the candidate has none, and the test that needs it fails
        except Gone:
            break
    for alias in order["modules"]:
        module = ModuleType(alias)
        module.__getattr__ = lambda name: peer.ask("name", name)  # type: ignore[method-assign]
        space[alias] = module
    return space


def _asserts(report: socket.socket, peer: Peer, space: dict[str, Any], order: Mapping[str, Any]) -> None:
    for source, is_test, untouched in order["steps"]:
        error = _tried(source, untouched, space)
        passed = error is None and not peer.gone and not peer.no_crossing
        if is_test:
            detail = "" if passed else _why(source[:120], peer.gone or _said(error), peer)
            wire.send(report, {"test": 1, "passed": passed, "detail": detail})
        if (is_test and not passed and order["stop"]) or peer.no_crossing:
            return


def _tried(source: str, untouched: bool, space: dict[str, Any]) -> BaseException | None:
    """What a piece of the tests raises. Where nothing of the candidate's can be in it, the tests are at fault."""
    try:
        exec(compile(source, "tests", "exec"), space)
    except BaseException as error:  # a test may raise anything; it is its verdict
        if untouched:
            raise Unusable(f"{source[:100]}: {_said(error)}") from None
        return error
    return None


def _unittests(report: socket.socket, peer: Peer, space: dict[str, Any], order: Mapping[str, Any]) -> None:
    for source, _, untouched in order["steps"]:
        if error := _tried(source, untouched, space):
            wire.send(report, {"total": 1, "test": 1, "passed": False, "detail": f"{source[:120]}: {_said(error)}"})
            return
    loader, suite = unittest.TestLoader(), unittest.TestSuite()
    for thing in space.values():
        if isinstance(thing, type) and issubclass(thing, unittest.TestCase) and thing.__module__ == "tests":
            suite.addTests(loader.loadTestsFromTestCase(thing))
    if all(_skipped(test) for test in suite):
        raise Unusable("the source holds no test: a subclass of unittest.TestCase with methods test_...")
    found = _Reporting(report, peer, order["stop"], suite.countTestCases())
    suite.run(found)
    if not found.total and not peer.last():
        raise Unusable("every test is skipped before anything is asked of the candidate")
    if not found.total:
        wire.send(report, {"total": 1, "test": 1, "passed": False, "detail": "every test was skipped"})


def _skipped(test: Any) -> bool:
    """Whether the source itself says so, without running it."""
    method = getattr(test, test._testMethodName)
    return bool(getattr(method, "__unittest_skip__", False) or getattr(type(test), "__unittest_skip__", False))


class _Reporting(unittest.TestResult):
    """A test has passed when unittest says so, and the candidate was there to the end; a skipped one is none.

    A candidate cannot raise what unittest takes for a skip: `Peer` makes other exceptions of it.
    """

    def __init__(self, report: socket.socket, peer: Peer, stop: bool, total: int) -> None:
        super().__init__()
        self._report, self._peer, self._stop, self.total = report, peer, stop, total
        self._test: unittest.TestCase | None = None
        self._passed = self._skipped = self._skipped_part = False
        self._before = 0
        wire.send(report, {"total": total})

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self._test, self._passed, self._skipped, self._skipped_part = test, False, False, False
        self._before = self._wrong()

    def addSuccess(self, test: unittest.TestCase) -> None:
        super().addSuccess(test)
        self._passed = True

    def addExpectedFailure(self, test: unittest.TestCase, err: Any) -> None:
        super().addExpectedFailure(test, err)
        self._passed = True

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        super().addSkip(test, reason)
        if test is self._test:
            self._skipped = True
        else:  # one of its subtests: the test goes on, and unittest says nothing of its success
            self._skipped_part = True

    def _wrong(self) -> int:
        return len(self.failures) + len(self.errors)

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        there = not self._peer.gone and not self._peer.no_crossing
        if self._skipped and (there or _skipped(test)):
            self.total -= 1
            wire.send(self._report, {"total": self.total})
            return
        self._passed = there and (self._passed or (self._skipped_part and self._wrong() == self._before))
        words = [text for _, text in self.failures + self.errors]
        last = words[-1].strip().splitlines()[-1] if words and not self._passed else ""
        detail = "" if self._passed else _why(test.id(), self._peer.gone or last, self._peer)
        wire.send(self._report, {"test": 1, "passed": self._passed, "detail": detail})
        if self._stop and not self._passed:
            self.stop()


def _why(test: str, wrong: str, peer: Peer) -> str:
    last = peer.last()
    return f"{test}: {wrong}; {last}" if last else f"{test}: {wrong}"


def _said(error: BaseException | None) -> str:
    text = traceback.format_exception_only(error)[-1].strip() if error else "passed, but what it relied on did not"
    return text[:_SAID]
