"""Short answers read without computer algebra: exact numbers, words, and what is too large to try."""

from __future__ import annotations

import re
from fractions import Fraction

from posttrain.scoring.reading.magnitude import digits

_WRAPPER = re.compile(r"\\(?:text(?:bf|it|rm|normal)?|math(?:rm|bf|it)|mbox|operatorname)\s*\{([^{}]*)\}")
_SPACING = re.compile(r"(?<!\\)\\[,;: ]|~|\\q?quad\b")
_NOTHING = re.compile(r"(?<!\\)\\!|\\(?:left|right|displaystyle)(?![a-zA-Z])")
_BLANK = re.compile(r"(?<![0-9])\s+|\s+(?![0-9])")  # but `3 1/2` is not `31/2`
_DELIMITERS = re.compile(r"^(?:\$\$?|\\\(|\\\[)|(?:\$\$?|\\\)|\\\])$")


def plain(text: str) -> str:
    """The answer without dollar signs around it, spacing commands and a final full stop; blanks are kept."""
    text = _NOTHING.sub("", _SPACING.sub(" ", text))
    text = text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").replace("{,}", ",").strip()
    text = _DELIMITERS.sub("", text).strip()
    return text if text.endswith("..") else text.rstrip(".,; ")


def tight(text: str) -> str:
    """`plain` without blanks that mean nothing: two answers with the same tight form are the same answer."""
    return _BLANK.sub("", plain(text))


_INTEGER = r"(?:\d+|[1-9]\d{0,2}(?:,\d{3})+|[1-9]\d{0,2}(?: \d{3})+)"
_NUMBER = re.compile(
    rf"(?P<sign>[-+−]?)\s*(?:\\?\$\s*)?(?:"
    rf"(?P<whole>{_INTEGER})(?P<point>\.\d*)?|(?P<bare>\.\d+)"
    r"|(?P<units>\d+)?\s*\\frac\s*(?:\{\s*(?P<top>[-−]?\d+)\s*\}\s*\{\s*(?P<bottom>\d+)\s*\}|(?P<top1>\d)\s*(?P<bottom1>\d))"
    r"|(?:(?P<units2>\d+)[^\S\r\n]+)?(?P<top2>\d+)\s*/\s*(?P<bottom2>\d+)"
    r")(?:\s*(?:\\times|\\cdot|\*|×)\s*10\s*(?:\^|\*\*)\s*\{?\s*(?P<ten>[-+−]?\d{1,4})\s*\}?|[eE](?P<e>[-+]?\d{1,4}))?",
    re.ASCII,
)


def number(text: str) -> tuple[Fraction, bool] | None:
    """An exact value and whether it was written exactly (a decimal may be rounded); None for anything else.

    Integers with or without thousands separators, decimals, fractions, mixed numbers, powers of ten, dollars.
    """
    found = _NUMBER.fullmatch(text) if len(text) < 4000 else None  # Python reads no integer above 4300 digits
    if found is None:
        return None
    part = found.groupdict()
    exact = not (part["point"] or part["bare"])
    if part["whole"] is not None or part["bare"] is not None:
        whole = (part["whole"] or "0").replace(",", "").replace(" ", "")
        value = Fraction(whole + (part["point"] or part["bare"] or ""))
    else:
        top = (part["top"] or part["top1"] or part["top2"]).replace("−", "-")
        bottom = part["bottom"] or part["bottom1"] or part["bottom2"]
        units = part["units"] or part["units2"] or "0"
        if int(bottom) == 0 or (int(units) and not 0 <= int(top) < int(bottom)):
            return None
        value = int(units) + Fraction(int(top), int(bottom))
    power = int((part["ten"] or part["e"] or "0").replace("−", "-"))
    return (-value if part["sign"] in ("-", "−") else value) * Fraction(10) ** power, exact


def close(a: Fraction, b: Fraction) -> bool:
    """Equal to six decimals and to four significant digits: 0.333333 is 1/3, and 1e-7 is not 2e-7."""
    apart = abs(a - b)
    return apart <= Fraction(1, 2 * 10**6) and apart <= Fraction(1, 10**4) * max(abs(a), abs(b))


RATIO = re.compile(r"\s*\d+(?:\.\d+)?(?:\s*:\s*\d+(?:\.\d+)?)+\s*")


def same_ratio(gold: str, answer: str) -> bool:
    """Whether 18:8 is 9:4, or their quotient."""
    ours, theirs = ([number(plain(part)) for part in text.split(":")] for text in (gold, answer))
    if any(part is None or part[0] == 0 for part in [*ours, *theirs]):
        return False
    one, two = ([part[0] for part in parts if part] for parts in (ours, theirs))
    if len(one) == 2 and len(two) == 1:
        return one[0] / one[1] == two[0]
    if len(one) == 1 and len(two) == 2:
        return two[0] / two[1] == one[0]
    return len(one) == len(two) and all(a * two[0] == b * one[0] for a, b in zip(one, two, strict=True))


CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"  # scripts that are written without blanks
_ALPHABETS = f"A-Za-zÀ-ɏЀ-ӿ{CJK}"
_WORDS = re.compile(rf"[{_ALPHABETS}][{_ALPHABETS}\d\s.,;'’&/()。，、-]*")
_CHOICE = re.compile(r"(?:[Oo]ption|[Cc]hoice)?\s*\(?\s*([A-Z])\s*\)?\s*[.:]?")
_LETTER = re.compile(r"(?:option|choice)?\s*\(?\s*([a-z])\s*\)?\s*[.:]?", re.IGNORECASE)
_LETTERS = re.compile(rf"[A-Za-zÀ-ɏЀ-ӿ]{{3,}}|[{CJK}]")
_STARTS = re.compile(rf"[A-Za-z]{{3,}}[\s,.]|[{CJK}]")  # with words, and not 5 as in 5 cm
_WORD = re.compile(rf"[a-zà-ɏѐ-ӿ{CJK}]+|\d+|,")
_DAY = re.compile(
    r"(\d{1,2})(?:st|nd|rd|th)?\s+(?:of\s+)?(January|February|March|April|May|June|July|August|September|October|November"
    r"|December)\b(.{0,20})"
)
_SAME = {  # one way of saying it
    "dne": "doesnotexist", "emptyset": "nosolution", "theemptyset": "nosolution", "thereisnosolution": "nosolution",
    "therearenosolution": "nosolution", "nosolutionexist": "nosolution", "notdefined": "undefined", "无解": "nosolution",
    "方程无解": "nosolution", "不存在": "doesnotexist", "thereareinfinitelymany": "infinitelymany",
}  # fmt: skip
_SUBJECT = re.compile(
    r"(?:the)?(?:limit|serie|sequence|integral|improperintegral|sum|product)(?=doe|diverge|converge|i(?:s|nf))"
)
_NAMES = {
    "infinity", "inf", "sqrt", "sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "log", "exp", "abs",
    "max", "min", "gcd", "lcm", "mod", "percent",
}  # fmt: skip


def unwrapped(text: str) -> str:
    """`plain` without \\text{} and the like around words."""
    text = plain(text)
    for _ in range(3):  # wrappers within wrappers
        text = _WRAPPER.sub(r"\1", text)
    return plain(text)


def choice(text: str, bare: bool = False) -> str | None:
    """The letter of (B), `\\text{B}`, Option B or B, in lower case; None for anything else. With `bare` also of b."""
    found = (_LETTER if bare else _CHOICE).fullmatch(unwrapped(text))
    return found.group(1).lower() if found else None


def words(text: str) -> str | None:
    """A text answer (Evelyn, `\\text{no solution}`, June 20) in a form to compare; None for mathematics.

    math-verify reads words as products of letters, in which every anagram is equal.
    """
    bare = unwrapped(text)
    if bare == "\\emptyset":
        return "nosolution"
    if dated := _DAY.fullmatch(bare):
        bare = f"{dated[2]} {dated[1]}{dated[3]}"
    if not _WORDS.fullmatch(bare):
        return None
    runs = _LETTERS.findall(bare) or (["no"] if bare.lower() == "no" else [])
    if not runs or any(run.lower() in _NAMES for run in runs):
        return None
    if re.search(r"\d", bare) and not _STARTS.match(bare):
        return None
    bare = re.sub(
        r",(?=\s*\d{4}\b)|(?<=\d)(?:st|nd|rd|th)\b|^(?:[Aa]n?|[Tt]he)\s+(?=[a-z]{3})", "", bare
    )  # May 5th, 2020
    found = "".join(word[:-1] if len(word) > 4 and word.endswith("s") else word for word in _WORD.findall(bare.lower()))
    said = _SUBJECT.sub("", found.strip(","), count=1)
    return _SAME.get(said, said)


_SPELLED = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_SPELLED += ["thirteen", "fourteen", "fifteen", "sixteen"]
_PARTS = {
    "half": "1/2", "one half": "1/2", "a half": "1/2", "one third": "1/3", "two thirds": "2/3", "one quarter": "1/4",
    "one fourth": "1/4", "three quarters": "3/4", "three fourths": "3/4",
}  # fmt: skip
_DECIMAL_COMMA = re.compile(r"([-+]?\d+),(\d+)")


def spelled(text: str) -> str:
    """`five` as 5; anything else as it is."""
    word = unwrapped(text).lower() if len(text) < 40 else ""
    return str(_SPELLED.index(word)) if word in _SPELLED else _PARTS.get(word.replace("-", " "), text)


def decimal_comma(text: str) -> str | None:
    """`2,74` as 2.74; None where the comma can only stand between thousands or there is none."""
    found = _DECIMAL_COMMA.fullmatch(text.strip())
    return f"{found[1]}.{found[2]}" if found and (len(found[2]) != 3 or found[1].lstrip("-+") == "0") else None


def letters(text: str) -> list[str]:
    """The letters of ABD, `A, B, D` or `B and A`, in one order; empty for anything else."""
    bare = unwrapped(text)
    if not re.fullmatch(r"[A-J]{2,8}|[A-J](?:\s*(?:,|;|and|&)\s*(?:and\s+)?[A-J]){1,7}", bare):
        return []
    return sorted(re.findall(r"[A-J]", bare))


def listed(text: str) -> list[str]:
    """The parts of `I and III` or `12 boys and 15 girls`, in one order; empty for anything else."""
    parts = re.split(r"\s*,\s*(?:and\s+)?|\s+and\s+", unwrapped(text))
    if len(parts) < 2 or not all(re.fullmatch(r"[A-Za-z0-9 ]*[A-Za-z][A-Za-z0-9 ]*", part) for part in parts):
        return []
    return sorted(" ".join(part.lower().split()) for part in parts)


_IMPROPER = re.compile(r"[-+]?\d+(?:\s+(\d+)\s*/\s*(\d+)|\s*\\frac\s*\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\})")


def improper(text: str) -> bool:
    """Whether a mixed number is none, such as 11 7/6 or 4 4/0."""
    found = _IMPROPER.fullmatch(text.strip())
    return found is not None and int(found[1] or found[3]) >= int(found[2] or found[4])


_EXPONENT = re.compile(r"(?:\^|\*\*)\s*\{?\s*[-+]?\s*\(?(\d[\d,]*)")
_BIG_FACTORIAL = re.compile(r"\d{4,}\}?\s*!|(?<![a-zA-Z])(?<![(\s][a-z][-+]\d)[)}\]]\s*!|!\s*!")


_CHOOSES, _MANY_DIGITS, _OPERATION = re.compile(r"binom|choose"), re.compile(r"\d{5}"), re.compile(r"[-+*/^]")
_LONG_NUMBER = re.compile(r"\d{200}")
_UNENDING = re.compile(
    r"\\(?:i*int|oint|lim|prod)(?![a-zA-Z])|\\sum(?![a-zA-Z])[^a-zA-Z]*[a-zA-Z]?[^a-zA-Z]*\d{4,}|\\sum[^=]*=[^^]*\^\{[^}]*\^"
)
_EXPANDED = re.compile(  # (x+1)^{99}, and not (1+\frac{1}{12})^{99}
    r"\((?=(?:[^()a-zA-Z\\]|\\(?:[cdt]?frac|cdot|times|right)(?![a-zA-Z]))*(?!\\(?:[cdt]?frac|cdot|times|right)(?![a-zA-Z]))[a-zA-Z\\])"
    r"[^()]*[-+][^()]*\)\s*\^\s*\{?\s*(\d{2,4})|\\(?:sin|cos|tan|cot|sec|csc)\s*\^\s*\{?\s*(\d{2,4})"
)


_DIGITS = 20_000


def oversized(text: str, max_depth: int = 16) -> str | None:
    """Why evaluating this would take for ever (towers of powers, huge factorials, deep nesting), or None."""
    if depth(text) > max_depth:
        return f"nested more than {max_depth} deep"
    if any(len(m.replace(",", "")) >= 5 for m in _EXPONENT.findall(text)):
        return "an exponent of five digits or more"
    if _LONG_NUMBER.search(text):
        return "a number of 200 digits or more"
    if len(_OPERATION.findall(text)) > 150:
        return "more than 150 operations"
    if digits(text) > _DIGITS:
        return f"a number of more than {_DIGITS} digits"
    if _BIG_FACTORIAL.search(text) or (_CHOOSES.search(text) and _MANY_DIGITS.search(text)):
        return "a huge factorial"
    if _UNENDING.search(text):
        return "an integral, a limit or a long sum"
    if any(int(power) > 40 for found in _EXPANDED.findall(text) for power in found if power):
        return "a high power of a sum or a function"
    return None


def depth(text: str) -> int:
    level = deepest = 0
    for character in text:
        if character in "([{":
            level += 1
            deepest = max(deepest, level)
        elif character in ")]}":
            level -= 1
    return deepest
