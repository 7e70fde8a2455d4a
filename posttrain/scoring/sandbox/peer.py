"""The driver's side of the line to the candidate's process: asks it, and makes of its answers what tests can use."""

from __future__ import annotations

import builtins
import socket
import sys
import threading
import weakref
from collections import deque
from collections.abc import Mapping
from typing import Any, NoReturn

from posttrain.scoring.sandbox import wire
from posttrain.scoring.sandbox.exceptions import Exceptions
from posttrain.scoring.sandbox.proxies import ITERATES, Proxy, made, number_of, stand_in
from posttrain.scoring.sandbox.values import NotPlain, decode, encode

_NOTHING = object()


class Gone(BaseException):
    """The candidate's process has ended, or sent what is no answer. Not an Exception: no test may take it for one."""


class NoCrossing(BaseException):
    """The test hands over what cannot be sent: a function, a file, an object of its own. The test's fault."""


class Peer:
    """Asks the candidate's process, one question at a time whatever threads the tests have."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._turn = threading.RLock()
        self._exceptions = Exceptions(lambda value: decode(value, self._found))
        self._proxies: weakref.WeakValueDictionary[int, Proxy] = weakref.WeakValueDictionary()  # so that `is` holds
        self._stands_for: dict[int, tuple[Any, Proxy]] = {}  # of generators and coroutines made here
        self.asked = 0
        self.gone = ""
        self.no_crossing = ""
        self._last: Any = _NOTHING

    def ask(self, do: str, /, *values: Any, **named: Any) -> Any:
        """The value that comes back; what the candidate has raised is raised here. Gone, NoCrossing."""
        request: dict[str, Any] = {"do": do}
        try:
            request["values"] = [encode(value, self._handle) for value in values]
            if named:
                request["named"] = {name: encode(value, self._handle) for name, value in named.items()}
        except NotPlain as error:
            self.refuse(str(error))
        with self._turn:
            reply = self._reply(request)
            result, raised = self._taken(reply, do, (*values[1:], *named.values()))
        if raised is not None:
            raise raised
        return result

    def refuse(self, why: str) -> NoReturn:
        """The tests ask for what cannot be had from another process."""
        self.no_crossing = why
        raise NoCrossing(why)

    def type_of(self, thing: Any) -> Any:
        """`type(thing)`, which for an object of the candidate's is a class of its own."""
        return self.ask("type", thing) if isinstance(thing, Proxy) else type(thing)

    def _reply(self, request: Mapping[str, Any]) -> Any:
        if self.gone:
            raise Gone(self.gone)
        self.asked += 1
        try:
            wire.send(self._sock, request)
            return wire.receive(self._sock)
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
        try:
            if isinstance(value, BaseException):
                return f"the last call raised {type(value).__name__}: {str(value)[:80]}"
            return f"the last call returned {ascii(value)[:80]}"
        except BaseException:  # made of the candidate's objects, or an integer of more digits than are printed
            return f"the last answer was a {type(value).__name__}"

    def _taken(self, reply: Any, do: str, given: tuple[Any, ...]) -> tuple[Any, BaseException | None]:
        """The value of a reply, or the exception it reports; what it `changed` of the given arguments is put there."""
        try:
            if text := reply.get("printed"):
                sys.stdout.write(str(text))
            raised = self._exceptions.error(reply["raised"], do in ITERATES) if "raised" in reply else None
            result = None if raised is not None else decode(reply["value"], self._found)
            for value, new in zip(given, reply.get("changed", ()), strict=False):
                if new is not None:
                    _replace(value, decode(new, self._found))
        except Exception as error:  # of any kind: it is made of what the candidate has sent
            self.gone = f"the candidate's answer cannot be read: {type(error).__name__}: {error}"
            raise Gone(self.gone) from None
        self._last = _NOTHING if do == "name" else result if raised is None else raised
        return result, raised

    def _handle(self, value: Any) -> dict[str, Any]:
        if isinstance(value, Proxy):
            return {"handle": number_of(value)}
        if id(value) in self._stands_for:
            return self._handle(self._stands_for[id(value)][1])
        if (number := self._exceptions.number(value)) is not None:
            return {"handle": number}
        if isinstance(value, BaseException):
            raise TypeError("an exception cannot be passed to the candidate")
        name = getattr(value, "__name__", "")
        if isinstance(name, str) and getattr(builtins, name, None) is value:
            return {"handle": 0, "builtin": name}
        raise NotPlain(f"the test passes a {type(value).__name__}; only plain values can be passed")

    def _found(self, handle: Mapping[str, Any]) -> Any:
        if handle["kind"] == "exception":
            return self._exceptions.kind(handle)
        number = int(handle["handle"])
        proxy = self._proxies.get(number)
        if proxy is None:
            plain = decode(handle["plain"], self._found) if "plain" in handle else None
            if plain is not None and not isinstance(plain, int | float | str):
                raise TypeError("a member of an Enum is no number and no text")
            proxy = self._proxies[number] = made(self, number, str(handle["type"]), handle["offers"], plain)
        local = stand_in(proxy, handle["kind"])
        if local is not proxy:
            self._stands_for[id(local)] = (local, proxy)
        return local


def _replace(value: Any, new: Any) -> None:
    """Makes a container of the driver what the candidate's copy of it has become."""
    if not isinstance(new, list | dict | set | bytearray | deque) or not isinstance(value, type(new)):
        raise TypeError("an argument changed its type")
    value.clear()
    getattr(value, "extend" if hasattr(value, "extend") else "update")(new)
