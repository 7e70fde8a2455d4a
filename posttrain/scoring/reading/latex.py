"""LaTeX of a short answer in one spelling: symbols for characters, no decoration, one command for text."""

from __future__ import annotations

import functools
import re

_CHARACTERS = str.maketrans(
    {
        "−": "-", "–": "-", "—": "-", "×": "\\times ", "·": "\\cdot ", "⋅": "\\cdot ", "÷": "\\div ", "∗": "*",
        "π": "\\pi ", "∞": "\\infty ", "≤": "\\le ", "≥": "\\ge ", "⩽": "\\le ", "⩾": "\\ge ", "≠": "\\ne ",
        "∪": "\\cup ", "∩": "\\cap ", "∈": "\\in ", "°": "^\\circ ", "∅": "\\emptyset ", "ℝ": "\\mathbb{R}",
        "±": "\\pm ", "≈": "\\approx ", "⟨": "\\langle ", "⟩": "\\rangle ", "，": ",", "％": "%",
        "½": "\\frac{1}{2}", "¼": "\\frac{1}{4}", "¾": "\\frac{3}{4}", "⅓": "\\frac{1}{3}", "⅔": "\\frac{2}{3}",
        "’": "'", "\u00a0": " ", "\u2009": " ", "\u202f": " ",
        "′": "'", "″": "''", "（": "(", "）": ")", "θ": "\\theta ", "α": "\\alpha ", "β": "\\beta ", "√": "\\sqrt ",
        "∛": "\\sqrt[3]", "⁄": "/", "∧": "\\land ", "∨": "\\lor ", "、": ",", "；": ";", "：": ":",
        **{chr(0x1D7CE + i): str(i % 10) for i in range(50)},  # bold and other digits
    }
)  # fmt: skip
_RAISED = re.compile("[⁰¹²³⁴-⁹⁺⁻]+")
_UNRAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-")
_SCALES = {
    "dozen": "12", "hundred": "10^{2}", "thousand": "10^{3}", "lakh": "10^{5}", "million": "10^{6}", "crore": "10^{7}",
    "billion": "10^{9}", "trillion": "10^{12}",
}  # fmt: skip
_SPELLINGS = [
    (re.compile(pattern), replacement)
    for pattern, replacement in [
        (r"\\(?:left|right|[bB]igg?[lrm]?)(?![a-zA-Z])\s*", ""),
        (r"\\prime(?![a-zA-Z])\s*", "'"),
        (r"\^\s*\{\s*('+)\s*\}|\^\s*('+)", r"\1\2"),
        (r"^(?:'(?=.*\w')|''(?=.*\w'')|``(?=.*'')|\"(?=.*\"))([^'\"`]+)['\"]{1,2}$", r"\1"),  # quotes around all of it
        (r"\\(?:displaystyle|textstyle|large|Large|LARGE|huge|small|normalsize|checkmark|limits|nolimits)(?![a-zA-Z])", ""),
        (r"(?<!\\)\\(?:text)?dollar(?:s)?(?![a-zA-Z])", r"\\$"),
        (r"(?<=\d),\\!\s*(?=\d)", ""),  # a separator of digits, however many there are between two
        (r",\\!\s*", ","),
        (r"(?<!\\)\\!", ""),
        (r"(?<=\d)\s*(?:\^\s*\{?\s*)?\\text\{\s*(?:st|nd|rd|th)\s*\}\}?", ""),
        (r"(?<=\d)\s*\^\s*(?:\{\s*(?:st|nd|rd|th)\s*\}|(?:st|nd|rd|th)(?![a-zA-Z]))|(?<=\d)(?:st|nd|rd|th)(?![a-zA-Z])", ""),
        (r"(?<!\\)\\[,;:> ]|~|\\(?:enspace|thinspace)(?![a-zA-Z])|\\q?quad", " "),
        (r"\\(?:hspace|vspace|phantom|hphantom|vphantom|label|tag)\*?\s*\{[^{}]*\}", ""),
        (r"\\(?:text)?color\s*\{[^{}]*\}", ""),
        (r"\\(?:mathbf|boldsymbol|Bbb)\s*\{?\s*([RZNQC])\s*\}?(?![a-zA-Z])", r"\\mathbb{\1}"),
        (r"\\mathbb\s+([A-Z])|\\mathbb([A-Z])", r"\\mathbb{\1\2}"),
        (r"\\(?:boldsymbol|mathbf|bm|bf|underline|uline|mathit|mathsf|mathcal|pmb|bold|ensuremath)(?![a-zA-Z])", ""),
        (r"\\(?:mathrm|operatorname|rm)(?:\s*\{\s*([eid])\s*\}|\s+([eid])(?![a-zA-Z]))", r"\1\2 "),
        (r"\\(?:textbf|textit|textrm|textsf|textnormal|texttt|emph|mathrm|mbox|hbox|operatorname)\*?\s*(?=\{)", r"\\text"),
        (r"\\text\s+(?=\{)", r"\\text"),
        (r"\\[dtc]frac", r"\\frac"),
        (r"\{([^{}]*)\\over(?![a-zA-Z])([^{}]*)\}", r"\\frac{\1}{\2}"),
        (r"\{([^{}]*)\\choose(?![a-zA-Z])([^{}]*)\}", r"\\binom{\1}{\2}"),
        (r"\\[dt]binom", r"\\binom"),
        (r"\\binom\s*(\d)\s*(\d)", r"\\binom{\1}{\2}"),
        (r"(?<![A-Za-z\\])C_(?:\{([^{}^_]+)\}|(\w))\s*\^\s*(?:\{([^{}^_]+)\}|(\w))(?![A-Za-z])", r"\\binom{\1\2}{\3\4}"),
        (r"\\(?:leq|leqslant|leqq)(?![a-zA-Z])|<=", r"\\le "),
        (r"\\(?:geq|geqslant|geqq)(?![a-zA-Z])|>=", r"\\ge "),
        (r"\\lt(?![a-zA-Z])", "<"),
        (r"\\gt(?![a-zA-Z])", ">"),
        (r"\\(?:neq|not\s*=)|!=", r"\\ne "),
        (r"\\(?:lbrace|\{)(?![a-zA-Z])", r"\\{"),
        (r"\\rbrace(?![a-zA-Z])", r"\\}"),
        (r"\\(?:varnothing|O)(?![a-zA-Z])|\\\{\s*\\\}|\\empty(?![a-zA-Z])", r"\\emptyset "),
        (r"\\(?:vert|lvert|rvert)(?![a-zA-Z])", "|"),
        (r"\\(?:lor|vee)(?![a-zA-Z])|\\text\{\s*or\s*\}|(?<![a-zA-Z])or(?![a-zA-Z])|または|或者?", " or "),
        (r"\\(?:land|wedge)(?![a-zA-Z])|\\text\{\s*,?\s*and\s*\}|(?<![a-zA-Z])and(?![a-zA-Z])|かつ", " and "),
        (r"\^\s*\{?\s*\\(?:circ|degree)\s*\}?|\\degree(?![a-zA-Z])|\\textdegree", r"^\\circ "),
        (r"\\(?:log)_\{?e\}?(?![a-zA-Z])", r"\\ln "),
        (r"\\lg(?![a-zA-Z])", r"\\log_{10} "),
        (r"(?<=\d)\s*(?:\^|\*\*)\s*(-\d+)", r"^{\1}"),
        (r"(?<=\d)\s*万", r" \\times 10^{4} "),
        (r"(?<=\d)\s*亿", r" \\times 10^{8} "),
        (r"(?<=\d)\s*分钟?(?=$|\d)", r"分钟"),
        (r"\(([0-9A-F]+)\)(?=_)", r"\1"),
        (r"\\(?:cfrac|tfrac)", r"\\frac"),
        (r"(?<![a-zA-Z])(?:np|math|numpy)\.", ""),
        (r"(?<![a-zA-Z\\])(sqrt|arcsin|arccos|arctan|(?:sin|cos|tan)h?|cot|sec|csc|ln|log|exp)(?![a-zA-Z])", r"\\\1"),
        (r"(?<![a-zA-Z\\])pi(?![a-zA-Z])", r"\\pi "),
        (r"\\(sin|cos|tan)\^\{-1\}", r"\\arc\1"),
        (r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"\\sqrt(?=[a-zA-Z])|\\sqrt\s+(?=\d{2})", r"\\sqrt "),
        (r"\\sqrt\s*(\[[^\[\]]*\])\s*(\d|[a-zA-Z])", r"\\sqrt\1{\2}"),
        (r"\\sqrt\s+(\d+|[a-zA-Z])|\\sqrt\s*(\\pi)(?![a-zA-Z])", r"\\sqrt{\1\2}"),
        (r"\\text\{\s*([0-9A-F]+)\s*\}(?=[0-9A-F]*_)", r"\1"),  # digits above nine
        (r"\\text\{\s*(?:negative|minus)\s+infinity\s*\}|(?:negative|minus) infinity", r"-\\infty "),
        (r"\\%", "%"),
        (r"\\text\{\s*(?:percent(?:age)?|per cent|pct)\s*\}|(?<![a-zA-Z])(?:percent(?:age)?|pct)(?![a-zA-Z])", "%"),
        (r"\{,\}", ","),
        *(
            (
                rf"(?<=\d)\s*(?:\\text\{{\s*{name}s?(?![a-zA-Z])\s*([^{{}}]*)\}}|{name}s?(?![a-zA-Z]))",
                rf" \\times {size} \\text{{\1}}",
            )
            for name, size in _SCALES.items()
        ),
        (r"\{:\}|\\colon(?![a-zA-Z])|\\text\{\s*:\s*\}", ":"),
        (r"\\(?:dots|ldots|cdots)(?![a-zA-Z])", "..."),
        (r"\\infin(?![a-zA-Z])|(?<![a-zA-Z\\])(?:infinity|infty)(?![a-zA-Z])|\\text\{\s*infinity\s*\}", r"\\infty "),
        (r"\\text\{([^{}a-zA-Z\\]*)\}", r"\1"),  # only numbers in it
        (r"\\text\{\s*\\?\$\s*\}", r"\\$"),
    ]
]  # fmt: skip
_LABEL = re.compile(
    r"^\s*(?:\\text\{)?\s*(?:so\s+|thus,?\s+|hence,?\s+|therefore,?\s+)?(?:the\s+)?(?:final\s+)?"
    r"(?:answer|ans|result|solution|value)\s*(?:is|:|=)\s*:?\s*(?P<closed>\}?)\s*(?=\S)",
    re.IGNORECASE,
)
_DRESSED = re.compile(r"^(?:\$\$?|\\\(|\\\[|\\\$(?=.*\\\$$))(.*?)(?:\$\$?|\\\)|\\\]|\\\$)$", re.DOTALL)
_DOUBLED = re.compile(r"(?<!\\)\\\\(?=[a-zA-Z]{2})")  # a doubled backslash before a command
_DOLLAR = re.compile(r"(?<!\\)\$")
_STARRED = re.compile(r"^\*\*([^*]+)\*\*$")
# \f, \b, \t and \r of a command that a Python string swallowed
_SWALLOWED = [
    (re.compile(r"\x0c(?=rac\b|rac\{)"), r"\\f"),
    (re.compile(r"\x08(?=egin\{|oxed|inom|eta\b|ar\{|mod\b)"), r"\\b"),
    (re.compile(r"\t(?=imes\b|heta\b|frac)"), r"\\t"),
    (re.compile(r"\r(?=ight|angle\b)"), r"\\r"),
]
_SHORT_LIST = re.compile(
    r"\\text\{\s*((?:\(?[A-Z]\)?|[IVX]+|-?\d[\d.]*)(?:(?:\s*,\s*|\s+)(?:and\s+|or\s+)?(?:\(?[A-Z]\)?|[IVX]+|-?\d[\d.]*))+)\s*\}"
)
_OPEN, _CLOSE = "([{", ")]}"


def mended(text: str) -> str:
    """With the backslashes of commands that were read as control characters: a form feed before `rac` is `\\frac`."""
    if any(character in text for character in "\x0c\x08\t\r"):
        for pattern, replacement in _SWALLOWED:
            text = pattern.sub(replacement, text)
    return text


@functools.lru_cache(maxsize=1 << 13)  # a reference is asked for with every answer, a part of a list with many
def clean(text: str) -> str:
    """The answer in one spelling, without labels, dollar signs around it and a final full stop."""
    text = _RAISED.sub(lambda found: f"^{{{found[0].translate(_UNRAISED)}}}", mended(text))
    text = text.translate(_CHARACTERS).strip()
    if "\\begin" not in text:
        text = _DOUBLED.sub(r"\\", text)
    if len(_DOLLAR.findall(text)) % 2 == 0:  # around formulas; a single one is money
        text = _DOLLAR.sub(" ", text)
    text = _STARRED.sub(r"\1", text)
    for pattern, replacement in _SPELLINGS:
        text = pattern.sub(replacement, text)
    if found := _LABEL.match(text):
        inner = text[found.end() :]
        text = (
            inner[:-1] if text.lstrip().startswith("\\text{") and not found["closed"] and inner.endswith("}") else inner
        )
    text = text.strip()
    if found := _DRESSED.match(text):
        text = found.group(1).strip()
    if found := _SHORT_LIST.fullmatch(text):
        text = found.group(1)
    text = text if text.endswith("..") else text.rstrip(".,;? \\" if text.endswith("\\") else ".,;? ")
    while len(text) > 1 and text[0] == "{" and closing(text, 0) == len(text) - 1:
        text = text[1:-1].strip()
    return text


_INTEGER = re.compile(
    r"[\s,;.(]*(?:\\text\{\s*,?\s*(?:where|for|with)?[^{}]*\}\s*|(?:where|for|with)\s+)?(?<![a-zA-Z\\])(?P<letter>[a-z])\s*"
    r"(?:\\in\s*\\mathbb\{?Z\}?|\\text\{\s*is an(?:y| arbitrary)? integer\s*\}|is an(?:y| arbitrary)? integer)[\s).]*$"
)


def general(text: str) -> str:
    """`\\frac{\\pi}{4}+n\\pi, n \\in \\mathbb{Z}` without what is said of the integer, which is called k."""
    found = _INTEGER.search(text)
    if found is None or not found.start():
        return text
    body, letter = text[: found.start()], rf"(?<![a-zA-Z\\]){found['letter']}(?![a-zA-Z])"
    return body if re.search(r"(?<![a-zA-Z\\])k(?![a-zA-Z])", body) else re.sub(letter, "k", body)


def closing(text: str, start: int) -> int:
    """Where the bracket that opens at `start` closes, brackets of any kind matching any other; -1 if nowhere."""
    level = 0
    for i in range(start, len(text)):
        if text[i] in _OPEN:
            level += 1
        elif text[i] in _CLOSE:
            level -= 1
            if level == 0:
                return i
    return -1


_OR = re.compile(r"\s+or\s+")
_BETWEEN = re.compile(r"\s*[,;]\s*(?:and|or)\s+|\s*[,;]\s*|\s+(?:and|or)\s+")


def split(text: str, words: bool = True) -> list[str]:
    """Parts between commas, semicolons, `and` and `or` outside of all brackets."""
    parts, start, level, i = [], 0, 0, 0
    while i < len(text):
        character = text[i]
        if character in _OPEN:
            level += 1
        elif character in _CLOSE:
            level -= 1
        elif level == 0 and (character in ",;" or (words and character == " ")):
            found = _BETWEEN.match(text, i)
            if found and (character in ",;" or found.group().strip()):
                parts.append(text[start:i])
                start = i = found.end()
                continue
        i += 1
    return [*parts, text[start:]]


def sides_of(text: str) -> list[str]:
    """Parts between equals signs outside of all brackets."""
    parts, start, level = [], 0, 0
    for i, character in enumerate(text):
        level += (character in "([{") - (character in ")]}")
        if character == "=" and level <= 0 and not text[:i].endswith("\\ne"):
            parts.append(text[start:i])
            start = i + 1
    return [*parts, text[start:]]


def has_or(text: str) -> bool:
    return _OR.search(text) is not None
