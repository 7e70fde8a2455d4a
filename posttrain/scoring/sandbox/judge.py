"""Runs a candidate's code against its tests, and compares where the candidate cannot reach."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import time
from dataclasses import dataclass, replace
from typing import Any

from posttrain.scoring.sandbox import wire
from posttrain.scoring.sandbox.launch import Contained, Limits, Sandbox, SandboxError
from posttrain.scoring.sandbox.sources import Plan, Unusable

TIME_LIMIT = "time limit"


@dataclass(frozen=True)
class Tested:
    """How many tests a candidate passed, and why not all."""

    passed: int
    total: int
    detail: str = ""
    timeout: bool = False


@dataclass(frozen=True)
class Printed:
    """What a program wrote, and how it ended; `error` is empty when it ended well."""

    text: str
    error: str = ""
    timeout: bool = False
    seconds: float = 0.0  # from its start to its end


def run_tests(sandbox: Sandbox, code: str, plan: Plan, limits: Limits, seconds: float, stop: bool) -> Tested:
    """Two processes: the candidate answers calls, the driver makes them and compares. `stop` at the first failure.

    `seconds` are those of the wall clock behind the start of both.
    Raises Unusable where the tests are at fault, SandboxError where the sandbox is.
    """
    with contextlib.ExitStack() as stack:
        asked, asking = socket.socketpair()
        load, load_inside = socket.socketpair()
        verdict, verdict_inside = socket.socketpair()
        for one in (asked, asking, load, load_inside, verdict, verdict_inside):
            stack.enter_context(one)
        candidate = stack.enter_context(sandbox.spawn("candidate", limits, [load_inside.fileno(), asked.fileno()]))
        driver = stack.enter_context(sandbox.spawn("driver", limits, [verdict_inside.fileno(), asking.fileno()]))
        for one in (asked, asking, load_inside, verdict_inside):
            one.close()
        candidate.begin()
        driver.begin()
        end = time.monotonic() + seconds
        tested = _follow(candidate, load, verdict, code, plan, stop, end)
        candidate.kill()
        driver.kill()
        candidate.ended()  # raises if it was never locked in: then it is not to blame
        if tested is None:
            raise SandboxError(f"the tests' process ended without a verdict ({_ending(driver.ended())})")
    return replace(tested, detail=f"{tested.detail}: {candidate.excess}") if candidate.excess else tested


def _follow(
    candidate: Contained, load: socket.socket, verdict: socket.socket, code: str, plan: Plan, stop: bool, end: float
) -> Tested | None:
    """Hears the driver out. None when it ended without a last word."""
    passed, total, detail = 0, plan.tests, ""
    try:
        _send(load, {"code": code}, end)
        _order(verdict, plan.order(stop), end)
        while True:
            candidate.watch(verdict, end)
            verdict.settimeout(max(0.001, end - time.monotonic()))
            message = wire.receive(verdict)
            total = message.get("total", total)
            if "unusable" in message:
                raise Unusable(message["unusable"])
            if "failed" in message:
                return Tested(0, max(total, 1), message["failed"])
            if "end" in message:
                return Tested(passed, total, detail)
            passed += bool(message.get("passed"))
            detail = detail or message.get("detail", "")
    except TimeoutError:
        return Tested(passed, max(total, 1, passed + 1), TIME_LIMIT, timeout=True)
    except (EOFError, ConnectionError, wire.BadMessage):
        return None


def _order(verdict: socket.socket, order: Any, end: float) -> None:
    try:
        _send(verdict, order, end)
    except wire.BadMessage as error:
        raise Unusable(f"the tests are too long: {error}") from None


def _send(sock: socket.socket, message: Any, end: float) -> None:
    sock.settimeout(max(0.001, end - time.monotonic()))
    wire.send(sock, message)


def run_program(
    sandbox: Sandbox, code: str, stdin: str, limits: Limits, seconds: float, most: int = 1 << 20
) -> Printed:
    """A program with this input. More than `most` bytes of output are an error. Raises SandboxError."""
    with contextlib.ExitStack() as stack:
        talk, talk_inside = socket.socketpair()
        output, output_inside = socket.socketpair()
        for one in (talk, talk_inside, output, output_inside):
            stack.enter_context(one)
        given = os.fdopen(_sealed(stdin.encode("utf-8", "replace")), "rb")
        stack.enter_context(given)
        inside = [talk_inside.fileno(), given.fileno(), output_inside.fileno()]
        process = stack.enter_context(sandbox.spawn("program", limits, inside))
        talk_inside.close()
        output_inside.close()
        process.begin()
        began = time.monotonic()
        end = began + seconds
        with contextlib.suppress(TimeoutError, ConnectionError):  # it has ended: `ended` says why
            _send(talk, {"code": code}, end)
        data, wrong = _read(process, output, end, most)
        if not wrong:
            try:
                process.ended(end)
            except TimeoutError:
                wrong = TIME_LIMIT
        process.kill()
        status = process.ended()
        wrong = wrong or process.excess or (_error(talk, status) if status else "")
        text = data.decode("utf-8", "replace")
        return Printed(text, wrong, wrong == TIME_LIMIT, time.monotonic() - began)


def _sealed(data: bytes) -> int:
    """A file of these bytes that lies nowhere and that nobody can change."""
    handle = os.memfd_create("input", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    with os.fdopen(os.dup(handle), "wb") as file:
        file.write(data)
    os.lseek(handle, 0, os.SEEK_SET)
    fcntl.fcntl(
        handle, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    )
    return handle


def _read(process: Contained, output: socket.socket, end: float, most: int) -> tuple[bytes, str]:
    """Everything up to the end of the output, and what went wrong."""
    data = bytearray()
    while len(data) <= most:
        try:
            process.watch(output, end)
            output.settimeout(max(0.001, end - time.monotonic()))
            chunk = output.recv(1 << 18)
        except TimeoutError:
            return bytes(data), TIME_LIMIT
        except ConnectionError:
            chunk = b""
        if not chunk:
            return bytes(data), ""
        data += chunk
    return bytes(data[:most]), f"more than {most} bytes of output"


def _error(talk: socket.socket, status: int) -> str:
    """What the program says it died of, else how it ended."""
    talk.settimeout(0.0)
    try:
        return str(wire.receive(talk)["error"])[:300]
    except (BlockingIOError, EOFError, wire.BadMessage, KeyError, TypeError):
        return _ending(status)


def _ending(status: int) -> str:
    return f"killed by signal {-status}" if status < 0 else f"exit code {status}"
