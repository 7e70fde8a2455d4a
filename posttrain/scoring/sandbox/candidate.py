"""The candidate's process: runs the program, and answers what is asked of its names with plain values.

Nothing here is trusted. Whoever takes this process over can answer with other values, and that is all.
"""

from __future__ import annotations

import asyncio
import atexit
import builtins
import contextlib
import inspect
import io
import operator
import os
import socket
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from posttrain.scoring.sandbox import wire
from posttrain.scoring.sandbox.values import decode, encode

FILE = "solution.py"
_PRINTED = 1 << 16  # characters of a call's output that are passed on
_SAID = 300  # characters of an error
_MUTABLE = (list, dict, set, bytearray, deque)


def run_program(channel: int, stdin: int, stdout: int) -> int:
    """A program with its input and output. The exit code, as Python's own would be."""
    talk = socket.socket(fileno=channel)
    code = str(wire.receive(talk)["code"])
    os.dup2(stdin, 0)
    os.dup2(stdout, 1)
    os.close(stdin)
    os.close(stdout)
    module = ModuleType("__main__")
    sys.modules["__main__"] = module
    sys.argv = [FILE]
    status = 1
    try:
        try:
            exec(compile(code, FILE, "exec"), module.__dict__)
            status = 0
        except SystemExit as error:
            status = _exit_code(error)
        threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, as at a program's end
        atexit._run_exitfuncs()
        sys.stdout.flush()
    except BaseException as error:
        wire.send(talk, {"error": said(error)})
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
        return 1
    return status


def _exit_code(error: SystemExit) -> int:
    if error.code is None:
        return 0
    return error.code & 0xFF if isinstance(error.code, int) else 1


def said(error: BaseException) -> str:
    """An error in one line, with the line of the program it comes from."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == FILE]
    where = f" (line {lines[-1]})" if lines else ""
    return f"{type(error).__name__}: {error}"[:_SAID] + where


def serve(channel: int, peer: int) -> int:
    """Loads the program as a module, then answers until nobody asks."""
    code = str(wire.receive(socket.socket(fileno=channel))["code"])
    sock = socket.socket(fileno=peer)
    module = ModuleType("solution")
    sys.modules["solution"] = module
    sys.argv = [FILE]
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(code, FILE, "exec"), module.__dict__)
    except BaseException as error:
        wire.send(sock, {"failed": said(error)})
        return 0
    wire.send(sock, {"loaded": 1})
    server = Server(module.__dict__)
    while True:
        try:
            request = wire.receive(sock)
        except EOFError:
            return 0
        reply = server.answer(request)
        try:
            wire.send(sock, reply)
        except wire.BadMessage as error:
            wire.send(sock, {"raised": {"name": "OverflowError", "bases": [], "text": str(error), "values": []}})


def _awaited(coroutine: Any) -> Any:
    return asyncio.run(coroutine)


def _snapshot(thing: Any) -> Any:
    """What an object is made of, as plain data, so that two can be compared elsewhere."""

    def state(inner: Any) -> dict[str, Any]:
        slots = [name for kind in type(inner).__mro__ for name in getattr(kind, "__slots__", ())]
        found = {**getattr(inner, "__dict__", {}), **{n: getattr(inner, n) for n in slots if hasattr(inner, n)}}
        found.pop("__dict__", None)
        made = {"type": type(inner).__qualname__, "state": {**found}}
        plain: dict[str, Any] = encode(made, state)
        return plain

    return decode(state(thing), dict)


_Operation = Callable[..., Any]
OPERATIONS: dict[str, _Operation] = {
    "call": lambda function, *values, **named: function(*values, **named),
    "getattr": getattr,
    "setattr": setattr,
    "len": len,
    "iter": iter,
    "next": next,
    "bool": bool,
    "str": str,
    "repr": repr,
    "int": int,
    "float": float,
    "index": operator.index,
    "getitem": operator.getitem,
    "setitem": operator.setitem,
    "delitem": operator.delitem,
    "enter": lambda thing: thing.__enter__(),
    "exit": lambda thing: thing.__exit__(None, None, None),
    "await": _awaited,
    "isinstance": isinstance,
    "snapshot": _snapshot,
    **{name: getattr(operator, name) for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul")},
    **{name: getattr(operator, name) for name in ("neg", "abs", "and_", "or_", "xor")},
    **{name: getattr(operator, name) for name in ("lt", "le", "gt", "ge")},
}


class Server:
    """Keeps what is not plain, and hands out numbers for it."""

    def __init__(self, names: Mapping[str, Any]) -> None:
        self._names = names
        self._kept: dict[int, Any] = {}

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """What a request comes to: a value, what was printed, and what became of the arguments; or what was raised."""
        printed = io.StringIO()
        given: list[Any] = []
        before: list[Any] = []
        try:
            values = [decode(value, self._find) for value in request["values"]]
            named = {name: decode(value, self._find) for name, value in request.get("named", {}).items()}
            if request["do"] == "call":
                given = [*values[1:], *named.values()]
                before = [self._content(value) for value in given]
            with contextlib.redirect_stdout(printed):
                result = self._perform(request["do"], values, named)
                reply: dict[str, Any] = {"value": encode(result, self._keep)}
        except BaseException as error:
            reply = {"raised": self._raised(error)}
        try:
            after = [self._content(value) for value in given]
            reply["changed"] = [new if new != old else None for old, new in zip(before, after, strict=False)]
        except BaseException as error:  # one of them cannot be sent any more, such as a list in itself
            reply = {"raised": self._raised(error)}
        if text := printed.getvalue():
            reply["printed"] = text[:_PRINTED]
        return reply

    def _perform(self, name: str, values: list[Any], named: dict[str, Any]) -> Any:
        if name == "name":
            return self._names[values[0]]
        return OPERATIONS[name](*values, **named)

    def _content(self, value: Any) -> Any:
        return encode(value, self._keep) if isinstance(value, _MUTABLE) else None

    def _keep(self, thing: Any) -> dict[str, Any]:
        self._kept[id(thing)] = thing
        handle: dict[str, Any] = {"handle": id(thing), "type": type(thing).__name__, "kind": _kind(thing)}
        if handle["kind"] == "exception":
            handle |= {"type": thing.__name__, "bases": _bases(thing)}
        return handle

    def _find(self, handle: Mapping[str, Any]) -> Any:
        return getattr(builtins, handle["builtin"]) if "builtin" in handle else self._kept[handle["handle"]]

    def _raised(self, error: BaseException) -> dict[str, Any]:
        kind = type(error)
        raised: dict[str, Any] = {"name": kind.__name__, "bases": _bases(kind), "text": said(error), "values": []}
        with contextlib.suppress(BaseException):  # what cannot be sent is left out
            raised["values"] = [encode(value, self._keep) for value in error.args]
        with contextlib.suppress(BaseException):
            raised["state"] = {name: encode(value, self._keep) for name, value in vars(error).items()}
        if getattr(builtins, kind.__name__, None) is not kind:
            raised["class"] = self._keep(kind)
        return raised


def _kind(thing: Any) -> str:
    if isinstance(thing, type):
        return "exception" if issubclass(thing, BaseException) else "class"
    if inspect.iscoroutine(thing):
        return "coroutine"
    return "generator" if inspect.isgenerator(thing) else "object"


def _bases(kind: type) -> list[str]:
    """The built-in exceptions it derives from, nearest first."""
    return [base.__name__ for base in kind.__mro__ if getattr(builtins, base.__name__, None) is base]
