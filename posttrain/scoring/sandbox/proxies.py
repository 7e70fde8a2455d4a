"""The driver's stand-ins for what lives in the candidate's process.

What a candidate's object says about its equality or membership is never asked, nor any operator or order between it
and a plain value: that would hand the expected value over and take the answer for the verdict.
"""

from __future__ import annotations

import builtins
import operator
import socket
import sys
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from posttrain.scoring.sandbox import wire
from posttrain.scoring.sandbox.values import PREDICATES, NotPlain, decode, encode

_BAD = (TypeError, ValueError, KeyError, AttributeError, IndexError, ArithmeticError, RecursionError, MemoryError)
_NOTHING = object()


class Gone(BaseException):
    """The candidate's process has ended, or sent what is no answer. Not an Exception: no test may take it for one."""


class NoCrossing(BaseException):
    """The test hands over what cannot be sent: a function, a file, an object of its own. The test's fault."""


class Peer:
    """Asks the candidate's process."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._exceptions: dict[int, type[Exception]] = {}
        self._proxies: weakref.WeakValueDictionary[int, Proxy] = weakref.WeakValueDictionary()  # so that `is` holds
        self._stands_for: dict[int, tuple[Any, Proxy]] = {}  # of generators and coroutines made here
        self.gone = ""
        self.no_crossing = ""
        self._last: Any = _NOTHING

    def ask(self, do: str, *values: Any, **named: Any) -> Any:
        if self.gone:
            raise Gone(self.gone)
        request: dict[str, Any] = {"do": do}
        try:
            request["values"] = [encode(value, self._handle) for value in values]
            if named:
                request["named"] = {name: encode(value, self._handle) for name, value in named.items()}
        except NotPlain as error:
            self.no_crossing = str(error)
            raise NoCrossing(self.no_crossing) from None
        try:
            wire.send(self._sock, request)
            reply = wire.receive(self._sock)
            result = self._taken(reply, (*values[1:], *named.values()))
            if do == "name":
                self._last = _NOTHING
            return result
        except (EOFError, OSError):
            self.gone = "the candidate's process ended"
        except wire.BadMessage as error:
            self.gone = f"the candidate's answer cannot be read: {error}"
        raise Gone(self.gone)

    def last(self) -> str:
        """What the last answer was, for people; empty before the first."""
        value = self._last
        if value is _NOTHING:
            return ""
        if isinstance(value, BaseException):
            return f"the last call raised {type(value).__name__}: {str(value)[:80]}"
        try:
            return f"the last call returned {ascii(value)[:80]}"
        except (Gone, Exception):  # made of the candidate's objects, or an integer of more digits than are printed
            return f"the last call returned a {type(value).__name__}"

    def _taken(self, reply: Any, given: tuple[Any, ...]) -> Any:
        """The value of a reply, or the exception it reports; what it `changed` of the given arguments is put there."""
        try:
            if text := reply.get("printed"):
                sys.stdout.write(str(text))
            raised = self._exception(reply["raised"]) if "raised" in reply else None
            result = None if raised else decode(reply["value"], self._found)
            for value, new in zip(given, reply.get("changed", ()), strict=False):
                if new is not None:
                    _replace(value, decode(new, self._found))
        except _BAD as error:
            raise wire.BadMessage(f"{type(error).__name__}: {error}") from None
        self._last = raised or result
        if raised:
            raise raised
        return result

    def _handle(self, value: Any) -> dict[str, Any]:
        if isinstance(value, Proxy):
            return {"handle": object.__getattribute__(value, "_number")}
        if id(value) in self._stands_for:
            return self._handle(self._stands_for[id(value)][1])
        for number, kind in self._exceptions.items():
            if kind is value:
                return {"handle": number}
        if isinstance(value, BaseException):
            raise TypeError("an exception cannot be passed to the candidate")
        name = getattr(value, "__name__", "")
        if isinstance(name, str) and getattr(builtins, name, None) is value:
            return {"handle": 0, "builtin": name}
        raise NotPlain(f"the test passes a {type(value).__name__}; only plain values can be passed")

    def _found(self, handle: Mapping[str, Any]) -> Any:
        if handle["kind"] == "exception":
            return self._exception_class(handle)
        number = int(handle["handle"])
        proxy = self._proxies.get(number)
        if proxy is None:
            proxy = self._proxies[number] = Proxy(self, number, str(handle["type"]))
        make = {"coroutine": _coroutine, "generator": _generator}.get(handle["kind"])
        if make is None:
            return proxy
        local = make(proxy)
        self._stands_for[id(local)] = (local, proxy)
        return local

    def _exception_class(self, handle: Mapping[str, Any]) -> type[Exception]:
        number = int(handle["handle"])
        if number not in self._exceptions:
            self._exceptions[number] = type(
                str(handle["type"]), (_builtin(handle["bases"]),), {"__module__": "solution"}
            )
        return self._exceptions[number]

    def _exception(self, raised: Mapping[str, Any]) -> BaseException:
        if raised["name"] == "SystemExit" and "class" not in raised:
            kind: type[BaseException] = SystemExit
        else:
            kind = self._exception_class(raised["class"]) if "class" in raised else _builtin(raised["bases"])
        error = kind.__new__(kind)
        error.args = tuple(decode(value, self._found) for value in raised["values"])
        for name, value in raised.get("state", {}).items():
            if not name.startswith("__"):
                setattr(error, name, decode(value, self._found))
        return error


def _builtin(names: list[str]) -> type[Exception]:
    """The first of the names that is a built-in Exception. So a candidate cannot raise what skips or ends the tests."""
    for name in names:
        kind = getattr(builtins, name, None)
        if isinstance(kind, type) and issubclass(kind, Exception):
            return kind
    return Exception


def _replace(value: Any, new: Any) -> None:
    """Makes a container of the driver what the candidate's copy of it has become."""
    if not isinstance(new, list | dict | set | bytearray | deque) or not isinstance(value, type(new)):
        raise TypeError("an argument changed its type")
    value.clear()
    getattr(value, "extend" if hasattr(value, "extend") else "update")(new)


class Proxy:
    """An object, function or class of the candidate's."""

    __slots__ = ("__weakref__", "_number", "_peer", "_type")

    def __init__(self, peer: Peer, number: int, kind: str) -> None:
        for name, value in (("_peer", peer), ("_number", number), ("_type", kind)):
            object.__setattr__(self, name, value)

    def __call__(self, *values: Any, **named: Any) -> Any:
        return _ask("call", self, *values, **named)

    def __getattr__(self, name: str) -> Any:
        if name in PREDICATES:
            raise AttributeError(f"{name}() is asked of a {self._type}; only plain values may answer that")
        if name.startswith("__") and name not in ("__name__", "__qualname__", "__doc__", "__annotations__"):
            raise AttributeError(name)
        return _ask("getattr", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        _ask("setattr", self, name, value)

    def __eq__(self, other: object) -> bool:
        """Two objects are equal when they are of one type and made of the same; an object never equals a plain value."""
        if not isinstance(other, Proxy):
            return False
        return self._number == other._number or bool(_ask("snapshot", self) == _ask("snapshot", other))

    def __hash__(self) -> int:
        return hash(self._type)

    def __contains__(self, item: Any) -> bool:
        return any(one is item or one == item for one in iter(self))

    def __iter__(self) -> Iterator[Any]:
        return _ask("iter", self)

    def __instancecheck__(self, thing: Any) -> bool:
        return isinstance(thing, Proxy) and bool(_ask("isinstance", thing, self))

    def __exit__(self, *raised: Any) -> None:
        """Never swallows an exception: it may be a test's failed assertion."""
        _ask("exit", self)

    def __repr__(self) -> str:
        return str(_ask("repr", self))

    def __str__(self) -> str:
        return str(_ask("str", self))


def _ask(do: str, proxy: Proxy, *values: Any, **named: Any) -> Any:
    peer: Peer = object.__getattribute__(proxy, "_peer")
    return peer.ask(do, proxy, *values, **named)


def _unary(name: str) -> Callable[..., Any]:
    return lambda self, *values: _ask(name, self, *values)


def _binary(name: str) -> Callable[[Proxy, Any], Any]:
    return lambda self, other: _ask(name, self, other) if isinstance(other, Proxy) else NotImplemented


for _name in ("next", "len", "bool", "int", "float", "index", "getitem", "setitem", "delitem", "enter", "neg", "abs"):
    setattr(Proxy, f"__{_name}__", _unary(_name))
for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and_", "or_", "xor"):
    assert hasattr(operator, _name)
    setattr(Proxy, f"__{_name.strip('_')}__", _binary(_name))
for _name in ("lt", "le", "gt", "ge"):
    setattr(Proxy, f"__{_name}__", _binary(_name))


async def _coroutine(proxy: Proxy) -> Any:
    return _ask("await", proxy)


def _generator(proxy: Proxy) -> Iterator[Any]:
    while True:
        try:
            value = _ask("next", proxy)
        except StopIteration:
            return
        yield value
