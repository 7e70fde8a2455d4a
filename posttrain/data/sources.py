"""Rows from files and from the Hugging Face hub. Nothing but text is ever loaded: no remote code."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Any

from posttrain.config.errors import ConfigError

FILES = (".jsonl", ".json", ".parquet")


def is_file(path: str) -> bool:
    """Whether `path` means a local file rather than a dataset id on the hub."""
    return path.endswith(FILES) or path.startswith(("/", "./", "../", "~"))


def rows(path: str, name: str | None, split: str) -> list[dict[str, Any]]:
    """Every row of a local JSONL or Parquet file, or of a hub dataset's split, as plain dictionaries."""
    if not is_file(path):
        return _hub(path, name, split)
    file = Path(path).expanduser()
    if not file.is_file():
        raise ConfigError(f"task.path={path!r}: there is no such file (looked at {file.resolve()})")
    if file.suffix == ".parquet":
        import pyarrow.parquet as pq

        return pq.read_table(file).to_pylist()
    return _jsonl(file)


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
        if row.get(column) is not None:
            return str(row[column])
    close = difflib.get_close_matches(wanted[0], row, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ConfigError(
        f"task.{setting}={names!r}: {where} has no such column (or it is null).{hint} "
        f"It has: {', '.join(row)}. Set task.{setting}=COLUMN."
    )


def last_boxed(text: str) -> str | None:
    """The content of the last `\\boxed{...}` whose braces close, or None. Linear in the text's length."""
    end = len(text)
    while (start := text.rfind("\\boxed{", 0, end)) >= 0:
        depth, begin = 0, start + len("\\boxed")
        for i in range(begin, end):
            depth += (text[i] == "{") - (text[i] == "}")
            if depth == 0:
                return text[begin + 1 : i]
        # This box never closes, so one around it does not either: only a box that ends before it can be whole.
        end = start
    return None


def _jsonl(file: Path) -> list[dict[str, Any]]:
    out = []
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ConfigError(
                    f"{file}:{number}: not JSON ({error.msg}). One JSON object a line is expected."
                ) from None
            if not isinstance(row, dict):
                raise ConfigError(f"{file}:{number}: a {type(row).__name__}, where a JSON object is expected")
            out.append(row)
    return out


def _hub(path: str, name: str | None, split: str) -> list[dict[str, Any]]:
    import datasets
    import httpx

    try:
        return list(datasets.load_dataset(path, name, split=split))
    except (OSError, ValueError, RuntimeError, httpx.HTTPError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(
            f"task.path={path!r} (config {name!r}, split {split!r}) could not be read from the Hugging Face hub: {reason}. "
            "Check the id and the network, or give a local file: task.path=FILE.jsonl"
        ) from None
