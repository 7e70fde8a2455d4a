"""`posttrain rewards`: list, show, test, score, new. No torch here."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from posttrain.config.errors import ConfigError
from posttrain.config.load import find_recipe, load_recipe
from posttrain.config.registries import REWARDS
from posttrain.config.tree import read_overrides
from posttrain.scoring.functions import FunctionReward
from posttrain.scoring.listing import print_list, print_one
from posttrain.scoring.output import can_take
from posttrain.scoring.pool import ScorerBroken
from posttrain.scoring.rows import Progress, rows_of, score_file
from posttrain.scoring.scorer import Scorer, scorer_of
from posttrain.scoring.templates import REWARD_FILE, TEST_FILE
from posttrain.scoring.trial import trial


def run(options: argparse.Namespace) -> int:
    try:
        match options.action:
            case "show":
                print_one(_named(options), _folder(options))
                return 0
            case "test":
                return _test(options, _named(options))
            case "score":
                return _score(options)
            case "new":
                return _new(_named(options))
        print_list(_folder(options))
        return 0
    except ScorerBroken as error:
        raise ConfigError(f"rewards {options.action}: {error}") from error


def _named(options: argparse.Namespace) -> str:
    name = options.name or options.reward
    if name is None:
        raise ConfigError(
            f"rewards {options.action}: name a reward, such as `posttrain rewards {options.action} math`."
        )
    return str(name)


def _folder(options: argparse.Namespace) -> Path:
    """Where `rewards/` may lie: beside the recipe, or here."""
    return find_recipe(options.recipe).parent if options.recipe else Path()


def _built(name: str, options: argparse.Namespace) -> Any:
    settings: Mapping[str, Any] = read_overrides(options.option).plain()
    return REWARDS.build({"use": name, **settings}, f"reward {name}", _folder(options))


def _test(options: argparse.Namespace, name: str) -> int:
    reward = _built(name, options)
    with Scorer({name: (reward, 1.0)}, **_limits(options)) as scorer:
        results = list(trial(reward, scorer))
    for result in results:
        print(f"{'ok  ' if result.holds else 'FAIL'} {result.what}: {result.found}")
    if not any(result.example for result in results):
        hint = "a list EXAMPLES in its file" if isinstance(reward, FunctionReward) else "a method examples()"
        print(f"note: {name} has no examples of its own; give it {hint}, one right and one wrong at least")
    failed = sum(not result.holds for result in results)
    print(f"{len(results) - failed} of {len(results)} as they should be")
    return 1 if failed else 0


def _score(options: argparse.Namespace) -> int:
    if options.file is None or bool(options.reward or options.name) == bool(options.recipe):
        raise ConfigError(
            "rewards score: needs --file and one of --reward and --recipe: "
            "`posttrain rewards score --reward math --file in.jsonl --out out.jsonl`."
        )
    source = rows_of(options.file)
    out = can_take(Path(options.out), source) if options.out else None
    with _judging(options) as scorer:
        progress = Progress(source.stat().st_size if source else 0, sys.stderr)
        counts = score_file(source, out, scorer, progress)
        progress.end(counts)
    return 0


def _judging(options: argparse.Namespace) -> Scorer:
    """One reward, or all of a recipe as a run judges with them, under the recipe's limits but for those given."""
    if not options.recipe:
        name = options.reward or options.name
        return Scorer({name: (_built(name, options), 1.0)}, **_limits(options))
    return scorer_of(load_recipe(options.recipe, options.option).recipe, **_limits(options))


def _limits(options: argparse.Namespace) -> dict[str, Any]:
    given = {key: getattr(options, key) for key in ("workers", "timeout", "memory_mb")}
    return {key: value for key, value in given.items() if value is not None}


def _new(name: str) -> int:
    if not name.isidentifier() or name.startswith(("_", "test_")):
        raise ConfigError(
            f"rewards new: {name!r} cannot be a reward's name: it has to be a Python name, as my_reward is."
        )
    if name in REWARDS.names():  # with those of files here
        raise ConfigError(
            f"rewards new: there is a reward {name!r} already; `posttrain rewards show {name}` says where."
        )
    tests = Path("tests/rewards") if Path("tests/rewards").is_dir() else Path("tests")
    files = {Path(f"rewards/{name}.py"): REWARD_FILE, tests / f"test_{name}.py": TEST_FILE}
    for path in files:
        if path.exists():
            raise ConfigError(f"rewards new: {path} exists. Remove it, or choose another name.")
        if path.parent.exists() and not path.parent.is_dir():
            raise ConfigError(f"rewards new: {path.parent} is a file, and a folder is needed there. Rename it.")
    for path, text in files.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text.replace("NAME", name), encoding="utf-8")
        except OSError as error:
            raise ConfigError(
                f"rewards new: {path} cannot be written: {error.strerror}. Go to another folder."
            ) from None
        print(f"wrote {path}")
    print(f"next: posttrain rewards test {name}; in a recipe, reward: {{correct: {{use: {name}}}}}")
    return 0
