"""The candidate's process under tests of its functions: answers what is asked of its names with plain values.

Nothing here is trusted. Whoever takes this process over can answer with other values, and that is all.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import functools
import inspect
import io
import operator
import socket
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from posttrain.scoring.sandbox import program, wire
from posttrain.scoring.sandbox.proxies import BINARY, METHODS
from posttrain.scoring.sandbox.values import decode, encode, held

_PRINTED = 1 << 16  # characters of a call's output that are passed on
_SHOWN = 1 << 16  # characters of an exception's own text
_MUTABLE = (list, dict, set, bytearray, deque)


def serve(channel: int, peer: int) -> int:
    """Loads the program as a module, then answers until nobody asks."""
    code = str(wire.receive(socket.socket(fileno=channel))["code"])
    sock = socket.socket(fileno=peer)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            module = program.module("solution", code)
            exec(compile(code, program.FILE, "exec"), module.__dict__)
    except BaseException as error:
        wire.send(sock, {"failed": program.said(error)})
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
            wire.send(sock, {"raised": {"name": "OverflowError", "bases": [], "values": [str(error)]}})


def _awaited(coroutine: Any) -> Any:
    return asyncio.run(coroutine)


def _snapshot(thing: Any) -> Any:
    """What an object is made of, as plain data, so that two can be compared elsewhere.

    Without an `__eq__` of its class it is nothing but itself.
    """

    def state(inner: Any) -> dict[str, Any]:
        kind: Any = type(inner)
        if kind.__eq__ is object.__eq__:
            itself: dict[str, Any] = encode({"itself": id(inner)}, dict)
            return itself
        slots = [name for kind in type(inner).__mro__ for name in getattr(kind, "__slots__", ())]
        found = {**getattr(inner, "__dict__", {}), **{n: getattr(inner, n) for n in slots if hasattr(inner, n)}}
        found.pop("__dict__", None)
        made = {"type": type(inner).__qualname__, "state": {**found}}
        plain: dict[str, Any] = encode(made, state)
        return plain

    return decode(state(thing), dict)


_Operation = Callable[..., Any]
OPERATIONS: dict[str, _Operation] = {
    "call": lambda function, /, *values, **named: function(*values, **named),
    "getattr": getattr,
    "setattr": setattr,
    "delattr": delattr,
    "format": format,
    "reversed": reversed,
    "send": lambda generator, value: generator.send(value),
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
    "issubclass": issubclass,
    "type": type,
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
        handle["offers"] = _offers(type(thing))  # type: ignore[arg-type]
        if (plain := held(thing)) is not None:  # of an Enum; of other subclasses nothing else is sent
            handle["plain"] = encode(plain, self._keep)
        if handle["kind"] == "exception":
            above = [base for base in thing.__bases__ if base is not object and not _is_built_in(base)]
            handle |= {"type": thing.__name__, "module": thing.__module__, "bases": _bases(thing)}
            handle["parents"] = [self._keep(base) for base in above if issubclass(base, BaseException)]
        return handle

    def _find(self, handle: Mapping[str, Any]) -> Any:
        return getattr(builtins, handle["builtin"]) if "builtin" in handle else self._kept[handle["handle"]]

    def _raised(self, error: BaseException) -> dict[str, Any]:
        kind = type(error)
        raised: dict[str, Any] = {"name": kind.__name__, "bases": _bases(kind), "values": []}
        with contextlib.suppress(BaseException):  # what cannot be sent is left out
            raised["values"] = [encode(value, self._keep) for value in error.args]
        with contextlib.suppress(BaseException):
            raised["state"] = {name: encode(value, self._keep) for name, value in vars(error).items()}
        if not _is_built_in(kind):
            raised["class"] = self._keep(kind)
            with contextlib.suppress(BaseException):
                raised["shown"] = str(error)[:_SHOWN]
        return raised


def _kind(thing: Any) -> str:
    if isinstance(thing, type):
        return "exception" if issubclass(thing, BaseException) else "class"
    if inspect.iscoroutine(thing):
        return "coroutine"
    return "generator" if inspect.isgenerator(thing) else "object"


@functools.lru_cache(maxsize=256)
def _offers(kind: type) -> list[str]:
    """Which of the methods that a stand-in can have it has."""
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        found.update(vars(base))
    return [name for name in (*METHODS, *BINARY, "call", "exit") if found.get(f"__{name.strip('_')}__") is not None]


def _bases(kind: type) -> list[str]:
    """The built-in exceptions it derives from, nearest first."""
    return [base.__name__ for base in kind.__mro__ if _is_built_in(base)]


def _is_built_in(kind: type) -> bool:
    return getattr(builtins, kind.__name__, None) is kind
