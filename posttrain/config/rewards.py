"""Rewards by name, path or file: a file with one plain function in it is a reward of the file's name."""

from __future__ import annotations

import functools
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from posttrain.config.errors import ConfigError, text_of
from posttrain.config.imports import load_file
from posttrain.config.names import nearest
from posttrain.config.problems import failure
from posttrain.config.registry import Registry
from posttrain.config.reward_modules import PACKAGE, as_file, candidates, dotted, reward_files, reward_in

__all__ = ["PACKAGE", "Rewards", "reward_files"]

_beside: ContextVar[Path] = ContextVar("folder of the recipe that is being read", default=Path())


class Rewards(Registry[Any]):
    """Also takes `name` of a file `rewards/name.py` here or beside the recipe, `./file.py` and `package.module.name`.

    A name that means two things is an error wherever it is looked up; a path says which.
    """

    def installed(self) -> list[str]:
        """Names that mean the same everywhere."""
        return super().names()

    def names(self) -> list[str]:
        return sorted({*self.installed(), *self.files(_beside.get())})

    def files(self, folder: Path) -> dict[str, Path]:
        """Those of files here and beside a recipe, of which the latter go first."""
        return {**reward_files(Path()), **reward_files(folder)}

    @contextmanager
    def beside(self, folder: Path) -> Iterator[None]:
        """Within, the rewards in that folder are among the names."""
        token = _beside.set(folder)
        try:
            yield
        finally:
            _beside.reset(token)

    def find(self, name: str, folder: Path = Path()) -> type[Any]:
        if name.endswith(".py"):
            module = load_file(folder / Path(name).expanduser())
            return super().find(f"{name}:{reward_in(module, name)}", folder)
        if ":" in name:
            return super().find(name, folder)
        if "/" in name or name.startswith("."):
            raise ConfigError(as_file(name, folder))
        if "." in name:
            return super().find(dotted(name), folder)
        files = self.files(folder)
        claims = self.claims(name)
        if name in files:
            if claims:
                raise ConfigError(two(name, [*claims, f"./{files[name]}"]))
            return self.find(str(files[name].resolve()))
        if len(claims) > 1:
            raise ConfigError(two(name, claims))
        if not claims and name not in self.classes:
            known = {*self.installed(), *files, *reward_files(_beside.get())}
            raise ConfigError(f"no {self.kind} is called {name!r}. {nearest(name, known)}")
        return super().find(name, folder)

    def claims(self, name: str) -> list[str]:
        """Everything that is called so wherever we are, each by what to write behind `use` to get it and nothing else."""
        found = [entry.value for entry in self.entries() if entry.name == name]
        if not any(place.startswith(f"{PACKAGE}.") for place in found):
            self._import_home()
            if (known := self.classes.get(name)) is not None:
                place = f"{known.__module__}:{known.__qualname__}"
                found += [place] if known.__module__.startswith(f"{PACKAGE}.") or not found else []
        return list(dict.fromkeys(found))

    def entries(self) -> tuple[EntryPoint, ...]:
        """What installed packages bring, posttrain among them."""
        return _brought(str(self.group), tuple(sys.path))

    def name_of(self, cls: type) -> str:
        """By its place where the name alone would not tell it from another one's."""
        name = super().name_of(cls)
        ambiguous = name in self.classes and (name in self.files(_beside.get()) or len(self.claims(name)) > 1)
        return f"{cls.__module__}:{cls.__qualname__}" if ambiguous else name

    def _construct(self, cls: type[Any], settings: dict[str, Any]) -> Any:
        built = super()._construct(cls, settings)
        try:
            pickle.dumps(built)
        except Exception as error:  # whatever a plugin's fields raise when they are copied
            raise failure(
                self.kind,
                f"it cannot be sent to the processes that judge: {text_of(error)}. Define its class at the top level of a "
                "module, and keep open files, connections and locks out of its fields: `prepare` may open them.",
            ) from error
        return built

    def _at_path(self, name: str, folder: Path) -> type[Any]:
        if name.startswith(f"{PACKAGE}."):
            self._import_home()  # in a checkout that is not installed it is a folder of another name
        return super()._at_path(name, folder)

    def _import_home(self) -> None:
        if self._home_imported:
            return
        super()._import_home()
        known = {cls.__module__ for cls in self.classes.values()}
        for module in [m for n, m in sys.modules.items() if n.startswith(f"{PACKAGE}.")]:
            stem = module.__name__.rpartition(".")[2]
            if module.__name__ not in known and not stem.startswith("_") and candidates(module):
                name = reward_in(module, stem)
                self.classes[stem] = self._component(getattr(module, name), stem, f"{module.__name__}:{name}")


@functools.lru_cache(maxsize=8)
def _brought(group: str, path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """`path` is where packages are looked for; reading what each of them says takes a hundredth of a second."""
    return tuple(entry_points(group=group))


def two(name: str, places: list[str]) -> str:
    """Words for a name that means several rewards, and what to do."""
    listed = ", or ".join(f"use: {place}" for place in places)
    return f"two rewards are called {name!r}. Say which: {listed}. Or rename one of them."
