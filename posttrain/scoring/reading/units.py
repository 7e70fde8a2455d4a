"""Words around a number: 5 cm is 5 and 5 centimeters, but neither 5 m nor 5 cm^2 nor 5 halves."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

from posttrain.scoring.reading.answers import CJK, unwrapped

# spelling: (what is measured, its size there)
_TABLE: dict[str, tuple[str, str]] = {}


def _unit(kind: str, size: str, *names: str) -> None:
    for name in names:
        _TABLE[name] = (kind, size)


_unit("length", "1", "m", "meter", "metre")
_unit("length", "1/100", "cm", "centimeter", "centimetre")
_unit("length", "1/1000", "mm", "millimeter", "millimetre")
_unit("length", "1000", "km", "kilometer", "kilometre")
_unit("length", "254/10000", "in", "inch", "inche")
_unit("length", "3048/10000", "ft", "foot", "feet")
_unit("length", "9144/10000", "yd", "yard")
_unit("length", "1609344/1000", "mi", "mile")
_unit("time", "1", "s", "sec", "second")
_unit("time", "60", "min", "minute")
_unit("time", "3600", "h", "hr", "hour")
_unit("time", "86400", "day")
_unit("time", "604800", "week", "wk")
_unit("month", "1", "month")
_unit("month", "12", "year", "yr")
_unit("mass", "1", "g", "gram")
_unit("mass", "1000", "kg", "kilogram")
_unit("mass", "1/1000", "mg", "milligram")
_unit("weight", "1", "lb", "pound")
_unit("weight", "1/16", "oz", "ounce")
_unit("money", "1", "dollar", "usd", "buck")
_unit("money", "1/100", "cent", "¢")
_unit("euro", "1", "euro")
_unit("yen", "1", "yen")
_unit("rupee", "1", "rupee")
_unit("volume", "1", "liter", "litre", "l")
_unit("volume", "1/1000", "ml", "milliliter", "millilitre")
_unit("cup", "1", "cup")
_unit("cup", "1/16", "tablespoon", "tbsp")
_unit("cup", "1/48", "teaspoon", "tsp")
_unit("cup", "16", "gallon", "gal")
_unit("angle", "1", "degree", "deg")
_unit("radian", "1", "radian", "rad")
_unit("celsius", "1", "c", "celsius")
_unit("fahrenheit", "1", "f", "fahrenheit")
_unit("energy", "1", "j", "joule")
_unit("power", "1", "w", "watt")
_unit("force", "1", "n", "newton")
_unit("voltage", "1", "v", "volt")
_unit("frequency", "1", "hz", "hertz")
_unit("temperature", "1", "k", "kelvin")
_unit("amount", "1", "mol", "mole")

# how they are written in Chinese
_CHINESE = {
    "毫米": "mm", "厘米": "cm", "公分": "cm", "米": "m", "公尺": "m", "千米": "km", "公里": "km", "英里": "mile", "英尺": "foot",
    "英寸": "inch", "克": "g", "千克": "kg", "公斤": "kg", "毫克": "mg", "磅": "lb", "秒": "s", "分钟": "min", "小时": "hour",
    "天": "day", "周": "week", "个月": "month", "年": "year", "升": "liter", "毫升": "ml", "度": "degree", "元": "yuan",
    "美元": "dollar", "欧元": "euro", "美分": "cent", "平方米": "square m", "平方厘米": "square cm", "平方千米": "square km",
    "平方公里": "square km", "立方米": "cubic m", "立方厘米": "cubic cm",
}  # fmt: skip
_unit("yuan", "1", "yuan", "rmb", "cny")
_SIGNS = {"$": "dollar", "€": "euro", "£": "pound", "¥": "yen", "₹": "rupee"}
Unit = tuple[tuple[tuple[str, int], ...], Fraction] | None  # powers of what is measured, and size; None: not known

_TAIL = re.compile(
    r"(?P<unit>\\text\{[^{}]*[a-zA-Z][^{}]*\}(?:\s*(?:\\text\{[^{}]*\}|/|\^\s*\{?\s*-?\d\s*\}?|\\cdot(?![a-zA-Z])))*\s*)$"
)
_PLAIN = re.compile(
    r"(?<=[\d)}\s])\s*(?P<unit>(?:[a-z]+\s+){0,3}[a-zA-Z]{2,}(?:/[a-zA-Z]+)?(?:\^\{?[23]\}?)?|[a-z]+/[a-z]+)$"
)
_LETTER = re.compile(r"([-+]?[\d.,/]+)\s+([msghJWNVKL])")  # behind a blank; 5m is a product
_FOREIGN = re.compile(rf"(?<=[\d)}}%])\s*(?P<unit>[{CJK}]+(?:/[{CJK}]+)?)$")
_NUMERALS = re.compile("[十百千万亿兆半倍余多以不非或至到约未超少于大小每分之负零〇一二两三四五六七八九点]")
_WORD = re.compile(r"([a-zA-Z¢]+)\s*(?:\^\s*\{?\s*(-?\d)\s*\}?)?|(/)|(\bper\b)")
_AMOUNT = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)\s*([a-zA-Z]+)(?:\s*,\s*(?:and\s+)?|\s+and\s+|\s+|$)")
_QUALIFIERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_ALIASES = {"mph": "mile per hour", "kph": "km per hour", "kmh": "km per hour", "fps": "feet per second"}


# words that change what a number says, before or behind it
_CHANGING = re.compile(
    r"n['’]t\b|\b(?:not?|never|cannot|neither|nor|unequal|more|less|fewer|greater|smaller|least|most|than|over|under|above|"
    r"below|between|up to|before|after|beyond|within|until|or|and|but|either|except|excluding|other|nearly|almost|maybe|"
    r"perhaps|possibly|half|twice|times|plus|minus|negative|factorial|squared|cubed|if|when|mod|modulo|base|pairs?|too|"
    r"undefined|impossible|none|wrong|incorrect|false|fails?|invalid|excluded|rejected|inverse|reciprocal|"
    r"(?:square|cube|cubic|nth|th) root|raised|power|at (?:min|max)imum)\b",
    re.IGNORECASE,
)
_COUNTED = "two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twent|thirt|fort|fift|sixt|sevent|eight|ninet"
# behind a number: so many of them are another number
_SCALING = re.compile(
    rf"\b(?:one|zero|(?:{_COUNTED})(?:s|y|ies|ys|een|eens)?|hundreds?|thousands?|\w*illions?|lakhs?|lacs?|crores?|dozens?|"
    r"gross|score|grand|googol|myriads?|bn|mn|mln|mil|half|halves|thirds?|quarters?|fourths?|(?:fif|six|seven|eigh|nin|ten|"
    r"eleven|twelf|\w+teen|\w+tie|\w*hundred|\w*thousand|\w+illion)ths?|doubled?|tripled?|quadrupled?|halved|"
    r"log|ln|sqrt|per ?mille?|ppm|ppb|basis points?)\b",
    re.IGNORECASE,
)
_MULTIPLES = {"k", "M", "B"}  # 5k and 5M; kelvin is K, and meters are m
_LEAD = re.compile(r"^(?:\\text\{([^{}\\]*)\}|(there (?:are|is)))\s*(?=[-\d\\.])", re.IGNORECASE)
_STATES = re.compile(
    r"(?::|=|\b(?:is|are|be|equals?|equal to|was|were|has|have|gets?|needs?|pays?|costs?))\s*$", re.IGNORECASE
)
_STATING = {
    "a", "all", "about", "altogether", "an", "answer", "approximately", "approx", "around", "choice", "exactly", "final",
    "hence", "in", "just", "of", "only", "option", "result", "roughly", "so", "solution", "the", "therefore", "thus", "total",
    "value", "year", "number",
}  # fmt: skip


def changing(unit: str) -> bool:
    """Whether the words behind a number make another number or no answer of it: 5 halves, 5 at most."""
    foreign = "".join(part for part in re.split(r"[\s/]", unit) if part not in _CHINESE)
    return (
        bool(_CHANGING.search(unit) or _SCALING.search(unit) or _NUMERALS.search(foreign)) or unit.strip() in _MULTIPLES
    )


def unled(gold: str, answer: str) -> tuple[str, str]:
    """Both without `there are`, `the answer is` and the like; other words stay unless the reference has them too."""
    ours, theirs = _LEAD.match(gold), _LEAD.match(answer)
    if ours and theirs and ours.group().split() == theirs.group().split():
        return gold[ours.end() :], answer[theirs.end() :]
    if ours and not _CHANGING.search(ours.group()):
        gold = gold[ours.end() :]
    said = (theirs[1] or theirs[2] or "").strip() if theirs else ""
    states = _STATES.search(said) or set(re.findall(r"[^\s,.]+", said.lower())) <= _STATING
    return gold, answer[theirs.end() :] if theirs and states and not _CHANGING.search(said) else answer


def take(text: str) -> tuple[str, str]:
    """An answer without its unit, and the unit as it is written (empty if there is none)."""
    money = re.match(r"^([-+]?)\s*\\?\$\s*(?=[\d.])", text)
    if money:
        return money.group(1) + text[money.end() :].strip(), "dollar"
    if money := re.fullmatch(r"(.*\d)\s*\\?([$€£¥₹])", text):
        return money[1].strip(), _SIGNS[money[2]]
    if money := re.match(r"([-+]?)\s*([€£¥₹])\s*(?=[\d.])", text):
        return money[1] + text[money.end() :].strip(), _SIGNS[money[2]]
    if text.rstrip().endswith("^\\circ") and not re.search(r"\\(?:sin|cos|tan|cot|sec|csc)", text):
        return text.rstrip().removesuffix("^\\circ").strip(), "degree"
    if found := re.search(r"\^\\circ\s*([CF])$", text):
        return text[: found.start()].strip(), found[1]
    if found := _LETTER.fullmatch(text):
        return found[1], found[2]
    if found := _FOREIGN.search(text):
        return text[: found.start()].strip(), found["unit"]
    found = _TAIL.search(text)
    if found is None or not text[: found.start("unit")].strip():
        found = _PLAIN.search(text)
        # letters without a command are a product unless they spell a unit
        if found is None or not re.search(r"\d", text[: found.start("unit")]) or not _spells(found["unit"]):
            return text, ""
    value = text[: found.start("unit")].strip()
    return re.sub(r"\^\s*\\circ$", "", value).strip() if value else text, _words(found["unit"])


def read(unit: str) -> Unit:
    """What a written unit measures; None when a word in it is no unit."""
    powers: dict[str, int] = {}
    size, sign, qualifier = Fraction(1), 1, 1
    for token in _WORD.finditer(_aliased(unit)):
        word = (token.group(1) or "").lower()
        if token.group(3) or word == "per":
            sign = -1
        elif word in _QUALIFIERS:
            qualifier = _QUALIFIERS[word]
        elif known := _TABLE.get(word) or _TABLE.get(word.removesuffix("s")):
            power = sign * int(token.group(2) or qualifier)
            powers[known[0]] = powers.get(known[0], 0) + power
            size *= Fraction(known[1]) ** power
            qualifier = 1
        else:
            return None
    return (tuple(sorted((k, p) for k, p in powers.items() if p)), size) if powers else None


class Total(NamedTuple):
    """A sum of amounts: what is measured, how much of it, and of how many terms."""

    kind: tuple[tuple[str, int], ...]
    size: Fraction
    terms: int


def total(text: str) -> Total | None:
    """`2 hours and 30 minutes` as one amount; None for anything but amounts of one kind."""
    bare = unwrapped(text) if len(text) < 200 else ""
    amounts = _AMOUNT.findall(bare)
    measured = [(Fraction(value), read(unit)) for value, unit in amounts]
    known = [(value * unit[1], unit[0]) for value, unit in measured if unit is not None]
    if not known or len(known) < len(amounts) or _AMOUNT.sub("", bare).strip() or len({kind for _, kind in known}) > 1:
        return None
    return Total(known[0][1], sum((value for value, _ in known), Fraction(0)), len(known))


def _aliased(unit: str) -> str:
    unit = re.sub(r"\bdegrees?\s+(?=celsius|fahrenheit)", "", unit, flags=re.IGNORECASE)
    unit = re.sub(rf"[{CJK}]+", lambda found: f" {_CHINESE.get(found[0], found[0])} ", unit)
    return " ".join(_ALIASES.get(word.lower(), word) for word in unit.split())


def _words(unit: str) -> str:
    return re.sub(r"\\text\{([^{}]*)\}", r" \1 ", unit).replace("\\cdot", " ").strip()


def _spells(unit: str) -> bool:
    words = re.fullmatch(r"[a-z]{3,}(?:\s+[a-z]{2,})*", unit) is not None
    return read(unit) is not None or (words and unit not in ("pi", "sin"))
