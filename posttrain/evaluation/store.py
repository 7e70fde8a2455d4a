"""The folder of an evaluation: what was asked, every sample as soon as it is judged, and the results."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from posttrain.config.errors import ConfigError

ASKED, RESULTS, REPORT, LOCK = "evaluation.json", "results.json", "report.html", ".lock"
FOLDERS = ("questions", "samples", "clusters")
# Part of what was asked that says where it ran; it may differ when an evaluation is continued.
WHERE = re.compile(
    r"environment\.(hardware|python)\b|(data_parallel|workers)$|benchmarks\..*\.origin$|models\..*\.asked$|protocol\.name$"
    r"|sittings"
)
Row = dict[str, Any]
Clusters = dict[str, list[int | None]]  # question: the cluster of each of its samples


class CannotWrite(ConfigError):
    """The disk is full, or the folder went away: not a matter of one model."""


class Store:
    """Appends samples and reads them back. One process at a time has it open for writing.

    A sample is one line of `samples/<model>/<bench>.jsonl`, on its way to the disk when `append` returns; a last line
    that was torn by a kill is dropped when the folder is opened again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[Path, TextIO] = {}
        self._lock: TextIO | None = None

    # ---- opening ----
    def open(self, asked: Mapping[str, Any], overwrite: bool = False) -> bool:
        """Takes the folder for this evaluation; whether it continues one. Raises ConfigError where it holds another."""
        if self.folder.exists() and not self.folder.is_dir():
            raise ConfigError(f"--out {self.folder} is a file: name a folder.")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = (self.folder / LOCK).open("w")
        except OSError as error:
            raise ConfigError(
                f"--out {self.folder} cannot be written: {error.strerror}. Name another folder."
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"--out {self.folder}: another evaluation is writing there. Wait for it, or stop it."
            ) from None
        if overwrite:
            self._clear()
        there = read_json(self.folder / ASKED)
        if there is None:
            if any((self.folder / name).exists() for name in FOLDERS):
                raise ConfigError(
                    f"--out {self.folder} holds samples but no {ASKED}. Use --overwrite, or another folder."
                )
            write_json(self.folder / ASKED, {**asked, "sittings": [_sitting(asked)]})
            return False
        if different := differing(there, asked):
            listed = "; ".join(different[:5]) + (f"; and {len(different) - 5} more" if len(different) > 5 else "")
            raise ConfigError(
                f"--out {self.folder} holds an evaluation with other settings ({listed}). Ask for the same to continue it, "
                "name another folder, or use --overwrite to replace it."
            )
        for path in sorted((self.folder / "samples").glob("*/*.jsonl")):
            _mend(path)
        sittings = [*there.get("sittings", []), _sitting(asked)]
        write_json(self.folder / ASKED, {**asked, "models": _remembered(there, asked), "sittings": sittings})
        return True

    def _clear(self) -> None:
        for name in FOLDERS:
            shutil.rmtree(self.folder / name, ignore_errors=True)
        for name in (ASKED, RESULTS, REPORT):
            (self.folder / name).unlink(missing_ok=True)

    # ---- writing ----
    def append(self, model: str, bench: str, row: Mapping[str, Any]) -> None:
        path = self._samples(model, bench)
        if path not in self._files:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._files[path] = path.open("a", encoding="utf-8")
        try:
            self._files[path].write(json.dumps(row) + "\n")
            self._files[path].flush()
        except OSError as error:
            raise CannotWrite(
                f"{path} cannot be written: {error.strerror}. What is finished is there; mend this, and give the same command."
            ) from None

    def write_questions(self, bench: str, rows: Iterable[Mapping[str, Any]]) -> None:
        path = self.folder / "questions" / f"{bench}.jsonl"
        _replace(path, "".join(json.dumps(row) + "\n" for row in rows))

    def write_clusters(self, model: str, bench: str, clusters: Clusters) -> None:
        write_json(self.folder / "clusters" / model / f"{bench}.json", clusters)

    def write_results(self, results: Mapping[str, Any]) -> Path:
        write_json(self.folder / RESULTS, results)
        return self.folder / RESULTS

    # ---- reading ----
    def rows(self, model: str, bench: str) -> list[Row]:
        """Every finished sample, by question and number and not in the order in which they came."""
        order = {row["question"]: i for i, row in enumerate(self.questions(bench))}
        rows = _lines(self._samples(model, bench))
        return sorted(rows, key=lambda row: (order.get(row["question"], len(order)), row["sample"]))

    def questions(self, bench: str) -> list[Row]:
        return _lines(self.folder / "questions" / f"{bench}.jsonl")

    def finished(self, model: str, bench: str) -> set[tuple[str, int]]:
        """(question, sample) of what need not be done again."""
        return {(row["question"], row["sample"]) for row in _lines(self._samples(model, bench))}

    def asked(self) -> dict[str, Any]:
        found = read_json(self.folder / ASKED)
        if found is None:
            raise ConfigError(f"{self.folder} is no folder of an evaluation: it has no {ASKED}.")
        return found

    # ---- closing ----
    def close(self) -> None:
        """May be called again."""
        while self._files:
            self._files.popitem()[1].close()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _samples(self, model: str, bench: str) -> Path:
        return self.folder / "samples" / model / f"{bench}.jsonl"


def _sitting(asked: Mapping[str, Any]) -> dict[str, Any]:
    """When and where this part of the work is done."""
    where = asked.get("environment", {})
    return {"began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "hardware": where.get("hardware")}


def _remembered(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[Any]:
    """The models of `here`; of one that is broken what was known of it before, so that no other takes its samples over."""
    known = {one["key"]: one for one in there.get("models", ())}
    return [known.get(one["key"], one) if one.get("failed") else one for one in here.get("models", ())]


def differing(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """`key: there -> here` for every setting that is not the same, but for those that only say where it runs.

    A model that was broken before, or is now, may have been mended or have gone: of it only the name counts.
    """
    old, new = _flat(there), _flat(here)
    broken = {m["key"] for asked in (there, here) for m in asked.get("models", ()) if m.get("failed")}
    free = tuple(f"models.{key}." for key in broken)
    keys = [k for k in {**new, **old} if not WHERE.match(k) and old.get(k, _ABSENT) != new.get(k, _ABSENT)]
    keys = [k for k in keys if not k.startswith(free)]
    return [f"{k}: {_shown(old.get(k, _ABSENT))} -> {_shown(new.get(k, _ABSENT))}" for k in keys]


_ABSENT = object()


def _shown(value: Any) -> str:
    text = "absent" if value is _ABSENT else json.dumps(value)
    return text if len(text) <= 40 else text[:16] + ".."


def _flat(value: Any, at: str = "") -> dict[str, Any]:
    """Leaves by dotted key. Items of a list go by their name or key where they have one."""
    if isinstance(value, Mapping):
        below: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(x, Mapping) for x in value):
        below = ((x.get("key", x.get("name", i)), x) for i, x in enumerate(value))
    else:
        return {at: value}
    return {k: v for key, inner in below for k, v in _flat(inner, f"{at}.{key}" if at else str(key)).items()}


# ---- files ----
def read_json(path: Path) -> dict[str, Any] | None:
    """None where there is no such file."""
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON ({error}). Put it right, or use --overwrite.") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{path} holds a {type(found).__name__} where an object is due.")
    return found


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """The whole file or none of it."""
    _replace(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise CannotWrite(
            f"{path} cannot be written: {error.strerror}. Free some space, or name another --out."
        ) from None


def _mend(path: Path) -> None:
    """Cuts off what follows the last line break."""
    with path.open("rb+") as file:
        data = file.read()
        file.truncate(data.rfind(b"\n") + 1)


def _lines(path: Path) -> list[Row]:
    if not path.is_file():
        return []
    out = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):  # the last one is empty, or torn
        try:
            out.append(json.loads(line))
        except ValueError as error:
            raise ConfigError(f"{path}:{number}: not JSON ({error}). Remove the line to sample it again.") from None
    return out
