"""From a recipe's name, its parents and the command line to a typed recipe that knows its origins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from posttrain.config.errors import ConfigError
from posttrain.config.parents import find_recipe, layers
from posttrain.config.recipe import Recipe
from posttrain.config.registries import REWARDS
from posttrain.config.rewards import reward_files
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
    node = _with_reward_files(laid([*below, over]), path.resolve().parent)
    if "name" not in node.value:
        node = Node({"name": Node(path.stem, DEFAULT), **node.value}, node.origin)
    recipe = validate(node, shown_path(path))
    resolved = recipe.model_dump(mode="json")
    return Loaded(recipe, node.plain(), resolved, _origins(resolved, node), path, overrides)


def _with_reward_files(node: Node, folder: Path) -> Node:
    """`use: name` of a file in `rewards/` beside the recipe becomes its path."""
    files, parts = reward_files(folder), node.value.get("reward")
    if not files or parts is None or not isinstance(parts.value, dict):
        return node
    installed = REWARDS.installed()

    def found(part: Node) -> Node:
        if isinstance(part.value, dict):  # a reward with another one in it calls that its verifier
            inner = {key: found(part.value[key]) for key in ("use", "verifier") if key in part.value}
            return Node({**part.value, **inner}, part.origin)
        if isinstance(part.value, str) and part.value in files:
            if part.value in installed:
                raise ConfigError(
                    f"{part.origin}: two rewards are called {part.value!r}: one that is installed, and "
                    f"{shown_path(files[part.value])}. Rename the file, or name it by its path."
                )
            return Node(str(files[part.value]), part.origin)
        return part

    return Node(
        {**node.value, "reward": Node({k: found(v) for k, v in parts.value.items()}, parts.origin)}, node.origin
    )


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
