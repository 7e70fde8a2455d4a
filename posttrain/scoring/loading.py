"""Imports the rewards of a `Setup`, wherever their modules lie, and says whether the result can be forked."""

from __future__ import annotations

import importlib
import importlib.util
import os
import pickle
import sys
import threading
import time
from collections.abc import Mapping

from posttrain.config.imports import import_home
from posttrain.scoring.api import Part, waits
from posttrain.scoring.wire import Setup

SETTLE = 2.0  # seconds


def load(setup: Setup) -> dict[str, Part]:
    """The parts of the sum by name, prepared but for those that wait. Raises whatever a plugin raises."""
    for name, file in setup.modules.items():
        _ensure_module(name, file)
    parts: dict[str, Part] = pickle.loads(setup.rewards)
    prepare(parts, waiting=False)
    return parts


def prepare(parts: Mapping[str, Part], waiting: bool) -> None:
    """Calls `prepare` of the rewards that wait for something outside, or of the others."""
    for part in parts.values():
        own = getattr(part.reward, "prepare", None)
        if own is not None and waits(part.reward) == waiting:
            own()


def descriptors() -> set[str]:
    """The numbers of what this process has open. Empty where there is no /proc."""
    try:
        return {number for number in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{number}")}
    except FileNotFoundError:
        return set()


def unforkable(before: set[str]) -> str:
    """Why a fork of this process would not do what it does: threads, open files and connections. Empty when it would.

    `before` are the descriptors that were open before the rewards were loaded. What an import leaves behind may take a
    moment to end.
    """
    end = time.monotonic() + SETTLE
    while (why := _in_the_way(before)) and time.monotonic() < end:
        time.sleep(0.02)
    return why


def _in_the_way(before: set[str]) -> str:
    try:
        threads = len(os.listdir("/proc/self/task"))
    except FileNotFoundError:
        threads = threading.active_count()
    if threads > 1:
        return f"{threads - 1} threads run beside the main one"
    opened = len(descriptors() - before)
    return f"{opened} files or connections are open" if opened else ""


def _ensure_module(name: str, file: str | None) -> None:
    """Imports a module by name, or from its file: a reward beside a recipe is in no package."""
    if name.partition(".")[0] == "posttrain_rewards":
        import_home("posttrain_rewards")  # in a checkout that is not installed it is a folder of another name
    try:
        importlib.import_module(name)
        return
    except ModuleNotFoundError as error:
        if file is None or error.name is None or not (name == error.name or name.startswith(error.name + ".")):
            raise
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot load {name} from {file}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
