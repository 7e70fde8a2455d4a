"""Results of async functions, waited for."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import threading
from collections.abc import Awaitable
from typing import Any


def settled(value: Any) -> Any:
    """The result of a function, waited for when the function is async.

    A process has one loop for all samples, as in TRL: a client that a module keeps belongs to the loop it was used in.
    """
    if not inspect.isawaitable(value):
        return value
    return _loop(os.getpid(), threading.get_ident()).run_until_complete(_awaited(value))


@functools.cache
def _loop(process: int, thread: int) -> asyncio.AbstractEventLoop:
    """That of a process and thread: a forked worker must not go on with its parent's."""
    return asyncio.new_event_loop()


async def _awaited(value: Awaitable[Any]) -> Any:
    return await value
