r"""The contents of `\boxed{}` in a completion, by brace matching in linear time."""

from __future__ import annotations

import re

# `\\` is a line break unless `boxed` follows it (models double the backslash); `\{` and `\}` are printed
# braces; a run of braces is one token, for some texts end in 10^5 of them
_TOKEN = re.compile(r"\\(?:boxed|fbox)\s*\{|\\\\(?!boxed|fbox)|\\[{}]|\{+|\}+")
_MOST = 1000  # boxes of a kind that are looked at, from the end, if one of them is complete: more are a repetition


def boxed(text: str) -> list[str]:
    r"""The contents of every complete `\boxed{}` or `\fbox{}`, in the order they open; nested too. Of many the last."""
    return _contents(text, _spans(text))


def _spans(text: str) -> list[tuple[int, int]]:
    first = min((at for at in (text.find("\\boxed"), text.find("\\fbox")) if at >= 0), default=-1)
    if first < 0 or text.find("}", first) < 0:
        return []
    late = max(first, _late(text, "\\boxed"), _late(text, "\\fbox"))
    return _complete(text, late) or (_complete(text, first) if late > first else [])


def _late(text: str, name: str) -> int:
    """Where the last boxes of a kind begin that are looked at; -1 where all are."""
    at = len(text)
    for _ in range(_MOST):
        if (at := text.rfind(name, 0, at)) < 0:
            break
    return at


def _complete(text: str, start: int) -> list[tuple[int, int]]:
    """Where the contents of the boxes begin and end that open at `start` or later."""
    found: list[tuple[int, int]] = []
    stack: list[tuple[int, int]] = []  # where the content of an open box begins, or -1 and a number of other braces
    for token in _TOKEN.finditer(text, start):
        said = token.group()
        if said[0] == "}":
            _close(stack, token.start(), len(said), found)
        elif said[0] == "{":
            stack.append((-1, len(said)))
        elif said[-1] == "{" and said != "\\{":
            stack.append((token.end(), 1))
    return sorted(found)


def _close(stack: list[tuple[int, int]], at: int, count: int, found: list[tuple[int, int]]) -> None:
    """Takes `count` open braces from the stack; the boxes among them end there."""
    end = at + count
    while stack and at < end:
        begin, braces = stack.pop()
        if begin >= 0:
            found.append((begin, at))
        elif braces > end - at:
            stack.append((-1, braces - (end - at)))
        at += braces


def _contents(text: str, spans: list[tuple[int, int]]) -> list[str]:
    # nested spans share their characters: the outer of 10^5 nested boxes would cost 10^10, so only so many
    # are cut out
    budget = 4 * len(text) + 1000
    contents: list[str] = []
    for begin, end in reversed(spans):
        budget -= end - begin
        if budget < 0:
            break
        contents.append(text[begin:end].strip())
    return contents[::-1]


_SEPARATOR = re.compile(
    r"(?:[$\s.,;&]|\\[()\[\],;: ]|\\q?quad|\\(?:text|mathrm|mbox)\s*\{[^{}]*\}|[A-Za-z()]|=|_\{?\w\}?|\*\*)*"
)
_CORRECTION = re.compile(
    r"\b(?:but|no|not|then|actually|wait|instead|rather|or rather|so|thus|hence|therefore|is|be)\b", re.I
)
_WORD = re.compile(r"[A-Za-z]{2,}")
_BETWEEN = 60  # characters between two boxes of one answer, at most


def together(text: str) -> str | None:
    r"""The last boxes as one answer if they stand in one: `\boxed{1} and \boxed{2}`; None for a single box."""
    outer: list[tuple[int, int]] = []
    for begin, end in _spans(text)[-64:]:
        if not outer or begin > outer[-1][1]:
            outer.append((begin, end))
    run = outer[-1:]
    for begin, end in outer[-2::-1]:
        gap = re.sub(r"\\(?:boxed|fbox)\s*\{$", "", text[end + 1 : run[0][0]])
        if len(gap) > _BETWEEN or not _joins(gap):
            break
        run.insert(0, (begin, end))
    parts = _contents(text, run)
    return ", ".join(parts) if len(run) > 1 and len(parts) == len(run) and all(parts) else None


def _joins(gap: str) -> bool:
    """Whether this between two boxes says that both are the answer."""
    said = re.sub(r"\\(?:text|mathrm|mbox|q?quad)(?![a-z])", " ", gap)
    if "." in gap or "\n\n" in gap or not _SEPARATOR.fullmatch(gap) or _CORRECTION.search(said):
        return False
    words = _WORD.findall(said)
    return not words or (len(words) <= 4 and re.search(r"\b(?:and|or)\b|,", said) is not None)


_TAGGED = re.compile(r"<answer>((?:(?!</?answer>).){1,2000})</answer>", re.DOTALL)
_STATED = re.compile(
    r"(?:[Aa]nswer|ANSWER|correct (?:option|choice))\**\s*(?:is|:|=|##)\s*:?\**\s*([^\n]{1,400})|####\s*([^\n]{1,400})"
    r"|(?:答案|答)(?:是|为|為|[:：])\s*[:：]?\s*([^\n]{1,400})"
)
_FORMULA = re.compile(
    r"\$\$([^$]{1,1000})\$\$|\$([^$]{1,1000})\$|\\\(((?:(?!\\[()]).){1,1000})\\\)|\\\[((?:(?!\\[\[\]]).){1,1000})\\\]",
    re.S,
)
_BARE = re.compile(r"\\boxed\s+([^\s{$]+)")
_PLAIN = re.compile(r"(?<![\w.])-?\\?\$?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:/\d+)?(?:\s*\\?%)?")
_CHOICE = re.compile(r"\(([A-J])\)|(?<![A-Za-z'’])([B-HJ]|A(?=\W*$))(?![A-Za-z'’])")
_LETTER = re.compile(r"\**\(?([A-J])\)?[.:,]?\**(?=\s+(?:is|because|since|as|[a-z]+ing)\b|\s*$)")
_STARS = re.compile(r"\*\*\s*([^*]+?)\s*\*\*")
_LEAD = re.compile(
    r"(?:(?:hence|so|thus|therefore|finally|then|and|we (?:get|have|find|obtain|conclude))(?:[,:]|\b(?!\s*is\b))\s*)+(?=\S)",
    re.IGNORECASE,
)
_VERDICT = re.compile(r"(yes|no|true|false)[,.]", re.IGNORECASE)
_ANSWERS = re.compile(r"<answer>((?:(?!</?answer>).)*)</answer>", re.DOTALL)
_ASIDE = re.compile(r",?\s+(?:not|because|since|instead of|rather than)\s|\.(?:\s|$)|。|\*\*|<\|")
_COPULA = re.compile(r".*(?:\b(?:is|are|equals?|be)\b|=|:)\s*(?=\S)", re.DOTALL)
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
    + rf"|{_ONE}[\s*]*\?\W*(?i:no|nope|not)\b|\b(?i:between)\s+{_ONE}\s+and\s+{_ONE}"
)  # fmt: skip
_INEXACT = re.compile(r"\W*(?:strictly\s+)?(?:less|more|greater|fewer|smaller|larger)\s+than\b", re.IGNORECASE)
_EITHER = re.compile(r"^\W*(?:either|both)\s+", re.IGNORECASE)
_OPENING = re.compile(r"[\s,.;:*]*(?:(?:but|rather|instead|either|both)\b\s*)*", re.IGNORECASE)
_OR = re.compile(rf"{_ONE}\s+or\s+$")
TAIL = 20_000  # characters from the end that are looked at


def tagged(text: str) -> list[str]:
    """The contents of every <answer>...</answer> near the end."""
    return [found.strip() for found in _ANSWERS.findall(text[-TAIL:])]


def lenient(text: str) -> list[str]:
    """An answer that stands in no box: in tags, behind `answer is`, all that there is, or the last formula or number."""
    tail = text[-TAIL:].strip()
    for pattern in (_BARE, _TAGGED, _STATED):
        if found := pattern.findall(tail):
            last = found[-1] if isinstance(found[-1], str) else next((part for part in found[-1] if part), "")
            if pattern is _BARE:
                return [last.strip()]
            said = _affirmed(last)
            return [said if _INEXACT.match(said) else _within(said)] if said else []
    tail = _DENIED.sub(" ", tail)
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
    if len(text) > 300 or "\n\n" in text or re.search(r"[.!?]\s+[A-Z]", text):
        return False
    rest = _FORMULA.sub(" 0 ", text) if text.count("$") % 2 == 0 else text
    if rest != text and re.search(r"[=+^_<>]", rest):
        return False
    rest = _NO_PROSE.sub(" 0 " if "\\" in rest else " ", rest)
    words = list(_WORD.finditer(rest))
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
    behind = _COPULA.sub("", text).strip()
    if behind and bare(behind):
        return undressed(behind)
    return _last_value(text) or text


def undressed(text: str) -> str:
    """Without the stars of bold text."""
    return found[1] if (found := _STARS.fullmatch(text.strip())) else text.strip()


def _last_value(text: str) -> str | None:
    """The last formula or number of a text, whichever stands later; a choice letter if there is neither."""
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
    verdict = _VERDICT.match(text)
    return verdict[1] if verdict else None


def _joined(text: str, formulas: list[re.Match[str]]) -> str:
    """The last formula, with those before it that an `and` or a comma makes part of the same answer."""
    parts = [next(part for part in found.groups() if part).strip() for found in formulas]
    first = len(formulas) - 1
    while first and (gap := text[formulas[first - 1].end() : formulas[first].start()]) and _joins(gap):
        first -= 1
    return ", ".join(parts[first:])
