"""Rows from files and from the Hugging Face hub. Nothing but text is ever loaded: no remote code."""

from __future__ import annotations

import difflib
import json
import math
import re
from pathlib import Path
from typing import Any

from posttrain.config.errors import ConfigError

FILES = (".jsonl", ".json", ".parquet")
_BRACE = re.compile(r"\\[\\{}]|[{}]")  # `\{` and `\}` are printed braces, `\\` is a line break


def is_file(path: str) -> bool:
    """Whether `path` means a local file rather than a dataset id on the hub."""
    return path.endswith(FILES) or path.startswith(("/", "./", "../", "~"))


def rows(path: str, name: str | None, split: str, setting: str = "task.path") -> list[dict[str, Any]]:
    """Every row of a local JSONL or Parquet file, or of a hub dataset's split, as plain dictionaries.

    `setting` is the recipe's key that holds the path, to be named in an error.
    """
    if not is_file(path):
        return _hub(path, name, split, setting)
    file = Path(path).expanduser()
    if not file.is_file():
        raise ConfigError(f"{setting}={path!r}: there is no such file (looked at {file.resolve()})")
    return _parquet(file) if file.suffix == ".parquet" else _jsonl(file)


def count(path: str) -> int | None:
    """How many rows a local JSONL file has; None where finding out would cost a download or a parse."""
    file = Path(path).expanduser()
    if not is_file(path) or file.suffix != ".jsonl" or not file.is_file():
        return None
    with file.open("rb") as lines:
        return sum(1 for line in lines if line.strip())


def text(row: dict[str, Any], names: str | list[str], setting: str, where: str) -> str:
    """The first of the named columns that the row has, as text."""
    wanted = [names] if isinstance(names, str) else names
    for column in wanted:
        found = row.get(column)
        if found is not None and not (isinstance(found, float) and not math.isfinite(found)):
            return str(found)
    raise ConfigError(
        f"task.{setting}={names!r}: {where} has no such column (or it is null or NaN).{_columns(row, wanted[0])} "
        f"Set task.{setting}=COLUMN."
    )


def value(row: dict[str, Any], name: str, where: str) -> Any:
    """A further column of the row, as it is; it may be null."""
    if name not in row:
        raise ConfigError(f"task.columns: {where} has no column {name!r}.{_columns(row, name)}")
    return row[name]


def _columns(row: dict[str, Any], wanted: str) -> str:
    close = difflib.get_close_matches(wanted, row, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"{hint} It has: {', '.join(row)}."


def last_boxed(text: str) -> str | None:
    """The content of the last `\\boxed{...}` whose braces close, or None. Linear in the text's length."""
    end = len(text)
    while (start := text.rfind("\\boxed{", 0, end)) >= 0:
        depth, begin = 1, start + len("\\boxed{")
        for brace in _BRACE.finditer(text, begin, end):
            depth += (brace.group() == "{") - (brace.group() == "}")
            if depth == 0:
                return text[begin : brace.start()]
        # This box never closes, so one around it does not either: only a box that ends before it can be whole.
        end = start
    return None


def _parquet(file: Path) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(file).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(f"{file} cannot be read as Parquet: {str(error).splitlines()[0]}") from None


def _jsonl(file: Path) -> list[dict[str, Any]]:
    out = []
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig"))
            except UnicodeDecodeError:
                raise ConfigError(f"{file}:{number}: not UTF-8 text. Convert the file first.") from None
            except json.JSONDecodeError as error:
                raise ConfigError(
                    f"{file}:{number}: not JSON ({error.msg}). One JSON object a line is expected."
                ) from None
            if not isinstance(row, dict):
                raise ConfigError(f"{file}:{number}: a {type(row).__name__}, where a JSON object is expected")
            out.append(row)
    return out


def _hub(path: str, name: str | None, split: str, setting: str) -> list[dict[str, Any]]:
    import datasets
    import httpx

    try:
        return list(datasets.load_dataset(path, name, split=split))
    except (OSError, ValueError, RuntimeError, httpx.HTTPError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(
            f"{setting}={path!r} (config {name!r}, split {split!r}) could not be read from the Hugging Face "
            f"hub: {reason}. Check the id and the network, or give a local file: {setting}=FILE.jsonl"
        ) from None
