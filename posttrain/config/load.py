"""From a recipe's name, its parents and the command line to a typed recipe that knows its origins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from posttrain.config.errors import ConfigError
from posttrain.config.imports import package_folder
from posttrain.config.names import nearest
from posttrain.config.problems import describe, shown
from posttrain.config.recipe import Recipe
from posttrain.config.tree import Node, merge, read, read_overrides, shown_path

DEFAULT = "default"


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
    node = merge(_read_chain(path, ()), read_overrides(list(overrides)))
    if "extends" in node.value:
        raise ConfigError(
            "command line: extends cannot be set here. Write a recipe of two lines that extends the other."
        )
    if "name" not in node.value:
        node = Node({"name": Node(path.stem, DEFAULT), **node.value}, node.origin)
    recipe = _validate(node, path)
    resolved = recipe.model_dump(mode="json")
    return Loaded(recipe, node.plain(), resolved, _origins(resolved, node), path, tuple(overrides))


def recipes_folder() -> Path | None:
    """Where the packaged recipes are."""
    return package_folder("posttrain_recipes")


def packaged_recipes() -> dict[str, Path]:
    """Every packaged recipe by its name, such as `quickstart` or `algorithms/grpo`."""
    folder = recipes_folder()
    if folder is None:
        return {}
    return {str(p.relative_to(folder).with_suffix("")): p for p in sorted(folder.rglob("*.yaml"))}


def head_comment(path: Path) -> str:
    """The first sentence of the comment that a recipe begins with."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("# "):
            break
        lines.append(line.removeprefix("# "))
    return " ".join(lines)


def find_recipe(name: str) -> Path:
    """The file that a name or a path on the command line means."""
    path = Path(name).expanduser()
    if path.suffix in {".yaml", ".yml"} and path.is_file():
        return path
    known = packaged_recipes()
    if name in known:
        return known[name]
    if path.is_dir():
        raise ConfigError(f"{name} is a folder, not a recipe. Name a YAML file in it.")
    if path.is_file():
        raise ConfigError(f"{name} is no recipe: a recipe is a file that ends in .yaml.")
    wanted = name.removesuffix(".yaml").removesuffix(".yml").removeprefix("recipes/")
    raise ConfigError(f"there is no recipe {name!r}, neither as a file nor packaged. {nearest(wanted, known)}")


def _read_chain(path: Path, seen: tuple[Path, ...]) -> Node:
    """A file laid over its parents, the `extends` keys removed."""
    if path.resolve() in seen:
        circle = " -> ".join(shown_path(p) for p in (*seen, path))
        raise ConfigError(f"`extends` goes in a circle: {circle}. Remove one of them.")
    node = read(path)
    parent = node.value.get("extends")
    if parent is None:
        return node
    own = Node({k: v for k, v in node.value.items() if k != "extends"}, node.origin)
    if parent.value is None:
        return own
    return merge(_read_chain(_parent(parent, path), (*seen, path.resolve())), own)


def _parent(node: Node, child: Path) -> Path:
    if not isinstance(node.value, str):
        raise ConfigError(f"{node.origin}: extends: one file name is expected; got {shown(node.plain())}.")
    beside = child.resolve().parent / Path(node.value).expanduser()
    if beside.is_file():
        return beside
    known = packaged_recipes()
    name = node.value.removesuffix(".yaml")
    if name in known:
        return known[name]
    raise ConfigError(
        f"{node.origin}: extends: there is no {node.value!r} beside this file or among the packaged recipes. "
        f"{nearest(name, known)}"
    )


def _validate(node: Node, path: Path) -> Recipe:
    """The typed recipe, or one error with every problem in it.

    Rules that compare keys run only on a tree whose types are right. So that they are reported together with
    the wrong types, the wrong values are taken out and the rest is checked again; what depends on them is not
    judged.
    """
    tree = node.plain()
    errors = _errors(tree)
    if not errors:
        return Recipe.model_validate(tree)
    broken = {_key(e, tree) for e in errors}
    if any(e["type"] != "rule" for e in errors):
        for e in _rule_errors(tree, broken):
            if not any(_touch(key, b) for key in e["ctx"]["keys"] for b in broken):
                errors.append(e)
    raise ConfigError("\n".join(_lines(errors, tree, node, path)))


def _errors(tree: dict[str, Any]) -> list[ErrorDetails]:
    try:
        Recipe.model_validate(tree)
    except ValidationError as error:
        return error.errors(include_url=False)
    return []


@dataclass(frozen=True)
class Unknown:
    """Stands for a component that could not be built while the rest of a recipe is checked."""


_UNKNOWN = {"use": f"{__name__}:Unknown"}
_STANDINS: dict[str, Any] = {
    "model": _UNKNOWN,
    "task": _UNKNOWN,
    "objective": {"unknown": {"term": _UNKNOWN}},
    "reward": {"unknown": _UNKNOWN},
}


def _rule_errors(tree: dict[str, Any], broken: set[str]) -> list[ErrorDetails]:
    """The rules broken by what is left without the broken keys, which this adds to."""
    rest = {**{k: v for k, v in _STANDINS.items() if k not in tree}, **_without(tree, broken)}
    errors = _errors(rest)
    blocks = {str(e["loc"][0]) for e in errors if e["type"] != "rule" and e["loc"]}
    if blocks:  # what was taken out is needed: give the whole block up
        broken |= blocks
        rest = {k: v for k, v in rest.items() if k not in blocks}
        errors = _errors({**{k: v for k, v in _STANDINS.items() if k not in rest}, **rest})
    return [e for e in errors if e["type"] == "rule"]


def _without(tree: Any, broken: set[str], at: str = "") -> Any:
    if isinstance(tree, dict):
        inner = {k: f"{at}.{k}".lstrip(".") for k in tree}
        return {k: _without(v, broken, inner[k]) for k, v in tree.items() if inner[k] not in broken}
    return tree


def _touch(key: str, other: str) -> bool:
    return f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.")


def _lines(errors: list[ErrorDetails], tree: dict[str, Any], node: Node, path: Path) -> list[str]:
    """One line for every key that is wrong, in the order of the errors."""
    places = {key: n.origin for key, n in node.walk()}
    messages: dict[str, list[str]] = {}
    for e in errors:
        said = messages.setdefault(_key(e, tree), [])
        if (message := describe(e)) not in said:
            said.append(message)
    lines = []
    for key, said in messages.items():
        place = _place(key, places)
        lines.append(f"{place or shown_path(path)}: {key or 'recipe'}: {' Or: '.join(said)}")
    return lines


def _key(e: ErrorDetails, tree: Any) -> str:
    """The dotted key of an error: its location without pydantic's marks for the alternatives of a type."""
    parts: list[str] = []
    keep = e["type"] in {"missing", "missing_argument", "rule"}
    for part in e["loc"]:
        in_map = isinstance(tree, Mapping) and part in tree
        if in_map or (isinstance(tree, list) and isinstance(part, int) and part < len(tree)):
            tree = tree[part]
        elif not keep:
            continue
        parts.append(str(part))
    return ".".join(parts)


def _place(key: str, places: Mapping[str, str]) -> str:
    """Of the key, or of the nearest block around it that somebody wrote."""
    while key not in places and "." in key:
        key = key.rpartition(".")[0]
    place = places.get(key, "")
    return "" if place == DEFAULT else place


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
