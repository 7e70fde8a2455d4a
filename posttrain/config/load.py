"""From a recipe's name, its parents and the command line to a typed recipe that knows its origins."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from posttrain.config.errors import ConfigError
from posttrain.config.parents import find_recipe, layers, recipes_folder
from posttrain.config.recipe import Recipe
from posttrain.config.registries import REWARDS
from posttrain.config.rewards import PACKAGE, two
from posttrain.config.tree import DEFAULT, Node, laid, read_overrides, shown_path
from posttrain.config.validate import validate


@dataclass(frozen=True)
class Loaded:
    """A recipe and where it came from."""

    recipe: Recipe
    tree: dict[str, Any]  # what files and command line say
    resolved: dict[str, Any]  # with the defaults; written as YAML it loads as an equal recipe
    origins: dict[str, str]  # of every leaf of `resolved`: file:line, "command line" or "default"
    path: Path
    overrides: tuple[str, ...] = field(default=())

    def yaml(self) -> str:
        """The resolved recipe as text."""
        return yaml.safe_dump(self.resolved, sort_keys=False, allow_unicode=True, width=110)


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Loaded:
    """A packaged recipe by name (`quickstart`), or any file by path, with `key.sub=value` laid over it."""
    path = find_recipe(str(name_or_path))
    return load(layers(path), read_overrides(list(overrides)), path, overrides=tuple(overrides))


def load(below: Sequence[Node], over: Node, path: Path, *, overrides: tuple[str, ...] = ()) -> Loaded:
    """Layers of a recipe and what is laid over them, typed; `path` names the recipe and takes the blame."""
    if "extends" in over.value:
        raise ConfigError(
            f"{over.origin}: extends cannot be set here. Write a recipe of two lines that extends the other."
        )
    folder = path.resolve().parent
    node = _with_reward_files(laid([*below, over]), folder)
    if "name" not in node.value:
        node = Node({"name": Node(path.stem, DEFAULT), **node.value}, node.origin)
    with REWARDS.beside(folder):
        recipe = validate(node, shown_path(path))
        resolved = recipe.model_dump(mode="json")
    return Loaded(recipe, node.plain(), resolved, _origins(resolved, node), path, overrides)


def _with_reward_files(node: Node, folder: Path) -> Node:
    """`use: name` of a file in `rewards/` here or beside the recipe becomes its path.

    Where something else has that name, too, a packaged recipe means what comes with posttrain, and any other has to say.
    """
    files, parts = REWARDS.files(folder), node.value.get("reward")
    if parts is None or not isinstance(parts.value, dict):
        return node

    def found(part: Node) -> Node:
        if isinstance(part.value, dict):  # a reward with another one in it calls that its verifier
            inner = {key: found(part.value[key]) for key in ("use", "verifier") if key in part.value}
            return Node({**part.value, **inner}, part.origin)
        if not isinstance(part.value, str) or not part.value.isidentifier():
            return part
        named = part.value
        claims = REWARDS.claims(named)
        places = [*claims, *([str(files[named].resolve())] if named in files else [])]
        if len(places) > 1 and _packaged(part.origin):
            return Node(next((place for place in claims if place.startswith(f"{PACKAGE}.")), named), part.origin)
        if len(places) > 1:
            shown = [*claims, *([_from(folder, files[named])] if named in files else [])]
            raise ConfigError(f"{part.origin}: {two(named, shown)}")
        return Node(places[0], part.origin) if named in files else part

    return Node(
        {**node.value, "reward": Node({k: found(v) for k, v in parts.value.items()}, parts.origin)}, node.origin
    )


def _packaged(origin: str) -> bool:
    """Whether a line stands in a recipe that comes with posttrain."""
    home = recipes_folder()
    return home is not None and Path(origin.rpartition(":")[0]).resolve().is_relative_to(home.resolve())


def _from(folder: Path, file: Path) -> str:
    """A file as a recipe in that folder names it."""
    way = os.path.relpath(file.resolve(), folder)
    return way if way.startswith("../") else f"./{way}"


def value_at(resolved: Any, key: str) -> Any:
    """What a resolved recipe holds at a dotted key."""
    for part in key.split("."):
        resolved = resolved[int(part)] if isinstance(resolved, list) else resolved[part]
    return resolved


def _origins(resolved: dict[str, Any], node: Node) -> dict[str, str]:
    places = {key: n.origin for key, n in node.walk()}
    written = {key for key, n in node.walk() if not isinstance(n.value, dict | list)}
    out = {}
    for key in _leaves(resolved):
        short = key.removesuffix(".use")  # `advantage: group` is where `advantage.use` comes from
        out[key] = places.get(key) or (places[short] if short in written else DEFAULT)
    return out


def _leaves(value: Any, at: str = "") -> list[str]:
    """Dotted keys of everything that is no map and no list of maps."""
    if isinstance(value, dict) and value:
        return [leaf for k, v in value.items() for leaf in _leaves(v, f"{at}.{k}" if at else str(k))]
    if isinstance(value, list) and any(isinstance(v, dict | list) for v in value):
        return [leaf for i, v in enumerate(value) for leaf in _leaves(v, f"{at}.{i}")]
    return [at]
