"""The answer of a completion that puts it in no box: in tags, in so many words, or the last value there is."""

from __future__ import annotations

import re

from posttrain.scoring.reading.sentence import FORMULA, ONE, bare, last_value, undressed, within

_TAGGED = re.compile(
    r"<answer>((?:(?!</?answer>).){1,2000})</answer>|<\|begin_of_box\|>((?:(?!<\|).){1,2000})<\|end_of_box\|>",
    re.DOTALL,
)
_STATED = re.compile(
    r"(?:(?:[Aa]nswer|ANSWER|correct (?:option|choice))\**\s*(?:is|:|=|##)\s*:?|####\s*:?"
    r"|(?:答案|答)应?该?(?:是|为|為|[:：])\s*[:：]?|选(?:择|项)?(?=[A-J]))"
    r"\**\s*(?=([^\n]{1,400}))"
)
_BARE = re.compile(r"\\boxed\s+([^\s{$]+)|(?:(?<![\\A-Za-z])boxed\s*|□)\{([^{}]{1,200})\}")
_CODE = re.compile(r"__\w+__|\blambda\b|\b(?:open|eval|exec|globals|getattr)\s*\(")  # a line of it is no answer
_LEAD = re.compile(
    r"(?:(?:hence|so|thus|therefore|finally|then|and|因此|所以|故|于是"
    r"|we (?:get|have|find|obtain|conclude))(?:[,:，]|\b(?!\s*is\b))\s*)+(?=\S)",
    re.IGNORECASE,
)
_ANSWERS = re.compile(r"<answer>((?:(?!</?answer>).)*)</answer>", re.DOTALL)
_FALSE = r"(?i:wrong|incorrect|false|impossible|invalid|(?:not|n['’]t) (?:the|an?|right|correct|it|valid|possible)\b)"
# values that are named to say that they are not the answer
_DENIED = re.compile(
    r"(?:\b(?i:not|never|cannot|neither|nor|no longer|anything but|(?:rather|other) than|instead of|except|excluding)|n['’]t)"
    r"(?i:\s+(?:equal|to|be|is|necessarily|simply|just|exactly|the|answer|an?|option|choice))*[\s:*(]+" + ONE
    + rf"|{ONE}[\s*]*(?:,?\s+(?i:but\s+)?(?i:that|this|it|which)?\s*\b(?i:is|was|are)|(?<=[\d$)A-J])\s+(?=is))\s*{_FALSE}"
    + rf"|{ONE}[\s*]*\?\W*(?i:no|nope|not)\b|\b(?i:between)\s+{ONE}\s+and\s+{ONE}|(?:不是|并非|不等于|不为|而非)\s*{ONE}"
)  # fmt: skip
_INEXACT = re.compile(
    r"\W*(?:strictly\s+)?(?:(?:less|more|greater|fewer|smaller|larger)\s+than\b|at\s+(?:least|most)\b|(?:somewhere\s+)?from\b|大于|小于)",
    re.IGNORECASE,
)
# before a statement: it is not made
_DOUBTED = re.compile(
    r"(?:\b(?:false|not true|suppose|assum\w+|whether|if|maybe|perhaps)\b[^.!?\n]{0,30}?|\b(?:wrong|incorrect|common|naive)\s+)"
    r"(?:that\s+)?(?:the\s+)?(?:final\s+|correct\s+)?\**$|不$",
    re.IGNORECASE,
)
_ENDS = re.compile(r"(?:\s*(?:</s>|<\|[^|<>\n]{1,30}\|>|<end_of_turn>|<eos>))+$")  # what a template puts behind a reply
_UNFINISHED = re.compile(r"(?<!\*)[=+*/-]$")
_EITHER = re.compile(r"^\W*(?:either|both)\s+", re.IGNORECASE)
_OPENING = re.compile(r"[\s,.;:*]*(?:(?:but|rather|instead|either|both)\b\s*)*", re.IGNORECASE)
TAIL = 20_000  # characters from the end that are looked at,
END = 2_000  # and in which the answer is that nothing points to


def behind_reasoning(completion: str) -> str:
    """What stands behind the last </think>: what was thought on the way is no answer. All of it where none ends."""
    return completion.rpartition("</think>")[2]


def tagged(text: str) -> list[str]:
    """The contents of every <answer>...</answer> near the end."""
    return [found.strip() for found in _ANSWERS.findall(text[-TAIL:])]


def lenient(text: str) -> list[str]:
    """An answer that stands in no box: in tags, behind `answer is`, all that there is, or the last formula or number."""
    tail = text[-TAIL:].strip()
    tail = (_ENDS.sub("", tail) if tail.endswith(">") else tail).replace("−", "-")
    if named := _BARE.findall(tail):
        return [next(part for part in named[-1] if part).strip()]
    if given := _TAGGED.findall(tail):
        said = _affirmed(next(part for part in given[-1] if part))
    elif statements := list(_STATED.finditer(tail)):
        said = _stated(tail, statements)
    else:
        return _unsaid(tail)
    return [said if _INEXACT.match(said) else within(said)] if said else []


def _stated(text: str, statements: list[re.Match[str]]) -> str:
    """What the last statement says; where it only says what is not the answer, the one before it in the same line."""
    end = len(text)
    for found in reversed(statements):
        if found.end(1) < end < len(text):
            break
        formula = FORMULA.match(text, found.end())  # it may go over several lines
        rest = formula[0] if formula and formula.end() > found.end(1) else text[found.end() : min(end, found.end(1))]
        if not _DOUBTED.search(text[max(0, found.start() - 60) : found.start()]) and (said := _affirmed(rest)):
            return said
        end = found.start()
    return ""


def _unsaid(tail: str) -> list[str]:
    """The answer of a text that does not say which it is."""
    whole = len(tail) <= END
    tail = _DENIED.sub(" ", tail if whole else _last_lines(tail))
    if _CODE.search(tail.rpartition("\n")[2]) or _UNFINISHED.search(tail):
        return []
    if whole and bare(said := _LEAD.sub("", tail, count=1)):
        return [undressed(said)]
    sentence = last_value(tail)
    return [sentence] if sentence else []


def _last_lines(text: str) -> str:
    """The end of a text: some lines, or a part of the last one; it begins in no formula between `$$`."""
    begin = len(text) - END
    if 0 <= (line := text.find("\n", begin)) < len(text) - END // 2:
        begin = line
    if text.count("$$", 0, begin) % 2 and (closed := text.find("$$", begin)) >= 0:
        begin = closed + 2
    return text[begin:]


def _affirmed(text: str) -> str:
    """What a statement says the answer is, without what it says it is not; empty if only that."""
    kept = re.sub(r"\(\W*\)", "", _DENIED.sub(" ", text))
    kept = kept[found.end() :] if kept != text and (found := _OPENING.match(kept)) else _EITHER.sub("", kept)
    return kept.strip() if re.search(r"\w|\\", kept) else ""
