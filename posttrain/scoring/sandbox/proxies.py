"""The driver's stand-ins for what lives in the candidate's process.

What a candidate's object says about its equality or membership is never asked, nor any operator or order between it
and a plain value: that would hand the expected value over and take the answer for the verdict.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from posttrain.scoring.sandbox.values import PREDICATES

if TYPE_CHECKING:
    from posttrain.scoring.sandbox.peer import Peer

# Of an object's attributes with underscores, those that say what it is.
_TOLD = ("__name__", "__qualname__", "__doc__", "__annotations__", "__dict__")
ITERATES = ("next", "send")  # what may end an iteration


class Proxy:
    # An object, function or class of the candidate's. No docstring: tests may ask for the candidate's.
    __slots__ = ("__weakref__", "_number", "_peer", "_plain", "_type")

    def __init__(self, peer: Peer, number: int, kind: str, plain: Any) -> None:
        """`plain`: the number or text that a member of an IntEnum or of an Enum of texts is too; else None."""
        for name, value in (("_peer", peer), ("_number", number), ("_type", kind), ("_plain", plain)):
            object.__setattr__(self, name, value)

    @property
    def __doc__(self) -> Any:  # type: ignore[override]
        return _ask("getattr", self, "__doc__")

    def __getattr__(self, name: str) -> Any:
        if name in PREDICATES:
            raise AttributeError(f"{name}() is asked of a {self._type}; only plain values may answer that")
        if name.startswith("__") and name not in _TOLD:
            raise AttributeError(name)
        return _ask("getattr", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        _ask("setattr", self, name, value)

    def __delattr__(self, name: str) -> None:
        _ask("delattr", self, name)

    def __eq__(self, other: object) -> bool:
        """Two objects are equal when they are of one type and made of the same; an object never equals a plain value."""
        if not isinstance(other, Proxy):
            return bool(self._plain is not None and self._plain == other)
        return self._number == other._number or bool(_ask("snapshot", self) == _ask("snapshot", other))

    def __hash__(self) -> int:
        return hash(self._type if self._plain is None else self._plain)

    def __contains__(self, item: Any) -> bool:
        return any(one is item or one == item for one in iter(self))

    def __instancecheck__(self, thing: Any) -> bool:
        return isinstance(thing, Proxy) and bool(_ask("isinstance", thing, self))

    def __subclasscheck__(self, kind: Any) -> bool:
        return isinstance(kind, Proxy) and bool(_ask("issubclass", kind, self))

    def __mro_entries__(self, bases: object) -> tuple[type, ...]:
        _peer(self).refuse("the tests derive a class from one of the candidate's")

    def __format__(self, how: str) -> str:
        return str(_ask("format", self, how))

    def __repr__(self) -> str:
        return str(_ask("repr", self))

    def __str__(self) -> str:
        return str(_ask("str", self))


def made(peer: Peer, number: int, kind: str, offers: Iterable[str], plain: Any) -> Proxy:
    """A stand-in with those methods that its original has, so that it is callable or iterable only if that is."""
    return _kind(frozenset(offers).intersection(_OFFERED))(peer, number, kind, plain)


@functools.lru_cache(maxsize=256)
def _kind(offers: frozenset[str]) -> type[Proxy]:
    methods = {f"__{name.strip('_')}__": _OFFERED[name] for name in offers}
    return type("Proxy", (Proxy,), {"__slots__": (), "__doc__": Proxy.__doc__, **methods})


def number_of(proxy: Proxy) -> int:
    number: int = object.__getattribute__(proxy, "_number")
    return number


def _peer(proxy: Proxy) -> Peer:
    peer: Peer = object.__getattribute__(proxy, "_peer")
    return peer


def _ask(do: str, proxy: Proxy, /, *values: Any, **named: Any) -> Any:
    return _peer(proxy).ask(do, proxy, *values, **named)


def _call(proxy: Proxy, /, *values: Any, **named: Any) -> Any:
    return _ask("call", proxy, *values, **named)


def _exit(proxy: Proxy, *raised: Any) -> None:
    """Never swallows an exception: it may be a test's failed assertion."""
    _ask("exit", proxy)


def _method(name: str) -> Callable[..., Any]:
    return lambda self, *values: _ask(name, self, *values)


def _binary(name: str) -> Callable[[Proxy, Any], Any]:
    operation = getattr(operator, name)

    def between(proxy: Proxy, other: Any) -> Any:
        if isinstance(other, Proxy):
            return _ask(name, proxy, other)
        plain = object.__getattribute__(proxy, "_plain")
        return NotImplemented if plain is None else operation(plain, other)

    return between


METHODS = (
    "iter",
    "next",
    "len",
    "bool",
    "int",
    "float",
    "index",
    "getitem",
    "setitem",
    "delitem",
    "enter",
    "reversed",
    "neg",
    "abs",
)
BINARY = (
    "add",
    "sub",
    "mul",
    "truediv",
    "floordiv",
    "mod",
    "pow",
    "matmul",
    "and_",
    "or_",
    "xor",
    "lt",
    "le",
    "gt",
    "ge",
)
_OFFERED: dict[str, Callable[..., Any]] = {
    "call": _call,
    "exit": _exit,
    **{name: _method(name) for name in METHODS},
    **{name: _binary(name) for name in BINARY},
}


def stand_in(proxy: Proxy, kind: str) -> Any:
    """The stand-in itself, but for what Python wants of a type of its own: a coroutine, a generator."""
    if kind == "coroutine":
        return _coroutine(proxy)
    return _generator(proxy) if kind == "generator" else proxy


async def _coroutine(proxy: Proxy) -> Any:
    return _ask("await", proxy)


def _generator(proxy: Proxy) -> Iterator[Any]:
    sent = None
    while True:
        try:
            value = _ask("send", proxy, sent)
        except StopIteration as end:
            return end.value
        sent = yield value
