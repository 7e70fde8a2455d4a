"""The examples that stand beside a plain function."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any

from posttrain.config.errors import ConfigError
from posttrain.data.types import Prompt
from posttrain.scoring.columns import prompt_of

Example = tuple[str, Prompt, float | None]


def examples_of(modules: Iterable[ModuleType | None]) -> Iterator[Example]:
    """`EXAMPLES = [(completion, {"answer": ..., column: ...}, expected)]` of the first module that has some."""
    for module in modules:
        found = getattr(module, "EXAMPLES", ())
        if not isinstance(found, list | tuple):
            raise ConfigError(f"{_file(module)}: EXAMPLES is a {type(found).__name__}; a list is expected. {_FORM}")
        if found:
            yield from (_example(entry, i, module) for i, entry in enumerate(found))
            return


_FORM = 'Write (completion, {"answer": ..., column: ...}, expected number or None).'


def _example(entry: Any, index: int, module: ModuleType | None) -> Example:
    def bad(why: str) -> ConfigError:
        return ConfigError(f"{_file(module)}: EXAMPLES[{index}]: {why}. {_FORM}")

    if not isinstance(entry, list | tuple) or len(entry) != 3:
        length = f" of {len(entry)}" if isinstance(entry, list | tuple) else ""
        raise bad(f"a {type(entry).__name__}{length}, where three things are expected")
    completion, columns, expected = entry
    if not isinstance(completion, str):
        raise bad(f"the completion is {type(completion).__name__} {str(completion)[:60]!r}, where text is expected")
    if not isinstance(columns, Mapping):
        raise bad(f"the columns are {type(columns).__name__} {str(columns)[:60]!r}, where a map is expected")
    if not (expected is None or isinstance(expected, int | float)):
        raise bad(f"the expected value is {type(expected).__name__} {str(expected)[:60]!r}, where a number is expected")
    try:
        return completion, prompt_of(columns, f"example {index}"), expected
    except TypeError as error:
        raise bad(str(error)) from None


def _file(module: ModuleType | None) -> str:
    return str(getattr(module, "__file__", None) or getattr(module, "__name__", "EXAMPLES"))
