"""Where the verdicts on a file go: whole, or not in place of what was there."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from posttrain.config.errors import ConfigError


def can_take(out: Path, source: Path | None) -> Path:
    """The file itself, if it can be written to and is not the one that is read."""
    if out.is_dir():
        raise _refused(out, "it is a folder. Name a file in it.")
    if not out.absolute().parent.is_dir():
        raise _refused(
            out, f"there is no folder {out.parent}. Make it with `mkdir -p {out.parent}`, or choose another file."
        )
    if source is not None and out.exists() and out.samefile(source):
        raise _refused(out, "it is the file that is read. Choose another one.")
    return out.resolve()


class Output:
    """JSON Lines, printed where there is no file. A file is written beside its place as FILE.part, and moved at the end.

    When it ends early, the rows that there are stay in FILE.part.
    """

    def __init__(self, out: Path | None) -> None:
        self.out = out
        self.place = out
        if out is not None and (not out.exists() or out.is_file()):  # else a device or a pipe
            self.place = out.with_name(f"{out.name}.part")
        with self._said():
            self.stream: TextIO = sys.stdout if self.place is None else open(self.place, "w", encoding="utf-8")  # noqa: SIM115

    def write(self, row: Mapping[str, Any]) -> None:
        with self._said():
            self.stream.write(json.dumps(row, allow_nan=False) + "\n")

    def __enter__(self) -> Output:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._said() if kind is None else contextlib.suppress(OSError):
            self.stream.flush()
        if self.out is None or self.place is None:
            return
        self.stream.close()
        if self.place == self.out:
            return
        if kind is None:
            with self._said():
                if self.out.exists():
                    shutil.copymode(self.out, self.place)
                os.replace(self.place, self.out)
        elif self.place.stat().st_size == 0:
            self.place.unlink()

    @contextlib.contextmanager
    def _said(self) -> Any:
        try:
            yield
        except BrokenPipeError:  # `| head`
            raise
        except OSError as error:
            raise _refused(self.out, f"{error.strerror}. Choose another place, or make room.") from None


def _refused(out: Path | None, why: str) -> ConfigError:
    where = "the standard output" if out is None else f"--out {out}"
    return ConfigError(f"rewards score: {where} cannot be written to: {why}")
