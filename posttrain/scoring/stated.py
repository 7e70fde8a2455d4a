"""The answer of a completion that puts it in no box: in tags, in so many words, or the last value there is."""

from __future__ import annotations

import re

from posttrain.scoring.boxed import joins

_TAGGED = re.compile(
    r"<answer>((?:(?!</?answer>).){1,2000})</answer>|<\|begin_of_box\|>((?:(?!<\|).){1,2000})<\|end_of_box\|>",
    re.DOTALL,
)
_STATED = re.compile(
    r"(?:(?:[Aa]nswer|ANSWER|correct (?:option|choice))\**\s*(?:is|:|=|##)\s*:?|####\s*:?|(?:答案|答)(?:是|为|為|[:：])\s*[:：]?)"
    r"\**\s*(?=([^\n]{1,400}))"
)
_FORMULA = re.compile(
    r"\$\$([^$]{1,1000})\$\$|\$([^$]{1,1000})\$|\\\(((?:(?!\\[()]).){1,1000})\\\)|\\\[((?:(?!\\[\[\]]).){1,1000})\\\]",
    re.S,
)
_BARE = re.compile(r"\\boxed\s+([^\s{$]+)|(?:(?<![\\A-Za-z])boxed\s*|□)\{([^{}]{1,200})\}")
_PLAIN = re.compile(
    r"(?<![A-Za-z\d_.\\{])-?\\?\$?(?:\d*\\[dtc]?frac\s*\{-?\d+\}\s*\{\d+\}|(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:/\d+|[eE][-+]?\d+(?!\w))?)(?:\s*\\?%)?"
)
_CODE = re.compile(r"__\w+__|\blambda\b|\b(?:open|eval|exec|globals|getattr)\s*\(")  # a line of it is no answer
_AMOUNTS = re.compile(r"(?:\d{1,9}(?:\.\d{1,9})?\s+[a-zA-Z]+(?:,?\s+(?:and\s+)?|$)){2,4}")  # 2 hours 30 minutes
_OPTION = re.compile(r"\([A-J]\)")
_CHOICE = re.compile(r"\(([A-J])\)|(?<![A-Za-z'’])([B-HJ]|A(?=\W*$))(?![A-Za-z'’])")
_LETTER = re.compile(r"\**\(?([A-J])\)?[.:,]?\**(?=\s+(?:is|because|since|as|[a-z]+ing)\b|\s*$)")
_STARS = re.compile(r"\*\*\s*([^*]+?)\s*\*\*")
_LEAD = re.compile(
    r"(?:(?:hence|so|thus|therefore|finally|then|and|we (?:get|have|find|obtain|conclude))(?:[,:]|\b(?!\s*is\b))\s*)+(?=\S)",
    re.IGNORECASE,
)
_VERDICT = re.compile(r"(yes|no|true|false)[,.]", re.IGNORECASE)
_ANSWERS = re.compile(r"<answer>((?:(?!</?answer>).)*)</answer>", re.DOTALL)
_ASIDE = re.compile(
    r"(?:,|(?<=[\d$)}%*\]])|(?<=\b[A-J]))\s+not\s|,?\s+(?:because|since|instead of|rather than)\s|\.(?:\s|$)|。|\*\*|<\|"
)
_COPULA = re.compile(r"(?:\b(?:is|are|equals?|be)\b|=|:|是|为|為|等于)\s*(?=\S)")
_CJK = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
_NONE = re.compile(
    r"\b(?:no (?:real |integer |positive )?solutions?|does(?: not|n['’]t) exist|infinitely many(?: solutions)?|"
    r"undefined|diverges)\b",
    re.IGNORECASE,
)
_NO_PROSE = re.compile(
    r"\\(?:text|textbf|mathrm|mbox|operatorname)\s*\{[^{}]*\}|\\(?:begin|end)\s*\{\w+\}|\\[a-zA-Z]+|\b(?:or|and|to|in|pi|sqrt|infinity|inf|sin|cos|tan|log|ln)\b"
)
_ONE = (
    r"(?:\$[^$\n]{1,200}\$|\\\([^\n]{1,200}?\\\)|\(?\b[A-J]\b\)?"
    r"|(?<![\d.,])-?\\?\$?(?:\d[\d,]{0,60}(?:\.\d{1,60})?|\.\d{1,60})(?:/\d{1,60})?(?!\d)\\?%?)"
)
_FALSE = r"(?i:wrong|incorrect|false|impossible|invalid|(?:not|n['’]t) (?:the|an?|right|correct|it|valid|possible)\b)"
# values that are named to say that they are not the answer
_DENIED = re.compile(
    r"(?:\b(?i:not|never|cannot|neither|nor|no longer|anything but|(?:rather|other) than|instead of|except|excluding)|n['’]t)"
    r"(?i:\s+(?:equal|to|be|is|necessarily|simply|just|exactly|the|answer|an?|option|choice))*[\s:*(]+" + _ONE
    + rf"|{_ONE}[\s*]*(?:,?\s+(?i:but\s+)?(?i:that|this|it|which)?\s*\b(?i:is|was|are)|(?<=[\d$)A-J])\s+(?=is))\s*{_FALSE}"
    + rf"|{_ONE}[\s*]*\?\W*(?i:no|nope|not)\b|\b(?i:between)\s+{_ONE}\s+and\s+{_ONE}|(?:不是|并非|不等于|不为|而非)\s*{_ONE}"
)  # fmt: skip
_INEXACT = re.compile(r"\W*(?:strictly\s+)?(?:less|more|greater|fewer|smaller|larger)\s+than\b", re.IGNORECASE)
_EITHER = re.compile(r"^\W*(?:either|both)\s+", re.IGNORECASE)
_OPENING = re.compile(r"[\s,.;:*]*(?:(?:but|rather|instead|either|both)\b\s*)*", re.IGNORECASE)
_OR = re.compile(rf"{_ONE}\s+or\s+$")
TAIL = 20_000  # characters from the end that are looked at


def behind_reasoning(completion: str) -> str:
    """What stands behind the last </think>: what was thought on the way is no answer. All of it where none ends."""
    return completion.rpartition("</think>")[2]


def tagged(text: str) -> list[str]:
    """The contents of every <answer>...</answer> near the end."""
    return [found.strip() for found in _ANSWERS.findall(text[-TAIL:])]


def lenient(text: str) -> list[str]:
    """An answer that stands in no box: in tags, behind `answer is`, all that there is, or the last formula or number."""
    tail = text[-TAIL:].strip().replace("−", "-")
    if named := _BARE.findall(tail):
        return [next(part for part in named[-1] if part).strip()]
    if given := _TAGGED.findall(tail):
        said = _affirmed(next(part for part in given[-1] if part))
    elif statements := list(_STATED.finditer(tail)):
        said = _stated(tail, statements)
    else:
        return _unsaid(tail)
    return [said if _INEXACT.match(said) else _within(said)] if said else []


def _stated(text: str, statements: list[re.Match[str]]) -> str:
    """What the last statement says; where it only says what is not the answer, the one before it in the same line."""
    end = len(text)
    for found in reversed(statements):
        if found.end(1) < end < len(text):
            break
        if said := _affirmed(text[found.end() : min(end, found.end(1))]):
            return said
        end = found.start()
    return ""


def _unsaid(tail: str) -> list[str]:
    """The answer of a text that does not say which it is."""
    tail = _DENIED.sub(" ", tail)
    if _CODE.search(tail.rpartition("\n")[2]):
        return []
    if bare(said := _LEAD.sub("", tail, count=1)):
        return [undressed(said)]
    sentence = _last_value(tail)
    return [sentence] if sentence else []


def _affirmed(text: str) -> str:
    """What a statement says the answer is, without what it says it is not; empty if only that."""
    kept = re.sub(r"\(\W*\)", "", _DENIED.sub(" ", text))
    kept = kept[found.end() :] if kept != text and (found := _OPENING.match(kept)) else _EITHER.sub("", kept)
    return kept.strip() if re.search(r"\w|\\", kept) else ""


def bare(text: str) -> bool:
    """Whether a text is an answer and nothing else: no sentence around it, at most a few words behind it."""
    if _AMOUNTS.fullmatch(text):
        return True
    if _OPTION.search(text) and re.search(r"[a-z]{3}", text):
        return False
    if len(text) > 300 or re.search(r"[.!?]\s+[A-Z]|\n\n", text) or ("\n" in text and "\\begin" not in text):
        return False
    if foreign := _CJK.findall(text):  # a few characters are an answer; beside numbers they are a sentence
        return len(foreign) <= 12 and not re.search(r"[\d$]|\\[a-z(\[]", text)
    rest = _FORMULA.sub(" 0 ", text) if text.count("$") % 2 == 0 else text
    if rest != text and re.search(r"[=+^_<>]", rest):
        return False
    rest = _NO_PROSE.sub(" 0 " if "\\" in rest else " ", rest)
    words = list(re.finditer(r"[A-Za-z]{2,}", rest))
    numbers = list(re.finditer(r"\d", rest))
    if not words:
        return True
    behind = not numbers or words[0].start() > numbers[-1].end() - 1
    return behind and len(words) <= (3 if numbers else 4) and not re.search(r"\b(?:is|are|it)\b", rest)


def _within(text: str) -> str:
    """The answer in the rest of a sentence that says what it is."""
    text = _ASIDE.split(text.strip("* "))[0].strip("* ") or text
    if found := _LETTER.match(text):
        return found[1]
    if bare(text):
        return undressed(text)
    behind = _behind_copula(text)
    begins, goes_on = (re.match(r"[\W_]*(?:\d|\\)|\W*\$", said) for said in (text, behind))
    if behind and bare(behind) and not (begins and not goes_on):  # 42 as this is clear
        return undressed(behind)
    return _last_value(text) or text


def _behind_copula(text: str) -> str:
    """What stands behind the last `is`, `=` or colon that is in no formula."""
    formulas = [found.span() for found in _FORMULA.finditer(text)] if text.count("$") % 2 == 0 else []
    ends = [found.end() for found in _COPULA.finditer(text)]
    return text[next((at for at in reversed(ends) if not any(a < at < b for a, b in formulas)), 0) :].strip()


def undressed(text: str) -> str:
    """Without the stars of bold text."""
    return found[1] if (found := _STARS.fullmatch(text.strip())) else text.strip()


def _last_value(text: str) -> str | None:
    """The last formula or number of a text, whichever stands later; else a choice letter, else words for none."""
    formulas = list(_FORMULA.finditer(text))
    numbers = [found for found in _PLAIN.finditer(text) if not formulas or found.start() >= formulas[-1].end()]
    if numbers:
        last = numbers[-1]
        found = _OR.search(text, max(0, last.start() - 250), last.start())  # 71 or 72
        return text[found.start() if found else last.start() : last.end()].rstrip(",").strip()
    if formulas:
        return _joined(text, formulas[-8:])
    letters = [next(part for part in found.groups() if part) for found in _CHOICE.finditer(text)]
    if letters:
        return letters[-1]
    if verdict := _VERDICT.match(text):
        return verdict[1]
    none = _NONE.findall(text)
    return none[-1] if none else None


def _joined(text: str, formulas: list[re.Match[str]]) -> str:
    """The last formula, with those before it that an `and` or a comma makes part of the same answer."""
    parts = [next(part for part in found.groups() if part).strip() for found in formulas]
    first = len(formulas) - 1
    while first and (gap := text[formulas[first - 1].end() : formulas[first].start()]) and joins(gap):
        first -= 1
    return ", ".join(parts[first:])
