"""Values cross as what they are, and nothing but plain values comes out."""

from __future__ import annotations

import datetime
import json
import math
from collections import Counter, OrderedDict, deque, namedtuple
from decimal import Decimal
from enum import IntEnum
from fractions import Fraction
from typing import Any

import pytest

from posttrain.scoring.sandbox.values import NotPlain, decode, encode


def keep(value: Any) -> dict[str, Any]:
    raise NotPlain(type(value).__name__)


def find(handle: Any) -> Any:
    raise KeyError(handle["handle"])


def crossed(value: Any) -> Any:
    return decode(json.loads(json.dumps(encode(value, keep))), find)


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        -(10**400),
        pytest.param(10**6000, id="large"),
        0.1,
        -0.0,
        float("inf"),
        1e-320,
        "",
        "\ud800\0é",
        b"\xff",
        bytearray(b"x"),
        1j,
        [1, [2, [3]]],
        (1, (2,)),
        {1, "a", (2, 3)},
        frozenset([1]),
        {"a": {1: [2]}, (1, 2): None, None: 1},
        deque([1, 2]),
        range(1, 10, 3),
        Decimal("1.10"),
        Fraction(1, 3),
        datetime.date(2020, 2, 29),
        datetime.datetime(2020, 1, 1, 12, 0, 0, 5),
        datetime.timedelta(days=-1, microseconds=3),
        datetime.time(1, 2, 3),
        datetime.time(1, 2, 3, tzinfo=datetime.UTC),
        datetime.datetime(2020, 1, 1, 12, tzinfo=datetime.timezone(datetime.timedelta(hours=5))),
        datetime.timezone(datetime.timedelta(minutes=-90)),
        slice(1, None, 2),
        {"handle": 5},
        {"float": "x"},
    ],
)
def test_a_value_arrives_as_it_was_sent(value: Any) -> None:
    found = crossed(value)
    assert found == value
    assert type(found) is type(value)
    assert math.copysign(1, found) == math.copysign(1, value) if isinstance(value, float) else True


def test_a_number_that_is_none_arrives() -> None:
    assert math.isnan(crossed(float("nan")))


class Sly(int):
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = int.__hash__


class Text(str):
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = str.__hash__


Point = namedtuple("Point", "x y")


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Sly(3), 3),
        (Text("a"), "a"),
        (OrderedDict(a=1), {"a": 1}),
        ([Sly(3)], [3]),
        ({Text("k"): Sly(1)}, {"k": 1}),
    ],
)
def test_subclasses_arrive_as_plain_values(value: Any, plain: Any) -> None:
    found = crossed(value)
    assert found == plain
    assert type(found) is type(plain)
    assert found != 4


class Summer(datetime.tzinfo):
    def utcoffset(self, when: datetime.datetime | None) -> datetime.timedelta:
        return datetime.timedelta(hours=2)

    def dst(self, when: datetime.datetime | None) -> datetime.timedelta:
        raise NotImplementedError

    def tzname(self, when: datetime.datetime | None) -> str:
        raise NotImplementedError


def test_a_time_zone_arrives_as_its_distance() -> None:
    there = datetime.datetime(2020, 7, 1, 12, tzinfo=Summer())
    assert crossed(there) == there != crossed(there.replace(tzinfo=None))
    assert crossed(there).utcoffset() == datetime.timedelta(hours=2)


class Level(str):
    def __str__(self) -> str:
        return "another"


def test_a_text_arrives_as_what_it_holds() -> None:
    assert crossed(Level("a")) == "a"


def test_fields_and_counts_arrive() -> None:
    found, count = crossed([Point(1, (2,)), Counter("aab")])
    assert (found.x, found.y, found, found._asdict()) == (1, (2,), (1, (2,)), {"x": 1, "y": (2,)})
    assert (count.most_common(1), count["z"], count, type(count)) == ([("a", 2)], 0, {"a": 2, "b": 1}, Counter)


@pytest.mark.parametrize(
    "fields", [["startswith"], ["isdigit"], ["_a"], ["a", "a"], ["def"], ["é"], [1], ["x"] * 99, []]
)
def test_fields_that_could_pass_for_an_answer_are_refused(fields: list[Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        decode({"named": ["Point", fields, [1] * len(fields)]}, find)
    if all(isinstance(field, str) and field.isidentifier() for field in fields) and len(set(fields)) == len(fields) > 0:
        kind = type("Made", (tuple,), {"_fields": tuple(fields)})
        assert type(crossed(kind([1]))) is tuple


class Colour(IntEnum):
    RED = 1


@pytest.mark.parametrize(
    "value", [object(), Colour.RED, len, type, lambda: 1, iter([]), NotImplemented, ..., ValueError(1)]
)
def test_what_is_not_plain_is_kept(value: Any) -> None:
    with pytest.raises(NotPlain):
        encode([value], keep)


def test_depth_is_bounded() -> None:
    deep: list[Any] = []
    for _ in range(300):
        deep = [deep]
    with pytest.raises(ValueError, match="nested more than 200 deep"):
        encode(deep, keep)
    deep.append(deep)
    with pytest.raises(ValueError, match="deep"):
        encode(deep, keep)


@pytest.mark.parametrize(
    "data",
    [
        1.5,
        {},
        {"no such": []},
        {"list": 1, "tuple": 2},
        {"new": "exec", "from": ["1"]},
        {"new": [], "from": []},
        {"new": "Fraction", "from": [1, 0]},
        {"new": "Decimal", "from": ["x"]},
        {"new": "range", "from": [1, 2, 0]},
        {"set": [[1]]},
        {"set": 5},
        {"dict": [[1, 2, 3]]},
        {"dict": [[[], 1]]},
        {"float": 5},
        {"int": "zz"},
        {"bytes": "é"},
        {"handle": 5},
    ],
)
def test_what_is_no_value_is_an_error(data: Any) -> None:
    with pytest.raises((TypeError, ValueError, KeyError, ArithmeticError)):
        decode(data, find)
