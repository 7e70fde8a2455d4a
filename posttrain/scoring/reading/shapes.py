"""What kind of thing an answer is: a list, a tuple, a set, an interval, a matrix, an equation, or one value."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, replace
from typing import Literal

from posttrain.scoring.reading import systems, units
from posttrain.scoring.reading.answers import number
from posttrain.scoring.reading.congruence import congruence
from posttrain.scoring.reading.latex import clean, closing, has_or, sides_of, split

Kind = Literal[
    "atom",
    "list",
    "tuple",
    "set",
    "interval",
    "union",
    "matrix",
    "equation",
    "different",
    "false",
    "residues",
    "pieces",
]


@dataclass(frozen=True)
class Shape:
    kind: Kind
    text: str = ""  # of an atom
    items: tuple[Shape, ...] = ()
    name: str = ""  # what stands before the equals sign, or the variable of an inequality
    closed: tuple[bool, bool] = (False, False)  # ends of an interval
    width: int = 0  # columns of a matrix

    @property
    def ends(self) -> tuple[str, str]:
        return self.items[0].text, self.items[1].text


_MATRIX = re.compile(
    r"[(\[]?\s*\\begin\{(?P<env>[pbB]?matrix|smallmatrix|array)\}(?:\{[clr|\s]*\})?(?P<body>.*)\\end\{(?P=env)\}\s*[)\]]?",
    re.DOTALL,
)
_NAME = re.compile(
    r"(?:m\s*)?(?:\\(?:angle|triangle|overline|text|widehat|Delta|measuredangle)\s*\{?\s*)?\|?\\?[A-Za-z]+\s?[A-Za-z]*\}?\s*"
    r"(?:_\s*(?:\{[^{}]*(?:\{[^{}]*\})?[^{}]*\}|\w))?'*(?:\^\{-1\})?(?:\s*\([^()]*\))?\|?|\[[A-Z]{3,}\]"
)
_RELATION = re.compile(r"\\le(?![a-zA-Z])|\\ge(?![a-zA-Z])|<|>")
_VARIABLE = re.compile(r"[a-zA-Z](?:_\{?\w+\}?)?(?:\([a-z]\))?|\\(?:theta|alpha|beta|lambda|mu|phi)")
_PARTS = re.compile(  # a : b, and ratios of lengths
    r"[a-zA-Z](?:_\{?\w+\}?)?(?:\s*:\s*[a-zA-Z](?:_\{?\w+\}?)?)+|[A-Z]{2}\s*(?:/|:)\s*[A-Z]{2}"
    r"|\\frac\s*\{[A-Za-z]{1,3}(?:_\w)?\}\s*\{[A-Za-z]{1,3}(?:_\w)?\}"
)
_COMPUTED = re.compile(
    r"\\(?:lim|i*int|sum|prod)(?![a-zA-Z])|[\d\s]+\\b?mod\s*\d+$"
)  # a left side that says what to do
_APPROXIMATE = re.compile(r"\\(?:approx|simeq|doteq)(?![a-zA-Z])")
_BUILDER = re.compile(r"\s*(?P<name>[a-z])\s*(?:\\in\s*\\mathbb\{R\}\s*)?(?:\\mid|\\vert|:|\|)(?P<rest>.*)")
_REVERSED = re.compile(r"([\[\]])([^,\[\]]+),([^,\[\]]+)([\[\]])")


def shape(text: str, thousands: bool = True) -> Shape:
    """The shape of a cleaned answer. With `thousands`, 1,234 is a number, else a list of two."""
    text = text.strip()
    while text.startswith("{") and closing(text, 0) == len(text) - 1:  # braces that only group
        text = text[1:-1].strip()
        if len(split(text)) > 1 and not (thousands and number(text)):
            return Shape("set", items=tuple(shape(part) for part in split(text)))
    if (residues := congruence(text)) is not None:
        said = f"{sorted(residues.residues)} mod {residues.modulus}"
        return Shape("residues", said, tuple(Shape("atom", str(value)) for value in residues.written), residues.name)
    if "\\begin" in text and (got := _cases(text)) is not None:
        return got
    if thousands and number(units.take(text)[0]) is not None:
        return Shape("atom", text)
    if (found := _MATRIX.fullmatch(text)) and found["body"].count("\\begin") == 0:
        return _matrix(found["body"], text)
    for read in (_points, _membership, _inequality, _union, _bracketed):
        if (got := read(text)) is not None:
            return got
    parts = split(text)
    if len(parts) > 1 and all(part.strip() for part in parts):
        return _list(text, parts)
    return _equation(text)


def _cases(text: str) -> Shape | None:
    if together := systems.equations(text):
        return _list(text, together) if len(together) > 1 else shape(clean(together[0]))
    if pieces := systems.pieces(text):
        each = (Shape("tuple", items=(shape(clean(value)), shape(clean(where)))) for value, where in pieces)
        return Shape("pieces", text, tuple(each))
    return None


def _points(text: str) -> Shape | None:
    """`x=1, y=2; x=3, y=4` as the points (1, 2) and (3, 4)."""
    groups = [group for group in re.split(r"\s*;\s*(?:and\s+|or\s+)?|,?\s+(?:or|and)\s+", text) if group.strip()]
    if len(groups) < 2 or "=" not in text:
        return None
    points = [[shape(clean(part)) for part in split(group)] for group in groups]
    names = [[part.name for part in point] for point in points]
    if len(names[0]) < 2 or not all(names[0]) or any(found != names[0] for found in names):
        return None
    return Shape("list", items=tuple(Shape("tuple", items=tuple(map(nameless, point))) for point in points))


def nameless(found: Shape) -> Shape:
    return Shape(found.kind, found.text, found.items, "", found.closed, found.width)


def _matrix(body: str, text: str) -> Shape:
    rows = [row.split("&") for row in re.split(r"\\\\(?:\[[^\]]*\])?", body) if row.strip()]
    if not rows or len({len(row) for row in rows}) != 1:
        return Shape("atom", text)
    return Shape("matrix", text, items=tuple(shape(clean(c)) for row in rows for c in row), width=len(rows[0]))


def _membership(text: str) -> Shape | None:
    """`x \\in S`, `\\{x | condition\\}`, the real numbers, and the real numbers without some."""
    if found := re.fullmatch(r"(\(?[a-zA-Z](?:,\s*[a-z])*\)?)\s*\\in(?![a-zA-Z])(.*)", text, re.DOTALL):
        return shape(found[2])
    if text.startswith("\\{") and text.endswith("\\}") and (found := _BUILDER.fullmatch(text[2:-2])):
        return shape(found["rest"])
    if re.fullmatch(r"\\mathbb\{R\}|\\text\{\s*all real(?: numbers)?\s*\}|all real(?: numbers)?", text):
        return _interval("-\\infty", "\\infty", (False, False))
    without = re.fullmatch(r"\\mathbb\{R\}\s*(?:\\setminus|\\backslash|-)\s*\\\{([^{},]*)\\\}", text)
    if without is None:
        without = re.fullmatch(r"[a-zA-Z]\s*\\ne(?![a-zA-Z])(.*)", text)
    if without and len(split(without[1])) == 1:
        hole = clean(without[1])
        return Shape("union", items=(_interval("-\\infty", hole), _interval(hole, "\\infty")))
    return None


def _inequality(text: str) -> Shape | None:
    if not _RELATION.search(text):
        return None
    if (held := _both(text)) is not None or len(split(text, words=False)) > 1:
        return held
    if has_or(text):
        parts = [shape(part) for part in re.split(r"\s+or\s+", text)]
        if all(part.kind in ("interval", "union") for part in parts):
            return Shape("union", items=tuple(i for p in parts for i in (p.items if p.kind == "union" else (p,))))
        return None
    sides = [clean(side) for side in _RELATION.split(text)]
    relations = [r.strip() for r in _RELATION.findall(text)]
    up = [r in ("<", "\\le") for r in relations]
    if len(set(up)) != 1 or any(not side for side in sides):
        return None
    if not up[0]:
        sides, relations = sides[::-1], relations[::-1]
    if len(sides) > 3:
        relations = [relation.replace("g", "l").replace(">", "<") for relation in relations]
        return Shape("different", " ".join(itertools.chain(*zip(sides, [*relations, ""], strict=True))))
    closed = ["\\" in r for r in relations]
    if (found := _absolute(sides, closed)) is not None:
        return found
    if len(sides) == 3 and _VARIABLE.fullmatch(sides[1]):
        return _interval(sides[0], sides[2], (closed[0], closed[1]), sides[1])
    if len(sides) == 2 and _VARIABLE.fullmatch(sides[0]) and not _VARIABLE.fullmatch(sides[1]):
        return replace(_interval("-\\infty", sides[1], (False, closed[0]), sides[0]), text=text)
    if len(sides) == 2 and _VARIABLE.fullmatch(sides[1]):
        return replace(_interval(sides[0], "\\infty", (closed[0], False), sides[1]), text=text)
    return Shape("different", text)


def _both(text: str) -> Shape | None:
    """`x > 1 and x < 5` as one interval."""
    sides = [shape(clean(part)) for part in parts] if len(parts := re.split(r"\s+and\s+", text)) == 2 else []
    if len(sides) != 2 or any(side.kind != "interval" or not side.name for side in sides):
        return None
    low, high = sorted(sides, key=lambda side: side.ends[0] == "-\\infty")
    if low.name != high.name or low.ends[1] != "\\infty" or high.ends[0] != "-\\infty" or low.ends[0] == "-\\infty":
        return None
    return _interval(low.ends[0], high.ends[1], (low.closed[0], high.closed[1]), low.name)


def _absolute(sides: list[str], closed: list[bool]) -> Shape | None:
    """`a < |x| < b` as two intervals, `|x| < b` as one; None without an absolute value between the relations."""
    at = next((i for i, side in enumerate(sides) if re.fullmatch(r"\|\s*[a-zA-Z]\s*\|", side)), None)
    bounds = [value for side in sides if (value := number(side)) is not None]
    if at is None or len(bounds) != len(sides) - 1 or min(bounds)[0] < 0:
        return None
    high, low = (sides[at + 1], closed[at]) if at + 1 < len(sides) else ("\\infty", False), sides[:at]
    if not low:
        return _interval(f"-{high[0]}", high[0], (high[1], high[1]))
    right = _interval(low[0], high[0], (closed[0], high[1]))
    return Shape("union", items=(_interval(f"-{high[0]}", f"-{low[0]}", (high[1], closed[0])), right))


def _union(text: str) -> Shape | None:
    parts = re.split(r"\\cup(?![a-zA-Z])", text)
    if not 2 <= len(parts) <= 64:
        return None
    shapes = [_as_interval(shape(part)) for part in parts]
    if all(s.kind == "set" for s in shapes):  # of finite sets
        return Shape("set", items=tuple({item.text: item for s in shapes for item in s.items}.values()))
    return Shape("union", items=tuple(shapes)) if all(s.kind == "interval" for s in shapes) else Shape("atom", text)


def _as_interval(found: Shape) -> Shape:
    if found.kind == "tuple" and len(found.items) == 2:
        return Shape("interval", items=found.items)
    return found


def _interval(low: str, high: str, closed: tuple[bool, bool] = (False, False), name: str = "") -> Shape:
    ends = tuple(Shape("atom", re.sub(r"\+\s*(?=\\infty)", "", clean(end)).strip()) for end in (low, high))
    closed = (closed[0] and "\\infty" not in ends[0].text, closed[1] and "\\infty" not in ends[1].text)
    return Shape("interval", items=ends, closed=closed, name=name)


def _bracketed(text: str) -> Shape | None:
    if text.startswith("\\{") and text.endswith("\\}") and closing(text, 1) == len(text) - 1:
        return Shape("set", items=tuple(i for part in split(text[2:-2]) for i in _expanded(shape(part))))
    if text.startswith("\\langle") and text.endswith("\\rangle"):
        text = f"({text[7:-7]})"
    found = _REVERSED.fullmatch(text)
    if found and (found[1] == "]" or found[4] == "["):  # ]a, b[
        return _interval(found[2], found[3], (found[1] == "[", found[4] == "]"))
    if not (text[:1] in ("(", "[") and text[-1:] in (")", "]") and closing(text, 0) == len(text) - 1):
        return None
    parts = split(text[1:-1], words=False)
    mixed = text[0] + text[-1]
    if len(parts) == 1:
        return shape(text[1:-1], thousands=False) if mixed == "()" and text[1:-1].strip() else None
    rows = [part.strip()[1:-1].split(",") for part in parts if part.strip().startswith("[")]
    if mixed == "[]" and len(rows) == len(parts) and len({len(row) for row in rows}) == 1:
        return Shape("matrix", text, items=tuple(shape(c) for row in rows for c in row), width=len(rows[0]))
    if len(parts) == 2 and (mixed != "()" or "\\infty" in text):
        return _interval(parts[0], parts[1], (mixed[0] == "[", mixed[1] == "]"))
    items = tuple(shape(part, thousands=False) for part in parts)
    several = _expanded(Shape("tuple", items=items))
    return several[0] if len(several) == 1 else Shape("list", items=tuple(several))


def _list(text: str, parts: list[str]) -> Shape:
    shapes = [s for part in parts for s in _expanded(shape(clean(part)))]
    moduli = {s.text.rpartition(" ")[2] for s in shapes}
    if all(s.kind == "residues" for s in shapes) and len(moduli) == 1:
        return shape(f"{', '.join(item.text for s in shapes for item in s.items)} \\pmod {moduli.pop()}")
    if (
        all(s.kind in ("interval", "union") for s in shapes)
        and _RELATION.search(text)
        and " and " not in text
        and len({s.name for s in shapes}) == 1
    ):
        return Shape("union", items=tuple(i for s in shapes for i in (s.items if s.kind == "union" else (s,))))
    return Shape("list", items=tuple(shapes))


def _equation(text: str) -> Shape:
    sides = [side.strip() for side in sides_of(text)]
    if "\\ne" in text or re.search(r"\\(?:not)(?![a-zA-Z])", text):
        return Shape("different", text)
    if len(sides) > 1 and all(sides):
        values = {value[0] for side in sides if (value := number(side)) is not None}
        if len(values) > 1 and not _NAME.fullmatch(sides[0]):  # behind a name the last value counts
            return Shape("false", text)
        lhs, rhs = sides[0], sides[-1]
        swapped = _NAME.fullmatch(rhs) if number(lhs) is None else re.fullmatch(r"[a-zA-Z]", rhs)
        if swapped and not _NAME.fullmatch(lhs) and len(sides) == 2:
            lhs, rhs = rhs, lhs
        if _COMPUTED.match(lhs):
            return shape(clean(rhs))
        if re.fullmatch(r"\([a-zA-Z\\,\s_\d]+\)", lhs) or _NAME.fullmatch(lhs) or _PARTS.fullmatch(lhs):
            return _named(shape(clean(rhs)), lhs)
        return Shape("equation", items=(Shape("atom", lhs), Shape("atom", rhs)))
    about = [side.strip() for side in _APPROXIMATE.split(text)]
    if len(about) == 2 and all(about):  # an exact value and its decimals, or a name and a value
        return _named(shape(about[1]), about[0]) if _NAME.fullmatch(about[0]) else shape(about[0])
    found = _expanded(Shape("atom", re.sub(r"^\\(?:approx|sim)(?![a-zA-Z])\s*|^=\s*", "", text).strip()))
    return found[0] if len(found) == 1 else Shape("list", items=tuple(found))


def _named(found: Shape, name: str) -> Shape:
    name = "" if name.startswith("(") else re.sub(r"\s", "", name)
    return Shape(found.kind, found.text, found.items, name, found.closed, found.width)


def _expanded(found: Shape) -> list[Shape]:
    """`a \\pm b` as two; a tuple of such as all of them."""
    if found.kind == "tuple" and any(item.kind == "list" for item in found.items):
        choices = itertools.product(*[item.items if item.kind == "list" else (item,) for item in found.items])
        return [Shape("tuple", items=tuple(c)) for c in choices]
    if found.kind == "list" and all(item.kind in ("atom", "tuple") for item in found.items):
        return list(found.items)
    if found.kind != "atom" or not re.search(r"\\(?:pm|mp)(?![a-zA-Z])", found.text):
        return [found]
    signs = (("+", "-"), ("-", "+"))
    return [
        Shape(
            "atom",
            re.sub(r"\\mp(?![a-zA-Z])", b, re.sub(r"\\pm(?![a-zA-Z])", a, found.text)).lstrip("+ "),
            name=found.name,
        )
        for a, b in signs
    ]
