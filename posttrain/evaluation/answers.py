"""What a completion's answer is, as the reward that judges it reads it, and which code did the judging."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import json
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from posttrain.config.registries import REWARDS
from posttrain.data.types import Prompt
from posttrain.scoring.reading.boxed import boxed
from posttrain.scoring.reading.stated import behind_reasoning, tagged

Grader = str | Mapping[str, Any]  # a reward's name, or {use: name, setting: value}
_NOBODY = Prompt(id="", source="", messages=(), answer="")
_FORMS = ("\\boxed{%s}", "<answer>%s</answer>", "%s")


def extract(grader: Grader, completion: str, prompt: Prompt | None = None) -> str | None:
    r"""The answer that `grader` compares with the reference; None where the completion gives none.

    A reward says so itself by `answer(completion, prompt)`; of others it is the last \boxed{}, else the last <answer>.
    `prompt` is the problem's: knights_knaves looks there for how many people there are. Raises ConfigError for a grader
    that nobody knows.
    """
    reward = component(grader)
    if hasattr(reward, "answer"):
        found = reward.answer(completion, prompt or _NOBODY)
    else:
        said = behind_reasoning(completion)
        found = next((texts[-1] for texts in (boxed(said), tagged(said)) if texts), None)
    return found.strip() or None if found is not None else None


def restate(grader: Grader, answer: str) -> str | None:
    """A completion that gives this answer, in a form that `grader` reads; None if it reads it in none."""
    forms = [form.replace("%s", answer) for form in _FORMS]
    read = [extract(grader, form) for form in forms]
    exact = (form for form, found in zip(forms, read, strict=True) if found == answer.strip())
    some = (form for form, found in zip(forms, read, strict=True) if found is not None)
    return next(exact, None) or next(some, None)


def version(grader: Grader) -> dict[str, str]:
    """Which code judges: the reward's name, the installed posttrain and math-verify, and a sha256 over the sources.

    The sources are the reward's module and what it imports of posttrain_rewards and posttrain.scoring, directly or not:
    with the same math-verify, equal digests judge alike.
    """
    digest = hashlib.sha256()
    for name, source in sorted(_sources(type(component(grader)).__module__).items()):
        digest.update(f"{name} {hashlib.sha256(source).hexdigest()}\n".encode())
    return {
        "use": grader if isinstance(grader, str) else str(grader["use"]),
        "posttrain": metadata.version("posttrain"),
        "math_verify": metadata.version("math-verify"),
        "code": digest.hexdigest(),
    }


def _sources(module: str) -> dict[str, bytes]:
    """The source of a module and of those of our own that it imports, by name."""
    found: dict[str, bytes] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found or (file := _file_of(name)) is None:
            continue
        found[name] = Path(file).read_bytes()
        for node in ast.walk(ast.parse(found[name])):
            if isinstance(node, ast.ImportFrom) and node.module:
                both = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
                waiting += [each for each in both if each.startswith(("posttrain_rewards.", "posttrain.scoring."))]
    return found


def _file_of(module: str) -> str | None:
    """Found without running it: what is imported late counts as well. None for what is no module."""
    if module in sys.modules:
        return getattr(sys.modules[module], "__file__", None)
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:  # a name inside a module
        return None
    return spec.origin if spec is not None else None


def component(grader: Grader) -> Any:
    """The reward, built once."""
    return _built(json.dumps(grader if isinstance(grader, str) else dict(grader), sort_keys=True))


@functools.lru_cache(maxsize=64)
def _built(spec: str) -> Any:
    return REWARDS.build(json.loads(spec), "grader")
