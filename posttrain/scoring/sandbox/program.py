"""The candidate's process where it is a program: with its input and output, from its start to its end, as by `python`."""

from __future__ import annotations

import atexit
import builtins
import contextlib
import io
import linecache
import os
import socket
import sys
import threading
import traceback
from types import ModuleType
from typing import Any

from posttrain.scoring.sandbox import wire

FILE = "solution.py"
_SAID = 300  # characters of an error
_STREAMS = {"/dev/stdin": 0, "/dev/fd/0": 0, "/dev/stdout": 1, "/dev/fd/1": 1, "/dev/stderr": 2}


def run_program(channel: int, stdin: int, stdout: int) -> int:
    """The exit code, as Python's own would be."""
    talk = socket.socket(fileno=channel)
    code = str(wire.receive(talk)["code"])
    os.dup2(stdin, 0)
    os.dup2(stdout, 1)
    os.close(stdin)
    os.close(stdout)
    builtins.open = io.open = _opened
    main = module("__main__", code)
    output = sys.stdout
    status = 1
    try:
        try:
            exec(compile(code, FILE, "exec"), main.__dict__)
            status = 0
        except SystemExit as error:
            status = _exit_code(error)
        threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, as at a program's end
        atexit._run_exitfuncs()
    except BaseException as error:
        wire.send(talk, {"error": said(error)})
    _end(main, output)
    return status


def module(name: str, code: str) -> ModuleType:
    """An empty module for the program, which finds its own source as a program in a file does."""
    made = ModuleType(name)
    made.__file__ = FILE
    sys.modules[name] = made
    sys.argv = [FILE]
    linecache.cache[FILE] = (len(code), None, code.splitlines(keepends=True), FILE)
    return made


_open = io.open


def _opened(file: Any, *how: Any, **named: Any) -> Any:
    """`open`, which finds the standard streams by their names too: the jail has no such files."""
    if isinstance(file, str) and file in _STREAMS:
        file = os.dup(_STREAMS[file])
    return _open(file, *how, **named)


def _end(main: ModuleType, output: Any) -> None:
    """Writes out what is left: in streams, and in objects that write when they go."""
    _flush(sys.stdout)
    names = vars(main)
    for private in (True, False):  # in Python's own order
        for name in [n for n in names if n.startswith("_") == private and n != "__builtins__"]:
            with contextlib.suppress(BaseException):
                names[name] = None
    for stream in (sys.stdout, output):
        _flush(stream)


def _flush(stream: Any) -> None:
    """If it can be: a program may close its output, or put anything in its place."""
    with contextlib.suppress(BaseException):
        stream.flush()


def _exit_code(error: SystemExit) -> int:
    if error.code is None:
        return 0
    return error.code & 0xFF if isinstance(error.code, int) else 1


def said(error: BaseException) -> str:
    """An error in one line, with the line of the program it comes from."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == FILE]
    where = f" (line {lines[-1]})" if lines else ""
    return f"{type(error).__name__}: {error}"[:_SAID] + where
