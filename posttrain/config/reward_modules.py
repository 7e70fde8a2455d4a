"""The rewards in files and modules: which file has which name, and what in a module is the reward."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import sys
from pathlib import Path
from types import ModuleType

from posttrain.config.errors import ConfigError
from posttrain.config.imports import broken, within_limit

FOLDER = "rewards"
TEXTS = frozenset({"completion", "completions", "completion_ids"})  # a reward function takes one of them
PACKAGE = "posttrain_rewards"


def reward_files(folder: Path) -> dict[str, Path]:
    """The rewards in the folder `rewards/` below a folder, by name; those that come with posttrain are not among them."""
    below = folder / FOLDER
    packaged = getattr(sys.modules.get(PACKAGE), "__path__", [])
    home = Path(__file__).resolve().parents[2] / FOLDER
    if not below.is_dir() or below.resolve() in {home, *(Path(p).resolve() for p in packaged)}:
        return {}
    return {p.stem: p for p in sorted(below.glob("*.py")) if not p.stem.startswith(("_", "test_"))}


def candidates(module: ModuleType) -> list[str]:
    """Names of what may be a reward in a module: what it defines, and partials and objects, which say not where."""
    return [
        name
        for name, thing in vars(module).items()
        if not name.startswith("_")
        and (getattr(thing, "__module__", None) == module.__name__ or not _has_a_home(thing))
        and _may_judge(thing)
    ]


def _has_a_home(thing: object) -> bool:
    return isinstance(thing, type) or inspect.isroutine(thing)


def _may_judge(thing: object) -> bool:
    """Whether it is a component, or can be called and takes completions."""
    if isinstance(thing, type):
        return dataclasses.is_dataclass(thing) and "__call__" in vars(thing)
    try:
        return callable(thing) and bool(TEXTS & set(inspect.signature(thing).parameters))
    except (ValueError, TypeError):  # written in C, and it does not say
        return False


def reward_in(module: ModuleType, where: str) -> str:
    """The name of the one reward in a module: called like the file, or `score`, or the only one there is."""
    likely = [name for name in (Path(str(module.__file__)).stem, "score") if hasattr(module, name)]
    for name in likely:
        if _may_judge(getattr(module, name)):
            return name
    if hidden := next((name for name in likely if _hides(getattr(module, name))), None):
        return hidden  # what makes a component of it says what is wrong
    found = candidates(module)
    if len(found) == 1:
        return found[0]
    if not found:
        raise ConfigError(
            f"{where} holds no reward: no function in it has a parameter `completion` (one sample) or `completions` "
            "(a batch, as in TRL), and no dataclass a __call__. `posttrain rewards new NAME` writes an example."
        )
    raise ConfigError(f"{where} holds several rewards: {', '.join(found)}. Say which, as in {where}:{found[0]}.")


def _hides(thing: object) -> bool:
    """Whether a function does not say what it takes, as one within a decorator without functools.wraps does not."""
    if not inspect.isfunction(thing):
        return False
    parameters = inspect.signature(thing).parameters.values()
    return bool(parameters) and all(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)


def dotted(name: str) -> str:
    """`package.module.function`, or `package.module` with one reward in it, as `package.module:function`."""
    where, _, attribute = name.rpartition(".")
    module = _imported(where, name)
    if not hasattr(module, attribute) and hasattr(module, "__path__"):
        try:
            _imported(name, name)  # a module below it that nobody has imported yet
        except ConfigError as error:
            if not isinstance(error.__cause__, ModuleNotFoundError) or error.__cause__.name != name:
                raise
    if not hasattr(module, attribute):
        raise ConfigError(f"module {where} has no {attribute!r}.")
    found = getattr(module, attribute)
    return f"{name}:{reward_in(found, name)}" if isinstance(found, ModuleType) else f"{where}:{attribute}"


def _imported(module: str, name: str) -> ModuleType:
    try:
        with within_limit(f"module {module!r}"):
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not (module == error.name or module.startswith(f"{error.name}.")):
            raise ConfigError(f"reward {name!r} cannot be imported: {error}. Install what is missing.") from error
        raise ConfigError(
            f"there is no module {module!r} for the reward {name!r}. Check the spelling and PYTHONPATH; a file is named "
            "by its path, as in ./rewards/mine.py."
        ) from error
    except (Exception, SystemExit) as error:
        raise broken(f"reward {name!r}", error) from error


def as_file(name: str, folder: Path) -> str:
    """Words for a name that is a path without .py at its end."""
    path = Path(name).expanduser()
    if (folder / f"{path}.py").is_file():
        return f"there is no reward {name!r}, but a file {name}.py: name it with its ending, as in {name}.py."
    return f"there is no reward {name!r}. A file is named by its path with .py, as in ./rewards/mine.py."
