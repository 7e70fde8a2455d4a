"""Rewards by name, path or file: a file with one plain function in it is a reward of the file's name."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from posttrain.config.errors import ConfigError
from posttrain.config.imports import broken, load_file
from posttrain.config.registry import Registry

FOLDER = "rewards"
TEXTS = frozenset({"completion", "completions", "completion_ids"})  # a reward function takes one of them
PACKAGE = "posttrain_rewards"


class Rewards(Registry[Any]):
    """Also takes `name` of a file `rewards/name.py` here or beside the recipe, `./file.py` and `package.module.name`."""

    def installed(self) -> list[str]:
        """Names that mean the same everywhere."""
        return super().names()

    def names(self) -> list[str]:
        return sorted({*self.installed(), *reward_files(Path())})

    def find(self, name: str, folder: Path = Path()) -> type[Any]:
        if name.endswith(".py"):
            module = load_file(folder / Path(name).expanduser())
            return super().find(f"{name}:{reward_in(module, name)}", folder)
        if ":" in name:
            return super().find(name, folder)
        if "." in name:
            return super().find(_dotted(name), folder)
        own = reward_files(folder) or reward_files(Path())
        if name not in own:
            return super().find(name, folder)
        if name in self.installed():
            raise ConfigError(
                f"two rewards are called {name!r}: one that is installed, and {own[name]}. Rename the file, or write "
                f"use: {own[name]}."
            )
        return self.find(str(own[name].resolve()))

    def _import_home(self) -> None:
        if self._home_imported:
            return
        super()._import_home()
        known = {cls.__module__ for cls in self.classes.values()}
        for module in [m for n, m in sys.modules.items() if n.startswith(f"{PACKAGE}.")]:
            stem = module.__name__.rpartition(".")[2]
            if module.__name__ not in known and candidates(module):
                self.classes[stem] = self._component(getattr(module, reward_in(module, stem)), stem, module.__name__)


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
    for name in (Path(str(module.__file__)).stem, "score"):
        if _may_judge(getattr(module, name, None)):
            return name
    found = candidates(module)
    if len(found) == 1:
        return found[0]
    if not found:
        raise ConfigError(
            f"{where} holds no reward: no function in it has a parameter `completion` (one sample) or `completions` "
            "(a batch, as in TRL), and no dataclass a __call__. `posttrain rewards new NAME` writes an example."
        )
    raise ConfigError(f"{where} holds several rewards: {', '.join(found)}. Say which, as in {where}:{found[0]}.")


def _dotted(name: str) -> str:
    """`package.module.function` as `package.module:function`."""
    where, _, attribute = name.rpartition(".")
    try:
        module = importlib.import_module(where)
    except ModuleNotFoundError as error:
        if error.name is None or not (where == error.name or where.startswith(f"{error.name}.")):
            raise ConfigError(f"reward {name!r} cannot be imported: {error}. Install what is missing.") from error
        raise ConfigError(
            f"there is no module {where!r} for the reward {name!r}. Check the spelling and PYTHONPATH; a file is named "
            "by its path, as in ./rewards/mine.py."
        ) from error
    except (Exception, SystemExit) as error:
        raise broken(f"reward {name!r}", error) from error
    if not hasattr(module, attribute):
        raise ConfigError(f"module {where} has no {attribute!r}.")
    found = getattr(module, attribute)
    return f"{name}:{reward_in(found, name)}" if isinstance(found, ModuleType) else f"{where}:{attribute}"
