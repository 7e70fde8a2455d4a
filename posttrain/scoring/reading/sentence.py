"""The value of a sentence: what stands behind its verb, or its last number or formula."""

from __future__ import annotations

import re

from posttrain.scoring.reading import units
from posttrain.scoring.reading.boxed import joins

FORMULA = re.compile(
    r"\$\$([^$]{1,1000})\$\$|\$([^$]{1,1000})\$|\\\(((?:(?!\\[()]).){1,1000})\\\)|\\\[((?:(?!\\[\[\]]).){1,1000})\\\]",
    re.S,
)
_PLAIN = re.compile(
    r"(?<![A-Za-z\d_.\\{:])\d{1,4}(?::\d{1,4})+(?:\s*[apAP]\.?[mM]\b\.?)?(?![\d:])|"
    r"(?<![A-Za-z\d_.\\{])-?\\?\$?(?:\d*\\[dtc]?frac\s*\{-?\d+\}\s*\{\d+\}|(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:/\d+|[eE][-+]?\d+(?!\w))?)(?:\s*\\?%)?"
)
_AMOUNTS = re.compile(r"(?:\d{1,9}(?:\.\d{1,9})?\s+[a-zA-Z]+(?:,?\s+(?:and\s+)?|$)){2,4}")  # 2 hours 30 minutes
_ENDING = re.compile(_AMOUNTS.pattern + r"\W*$")
_OPTION = re.compile(r"\([A-J]\)")
_CHOICE = re.compile(r"\(([A-J])\)|(?<![A-Za-z'’])([B-HJ]|A(?=\W*$))(?![A-Za-z'’])")
_LETTER = re.compile(r"\**\(?([A-J])\)?[.:,]?\**(?=\s+(?:is|because|since|as|[a-z]+ing)\b|\s*$)")
_STARS = re.compile(r"(?:\*\*|__)\s*([^*]+?)\s*(?:\*\*|__)")
_VERDICT = re.compile(r"(yes|no|true|false)[,.]", re.IGNORECASE)
_ASIDE = re.compile(
    r"(?:,|(?<=[\d$)}%*\]])|(?<=\b[A-J]))\s+not\s|,?\s+(?:because|since|instead of|rather than)\s"
    r"|\s*\((?:because|since|as|i\.e)\b|(?<!\bi\.e)(?<!\be\.g)\.(?:\s|$)|。|，(?=[不之而因])|\*\*|<\|"
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
ONE = (
    r"(?:\$[^$\n]{1,200}\$|\\\([^\n]{1,200}?\\\)|\(?\b[A-J]\b\)?"
    r"|(?<![\d.,])-?\\?\$?(?:\d[\d,]{0,60}(?:\.\d{1,60})?|\.\d{1,60})(?:/\d{1,60})?(?!\d)\\?%?)"
)
_OR = re.compile(rf"{ONE}\s+or\s+$")
_VALUE = r"-?\\?\$?\d[\d,]*(?:\.\d+)?(?:/\d+)?%?"
_GROUP = re.compile(  # (3, -2), {1, 3, 5} and 1, 2 and 3
    rf"\([^()]{{1,100}},[^()]{{1,100}}\)|\{{[^{{}}]{{1,200}}\}}|{_VALUE}(?:,\s+{_VALUE})*,?\s+(?:and|or)\s+{_VALUE}"
)
_MEASURED = re.compile(r"\s+(?!in\b)((?:(?:square|cubic)\s+)?[a-zA-Z]{2,}(?:\s+per\s+[a-zA-Z]+)?)(?![\w'])")
_SENTENCE = re.compile(r"(?<=[.!])\s+(?=[A-Z])|\n")
_BEHIND = re.compile(  # what comes behind the value of a sentence: (and the next is 26), when x = 1, attained at 5
    r"\s*(?:\(\s*[a-z][^()]*\)|,?\s*\b(?:attained|achieved|reached|obtained|occurring)\b.*"
    r"|,?\s+(?:when|where|whenever|if|after|among|since|because)\s(?P<clause>.*))$",
    re.DOTALL,
)
_VERB = re.compile(r"\b(?:is|are|has|have|had|gets?|remains?|left|leaves?|equals?|becomes?|and|then)\b(?!\s+divided)|,")
_BOUND = re.compile(
    r"(?:\b(?:less|more|greater|fewer|smaller|larger|higher|lower)\s+than|大于|小于|超过)\s*$",
    re.IGNORECASE,
)
_ASKED = re.compile(r"[\s$*).]*\?(?!\W*[Yy]es)")


def bare(text: str) -> bool:
    """Whether a text is an answer and nothing else: no sentence around it, at most a few words behind it."""
    if _AMOUNTS.fullmatch(text):
        return True
    if _OPTION.search(text) and re.search(r"[a-z]{3}", text):
        return False
    if len(text) > 300 or re.search(r"[.!?]\s+[A-Z]|\n\n", text) or ("\n" in text and "\\begin" not in text):
        return False
    foreign = [found for found in _CJK.findall(text) if found not in "或和且与"]
    if foreign:  # a few characters are an answer; beside numbers they are a sentence
        return len(foreign) <= 12 and not re.search(r"[\d$]|\\[a-z(\[]", text)
    rest = FORMULA.sub(" 0 ", text) if text.count("$") % 2 == 0 else text
    if rest != text and re.search(r"[=+^_<>]", rest):
        return False
    rest = _NO_PROSE.sub(" 0 " if "\\" in rest else " ", rest)
    words = list(re.finditer(r"[A-Za-z]{2,}", rest))
    numbers = list(re.finditer(r"\d", rest))
    if not words:
        return True
    behind = not numbers or words[0].start() > numbers[-1].end() - 1
    return behind and len(words) <= (3 if numbers else 4) and not re.search(r"\b(?:is|are|it)\b", rest)


def within(text: str) -> str:
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
    return last_value(text) or text


def _behind_copula(text: str) -> str:
    """What stands behind the last `is`, `=` or colon that is in no formula."""
    formulas = [found.span() for found in FORMULA.finditer(text)] if text.count("$") % 2 == 0 else []
    ends = [found.end() for found in _COPULA.finditer(text)]
    return text[next((at for at in reversed(ends) if not any(a < at < b for a, b in formulas)), 0) :].strip()


def undressed(text: str) -> str:
    """Without the stars of bold text."""
    return found[1] if (found := _STARS.fullmatch(text.strip())) else text.strip()


def last_value(text: str) -> str | None:
    """The last formula or number of a text, whichever stands later; else a choice letter, else words for none."""
    sentence = _SENTENCE.split(text.rstrip())[-1]
    if (kept := _main(sentence)) != sentence:
        text = f"{text.rstrip().removesuffix(sentence)}{kept}"
    if group := _GROUP.fullmatch(_behind_copula(kept).rstrip(". ")):
        return group[0]
    if amounts := _ENDING.search(kept.rstrip(". ")):
        return amounts[0]
    formulas = list(FORMULA.finditer(text))
    numbers = [found for found in _PLAIN.finditer(text) if not formulas or found.start() >= formulas[-1].end()]
    if numbers:
        last = numbers[-1]
        if _ASKED.match(text, last.end()):
            return None
        if bound := _BOUND.search(text[max(0, last.start() - 20) : last.start()]):
            return f"{bound[0]}{last[0]}"
        found = _OR.search(text, max(0, last.start() - 250), last.start())  # 71 or 72
        said = text[found.start() if found else last.start() : last.end()].rstrip(",").strip()
        measured = _MEASURED.match(text, last.end())
        return f"{said} {measured[1]}" if measured and units.read(measured[1]) else said
    if formulas:
        if _ASKED.match(text, formulas[-1].end()):
            return None
        return _joined(text, formulas[-8:])
    letters = [next(part for part in found.groups() if part) for found in _CHOICE.finditer(text)]
    if letters:
        return letters[-1]
    if verdict := _VERDICT.match(text):
        return verdict[1]
    if none := _NONE.findall(text):
        return none[-1]
    said = _ASIDE.split(_behind_copula(sentence))[0].strip("* ")
    return said if said != sentence and bare(said) else None


def _main(sentence: str) -> str:
    """A sentence without what comes behind its value: in parentheses, or in a short clause that has no verb."""
    found = _BEHIND.search(sentence.rstrip(". "))
    if found is None or not re.search(r"\d", sentence[: found.start()]):
        return sentence
    clause = found["clause"] or ""
    long = len(clause.split()) > 8 or _VERB.search(clause)
    stated = "=" in clause and not re.fullmatch(r"\W*[a-zA-Z]\w*\s*=\s*[^=]+", clause)
    return sentence if long or stated else sentence[: found.start()]


def _joined(text: str, formulas: list[re.Match[str]]) -> str:
    """The last formula, with those before it that an `and` or a comma makes part of the same answer."""
    parts = [next(part for part in found.groups() if part).strip() for found in formulas]
    first = len(formulas) - 1
    while first and (gap := text[formulas[first - 1].end() : formulas[first].start()]) and joins(gap):
        first -= 1
    return ", ".join(parts[first:])
