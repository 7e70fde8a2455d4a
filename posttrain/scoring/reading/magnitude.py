"""How long the numbers get that computing an expression passes through, bounded from its text without computing it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import NamedTuple

_TOKEN = re.compile(
    r"(?P<number>\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d+(?!\w))?|\.\d+)|(?P<power>\^|\*\*)|(?P<open>\\\{|[(\[{])|(?P<close>\\\}|[)\]}])"
    r"|(?P<factorial>!)|(?P<frac>\\[cdt]?frac)|(?P<binom>\\[dt]?binom)|(?P<exp>\\exp|\\(?:sin|cos|tan|cot)h)|(?P<gamma>\\Gamma)|(?P<over>/|\\div(?![a-zA-Z])|÷)"
    r"|(?P<plus>[-+,;=<>&−]|\\\\)|\\[a-zA-Z]+|(?P<letter>[a-zA-Z])"
)
_DEEPEST = 150  # brackets and commands in one another; deeper is as good as endless
_HUGE = 300.0  # above this 10 to the power of a logarithm would overflow


class Size(NamedTuple):
    """Logarithms to base 10: of a bound of the value, and of numerator times denominator."""

    value: float = 0.0
    length: float = 0.0

    def to(self, exponent: Size) -> Size:
        times = 10 ** min(exponent.value, _HUGE)
        return Size(self.length * times, self.length * times)

    def over(self, other: Size, value: float) -> Size:
        return Size(max(0.0, self.value + value), self.length + other.length)


_LETTER = Size(0.5, 0.5)  # as if it were 3


def digits(text: str) -> float:
    """About how many digits the longest number has, at most; a letter counts as 3."""
    return _Reader(text).longest()


class _Reader:
    """Sums of products of atoms, read from left to right."""

    def __init__(self, text: str) -> None:
        self.tokens = [(t.lastgroup, t.group()) for t in _TOKEN.finditer(text) if t.lastgroup]
        self.at = 0
        self.largest = 0.0
        self.level = 0

    def longest(self) -> float:
        while self.at < len(self.tokens):
            self._sum()
            self.at += 1  # a bracket that closes nothing
        return self.largest

    def _kind(self) -> str | None:
        return self.tokens[self.at][0] if self.at < len(self.tokens) else "close"

    def _noted(self, size: Size) -> Size:
        self.largest = max(self.largest, *size)
        return size

    def _sum(self) -> Size:
        terms = [Size()]
        while (kind := self._kind()) != "close":
            if kind == "plus":
                self.at += 1
                terms.append(Size())
            elif kind == "over":
                self.at += 1
                terms[-1] = self._over(terms[-1], self._atom)
            else:
                factor = self._atom()
                terms[-1] = self._noted(terms[-1].over(factor, factor.value))
        count = math.log10(len(terms))
        return self._noted(Size(max(term.value for term in terms) + count, sum(term.length for term in terms) + count))

    def _over(self, above: Size, read: Callable[[], Size]) -> Size:
        start, below = self.at, read()
        whole = all(kind != "power" and "." not in token for kind, token in self.tokens[start : self.at])
        return self._noted(above.over(below, -below.value if whole else below.length))

    def _atom(self) -> Size:
        """With the powers and factorials of it."""
        self.level += 1
        size = self._behind(self._plain())
        self.level -= 1
        return size

    def _argument(self) -> Size:
        self.level += 1
        size = self._plain()
        self.level -= 1
        return size

    def _plain(self) -> Size:
        """A number, a letter, a group, a fraction or a binomial."""
        if self.level > _DEEPEST:
            self.at = len(self.tokens)
            return self._noted(Size(math.inf, math.inf))
        kind, token = self._kind(), self.tokens[self.at][1] if self.at < len(self.tokens) else ""
        if kind == "close":
            return Size()
        self.at += 1
        size = Size()
        if kind == "number":
            size = _literal(token)
        elif kind == "letter":
            size = _LETTER
        elif kind == "open":
            size = self._sum()
            self.at += 1
        elif kind == "frac":
            size = self._over(self._argument(), self._argument)
        elif kind == "binom":
            n, k = self._argument(), self._argument()
            chosen = min(0.31 * 10 ** min(n.value, _HUGE), n.value * 10 ** min(k.value, _HUGE))
            size = Size(chosen, chosen)
        elif kind == "exp":
            size = _LETTER.to(self._atom())
        elif kind == "gamma":
            size = _factorial(self._atom())
        return self._noted(size)

    def _behind(self, size: Size) -> Size:
        while (kind := self._kind()) in ("power", "factorial"):
            self.at += 1
            if kind == "factorial":
                size = self._noted(_factorial(size))
                continue
            while self._kind() == "plus":  # a sign
                self.at += 1
            size = self._noted(size.to(self._atom()))
        return size


def _factorial(of: Size) -> Size:
    grown = of.value * 10 ** min(of.value, _HUGE)
    return Size(grown, grown)


def _literal(token: str) -> Size:
    figures, _, ten = token.replace(",", "").lower().partition("e")
    whole, _, part = figures.partition(".")
    power = int(ten or 0) if len(ten) < 9 else 10**9
    first = math.log10(int(whole[:15])) + max(0, len(whole) - 15) if whole[:15].strip("0") else 0.0
    return Size(max(0.0, first + power), first + len(part) + abs(power))
