"""Plain values as JSON and back. What is decoded is of Python's own types, whatever the other side claims.

A value of any other type travels as a handle, a number under which its owner keeps it.
"""

from __future__ import annotations

import base64
import datetime
import functools
import keyword
import operator
from collections import Counter, deque, namedtuple
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any

DEEPEST = 200  # containers in containers
_PLAIN = (str, bytes, int, float, list, tuple, dict, set, frozenset)
# Questions that tests ask of plain values and that only a plain value may answer: "text".startswith("t").
PREDICATES = {n for kind in _PLAIN for n in dir(kind) if n.startswith("is")} | {"startswith", "endswith"}
PREDICATES |= {"intersection", "difference", "symmetric_difference"}  # by which sets are compared
_MOST_FIELDS = 64
_SMALL = 1 << 62


class NotPlain(TypeError):
    """The value cannot be sent."""


Keep = Callable[[Any], dict[str, Any]]  # a handle for what is not plain
Find = Callable[[Mapping[str, Any]], Any]


def _zone(value: Any) -> datetime.timezone | None:
    """The time zone of a date or time as the distance that it means there: all that comparisons go by."""
    offset = value.utcoffset()
    return None if offset is None else datetime.timezone(offset)


_DAY = operator.attrgetter("year", "month", "day")
_CLOCK = operator.attrgetter("hour", "minute", "second", "microsecond")
# name: type, its arguments, from arguments
_BUILT: dict[str, tuple[type, Callable[[Any], Iterable[Any]]]] = {
    "complex": (complex, lambda v: [v.real, v.imag]),
    "range": (range, lambda v: [v.start, v.stop, v.step]),
    "Decimal": (Decimal, lambda v: [str(v)]),
    "Fraction": (Fraction, lambda v: [v.numerator, v.denominator]),
    "date": (datetime.date, _DAY),
    "time": (datetime.time, lambda v: [*_CLOCK(v), _zone(v)]),
    "datetime": (datetime.datetime, lambda v: [*_DAY(v), *_CLOCK(v), _zone(v)]),
    "timedelta": (datetime.timedelta, lambda v: [v.days, v.seconds, v.microseconds]),
    "slice": (slice, lambda v: [v.start, v.stop, v.step]),
    "timezone": (datetime.timezone, lambda v: [v.utcoffset(None)]),
}
_NAMES = {kind: name for name, (kind, _) in _BUILT.items()}
# name: type, and the plain types that count as it
_MANY: dict[str, Callable[[Any], Any]] = {
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "deque": deque,
}


def encode(value: Any, keep: Keep, depth: int = 0) -> Any:
    """A JSON value. Subclasses of plain types become those, but for named tuples and Counter.

    ValueError for what is nested too deep; whatever `keep` raises for what is not plain.
    """
    if depth > DEEPEST:
        raise ValueError(f"containers nested more than {DEEPEST} deep")
    kind = type(value)
    if value is None or kind is bool or kind is str:
        return value
    if kind is float:
        return {"float": value.hex()}
    if kind is int:
        return value if -_SMALL < value < _SMALL else {"int": hex(value)}
    if kind is list:
        return [encode(item, keep, depth + 1) for item in value]
    if kind in _NAMES:
        return {"new": _NAMES[kind], "from": [encode(a, keep) for a in _BUILT[_NAMES[kind]][1](value)]}
    if isinstance(value, tuple) and _can_be_named(kind.__name__, getattr(kind, "_fields", ())):
        return {"named": [kind.__name__, list(kind._fields), [encode(item, keep, depth + 1) for item in value]]}
    for name, base in _MANY.items():
        if isinstance(value, base):  # type: ignore[arg-type]
            return {name: [encode(item, keep, depth + 1) for item in value]}
    if isinstance(value, dict):
        pairs = [[encode(k, keep, depth + 1), encode(v, keep, depth + 1)] for k, v in value.items()]
        return {"Counter" if isinstance(value, Counter) else "dict": pairs}
    if isinstance(value, bytes | bytearray):
        return {type_of_bytes(value): base64.b64encode(bytes(value)).decode()}
    if isinstance(value, list):
        return encode(list(value), keep, depth)
    if not hasattr(kind, "__members__") and (plain := held(value)) is not None:  # not an Enum
        return encode(plain, keep, depth)
    return keep(value)


def held(value: Any) -> int | float | str | None:
    """The number or text that an object of a subclass holds, whatever its class writes for it."""
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    return str.__str__(value) if isinstance(value, str) else None


def type_of_bytes(value: bytes | bytearray) -> str:
    return "bytearray" if isinstance(value, bytearray) else "bytes"


def decode(value: Any, find: Find) -> Any:
    """The plain value. TypeError, ValueError, KeyError or RecursionError for what `encode` does not make."""
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, list):
        return [decode(item, find) for item in value]
    if not isinstance(value, dict):
        raise TypeError(f"{type(value).__name__} is not sent")
    if "handle" in value:
        return find(value)
    if "new" in value:
        return _BUILT[value["new"]][0](*(decode(a, find) for a in value["from"]))
    ((name, inner),) = value.items()
    if name == "float":
        return float.fromhex(inner)
    if name == "int":
        return int(inner, 16)
    if name in ("dict", "Counter"):
        pairs = {decode(k, find): decode(v, find) for k, v in inner}
        return Counter(pairs) if name == "Counter" else pairs
    if name == "named":
        called, fields, items = inner
        return _named(called, tuple(fields))(*(decode(item, find) for item in items))
    if name in ("bytes", "bytearray"):
        data = base64.b64decode(inner)
        return data if name == "bytes" else bytearray(data)
    return _MANY[name](decode(item, find) for item in inner)


def _can_be_named(called: Any, fields: Any) -> bool:
    """Whether a named tuple can be made of it that hides nothing but a tuple's own `count` and `index`."""
    if not isinstance(fields, tuple) or not 0 < len(fields) <= _MOST_FIELDS or len(set(fields)) < len(fields):
        return False
    words = (called, *fields)
    if not all(isinstance(w, str) and w.isascii() and w.isidentifier() and not keyword.iskeyword(w) for w in words):
        return False
    return not any(field.startswith("_") or field in PREDICATES for field in fields)


@functools.lru_cache(maxsize=64)
def _named(called: str, fields: tuple[str, ...]) -> Any:
    if not _can_be_named(called, fields):
        raise ValueError(f"{called} of {fields} is no named tuple")
    return namedtuple(called, fields, module="solution")
