"""The tests' process: runs them against the candidate's, compares here, and reports to the worker.

It holds the expected values. The candidate's process shares nothing with it but the socket over which it is asked.
Whatever goes wrong here once the candidate has answered is a failed test, and none is passed that did not run.
"""

from __future__ import annotations

import builtins
import socket
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from posttrain.scoring.sandbox import pytest_parts, wire
from posttrain.scoring.sandbox.exceptions import of_the_candidate
from posttrain.scoring.sandbox.peer import Peer
from posttrain.scoring.sandbox.proxies import Proxy
from posttrain.scoring.sandbox.reports import SAID, Report, Results, said
from posttrain.scoring.sandbox.suites import MODULE, Runs, Unusable, collected, ends_well


def run(channel: int, peer: int) -> int:
    """Reports as `Report` does; last `{"end"}`, `{"failed"}` or `{"unusable"}`."""
    verdict = socket.socket(fileno=channel)
    order = wire.receive(verdict)
    sock = socket.socket(fileno=peer)
    asking = Peer(sock)
    report = Report(verdict, asking, order["tests"], order["stop"])
    try:
        end = _failed(sock) or _judged(report, asking, order)
    except Unusable as error:
        end = {"unusable": str(error)[:SAID]}
    except BaseException as error:  # of what the candidate's answers led to, outside of any test
        report.step("between the tests", said(error))
        end = {"end": 1}
    if asking.no_crossing:
        end = {"unusable": asking.no_crossing}
    wire.send(verdict, end)
    return 0


def _failed(sock: socket.socket) -> dict[str, Any] | None:
    """What the worker is told if the candidate did not load."""
    try:
        loaded = wire.receive(sock)
    except (EOFError, OSError, wire.BadMessage):
        return {"failed": "the candidate's process ended while it was loaded"}
    if isinstance(loaded, dict) and "loaded" in loaded:
        return None
    wrong = loaded.get("failed") if isinstance(loaded, dict) else None
    return {"failed": wrong[:SAID] if isinstance(wrong, str) else "the candidate did not load"}


def _judged(report: Report, peer: Peer, order: Mapping[str, Any]) -> dict[str, Any]:
    runs = Runs()
    space = _space(peer, order, runs)
    for name, alias in order["names"]:
        found, value = _asked(peer, name)
        if found:
            space[alias] = value
        elif alias != name or hasattr(builtins, name) or peer.gone:  # else tests would get Python's own
            return {"failed": peer.gone or f"name {name!r} is not defined"}
    peer.asked = 0  # from here on by the tests
    for source, is_test, untouched in order["steps"]:
        error = _tried(source, untouched, space)
        wrong = None if error is None else said(error)
        (report.test if is_test else report.step)(source, wrong)
        if report.over:
            return {"end": 1}
    _functions(report, peer, space, runs, order["functions"])
    if not order["names"] and not peer.asked and not report.over:
        raise Unusable("the tests ask nothing of the candidate")
    return {"end": 1}


def _space(peer: Peer, order: Mapping[str, Any], runs: Runs) -> dict[str, Any]:
    """The names that tests see, but for those they want of the candidate."""
    tests = ModuleType(MODULE)
    space = vars(tests)
    space.update(__builtins__=builtins, __running__=runs.running, __shrugged__=_shrugged, __type__=peer.type_of)
    sys.modules[MODULE] = sys.modules["__main__"] = tests
    sys.argv = [MODULE]
    sys.modules["pytest"] = pytest_parts.module()
    for name in order["modules"]:
        sys.modules[name] = _Candidate(name, peer)
    return space


class _Candidate(ModuleType):
    """What tests import as the candidate."""

    def __init__(self, name: str, peer: Peer) -> None:
        super().__init__(name)
        vars(self)["__getattr__"] = lambda wanted: _attribute(peer, wanted)


def _attribute(peer: Peer, name: str) -> Any:
    found, value = (False, None) if name.startswith("__") else _asked(peer, name)
    if not found:
        raise AttributeError(f"the candidate has no {name}")
    return value


def _asked(peer: Peer, name: str) -> tuple[bool, Any]:
    """Whether the candidate has the name, and what it is."""
    try:
        return True, peer.ask("name", name)
    except Exception:  # it says so by an exception, whichever it likes
        return False, None
    except BaseException:
        if not peer.gone:
            raise
        return False, None


def _tried(source: str, untouched: bool, space: dict[str, Any]) -> BaseException | None:
    """What a piece of the tests raises. Where nothing of the candidate's can be in it, the tests are at fault."""
    try:
        exec(compile(source, MODULE, "exec"), space)
    except BaseException as error:  # a test may raise anything; it is its verdict
        if ends_well(error):
            return None
        if untouched:
            raise Unusable(f"{source[:100]}: {said(error)}") from None
        return error
    return None


def _shrugged() -> None:
    """Within a handler that does nothing about what it caught: a failed check of the tests' own goes on."""
    error = sys.exception()
    if isinstance(error, AssertionError) and not of_the_candidate(error):
        raise error


def _functions(report: Report, peer: Peer, space: dict[str, Any], runs: Runs, functions: list[str]) -> None:
    """The tests in functions and classes: those that the source has called itself are told, the others run."""
    suite = collected(space, runs, functions)
    called = {name: wrong for name, wrong in runs.wrong.items() if not isinstance(space.get(name), Proxy)}
    report.count(len(called) + suite.countTestCases())
    for name, wrong in called.items():
        if not report.over:
            report.test(name, wrong)
    found = suite.countTestCases()
    if found and not report.over:
        results = Results(report, peer)
        suite.run(results)
        if results.classes_skipped and results.wasSuccessful():
            report.count(results.testsRun - found)
    if not report.total:
        raise Unusable(
            "every test is skipped before anything is asked of the candidate"
            if found
            else "the source holds no test: a subclass of unittest.TestCase with methods test_..."
        )
