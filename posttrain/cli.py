"""The command line. Every command imports what it needs when it runs, so that the light ones stay light."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NoReturn

from posttrain.compare import options as compare_options
from posttrain.config.errors import ConfigError
from posttrain.config.names import nearest
from posttrain.evaluation.command import options as eval_options

INTERRUPTED = 130  # as a shell reports Ctrl-C


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; the exit status is 2 when the user can mend what is wrong."""
    parser, commands = _parsers()
    argv = list(sys.argv[1:] if argv is None else argv)
    # Intermixed, so that `train quickstart --resume seed=1` means what it says.
    known = bool(argv) and argv[0] in commands
    options = commands[argv[0]].parse_intermixed_args(argv[1:]) if known else parser.parse_args(argv)
    options.words = argv[1:]
    if options.run is None:
        parser.print_help()
        return 2
    try:
        return options.run(options)
    except ConfigError as error:
        _complain(str(error))
        return 2
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # `posttrain explain ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


class _Parser(argparse.ArgumentParser):
    """Names the nearest command or option instead of listing them all."""

    commands: tuple[str, ...] = ()

    def error(self, message: str) -> NoReturn:
        if "invalid choice" in message and self.commands:
            wrong = message.split("'")[1]
            message = f"there is no command {wrong!r}. {nearest(wrong, self.commands)}"
        elif message.startswith("unrecognized arguments: "):
            wrong = message.removeprefix("unrecognized arguments: ").split()[0]
            known = [o for a in self._actions for o in a.option_strings]
            message = f"there is no option {wrong!r}. {nearest(wrong, known)} See `{self.prog} --help`."
        _complain(message)
        self.exit(2)


def _parsers() -> tuple[_Parser, dict[str, _Parser]]:
    """The parser that lists the commands, and the parser of each."""
    parser = _Parser(
        prog="posttrain", description="Reinforcement learning of reasoning models with verifiable rewards."
    )
    parser.add_argument("--version", action="version", version=_version())
    parser.set_defaults(run=None)
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=_Parser)
    commands: dict[str, _Parser] = {}

    def command(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        commands[name] = subparsers.add_parser(name, help=text, description=text)
        commands[name].set_defaults(run=run)
        parser.commands = (*parser.commands, name)
        return commands[name]

    check = command("check", _check, "Check a recipe and print its plan.")
    _recipe_arguments(check)
    check.add_argument("--launch", metavar="NAME", help="take ranks and ZeRO stage from launch/NAME.yaml")
    check.add_argument("--world", type=int, metavar="N", help="number of ranks")
    _folder_arguments(check)
    _recipe_arguments(
        command("explain", _explain, "Print the resolved recipe, the origin of every value, and the passes.")
    )
    command("schema", _schema, "Print the JSON Schema of recipes, for editors.")
    command("recipes", _recipes, "List the packaged recipes.")
    algorithms = command(
        "algorithms", _algorithms, "List the packaged algorithms, show one, or say which parts of them go together."
    )
    actions = ("list", "show", "matrix")
    algorithms.commands = actions  # type: ignore[attr-defined]
    algorithms.add_argument("action", choices=actions, nargs="?", default="list", help="list is the default")
    algorithms.add_argument("name", metavar="NAME", nargs="?", help="an algorithm's name, or a file")
    algorithms.add_argument("overrides", metavar="key=value", nargs="*", help="laid over the algorithm")
    written = algorithms.add_mutually_exclusive_group()
    written.add_argument("--markdown", action="store_true", help="matrix: as Markdown")
    written.add_argument("--json", action="store_true", help="matrix: one object for every pair")
    _audit_arguments(command("audit", _audit, "Compute an algorithm's loss and gradient on numbers you bring."))
    _rewards_arguments(command("rewards", _rewards, "List, show, test or write rewards, or score a file with one."))
    train = command("train", _train, "Train: picks, prints and runs the accelerate command.")
    _recipe_arguments(train)
    train.add_argument("--launch", metavar="NAME", help="accelerate configuration: a name such as cpu-2, or a file")
    train.add_argument("--dry-run", action="store_true", help="print the command and stop")
    _folder_arguments(train)
    sft = command("sft", _sft, "Supervised warm-up alone, on a recipe's demonstrations.")
    sft.add_argument("recipe", metavar="RECIPE", help="a packaged recipe's name, or a file")
    sft.add_argument("--model", required=True, metavar="FOLDER", help="model to start from, in Hugging Face format")
    sft.add_argument("--out", required=True, metavar="FOLDER", help="where the result goes")
    eval_options.arguments(
        command("eval", eval_options.run, "Evaluate models on benchmarks; regenerate one sample; compare evaluations.")
    )
    report = command("report", _report, "Write the report of a run folder again.")
    report.add_argument("folder", metavar="RUN", help="a run folder, such as runs/quickstart")
    compare_options.arguments(command("compare", compare_options.run, "Compare training runs, several seeds an arm."))
    doctor = command("doctor", _doctor, "Look at this machine and environment, and say how to mend what is wrong.")
    doctor.add_argument("--deep", action="store_true", help="also import the whole stack once")
    return parser, commands


def _recipe_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "recipe", metavar="RECIPE", help="a packaged recipe's name (see `posttrain recipes`), or a file"
    )
    parser.add_argument("overrides", metavar="key=value", nargs="*", help="laid over the recipe: batch.prompts=16")


def _audit_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--algorithm", required=True, metavar="NAME", help="see `posttrain algorithms`, or a file")
    parser.add_argument("--inputs", required=True, metavar="FILE.npz", help="logits, tokens, mask, rewards, group, ...")
    parser.add_argument("--out", required=True, metavar="FILE.npz", help="where the loss, gradients and columns go")
    parser.add_argument("--option", action="append", default=[], metavar="key=value", help="laid over the algorithm")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of terms that draw random numbers")


def _rewards_arguments(parser: argparse.ArgumentParser) -> None:
    actions = ("list", "show", "test", "score", "new")
    parser.commands = actions  # type: ignore[attr-defined]
    add = parser.add_argument
    add("action", choices=actions, nargs="?", default="list", help="list is the default")
    add("name", metavar="NAME", nargs="?", help="a reward's name, ./file.py, ./file.py:name or package.module:name")
    add("--reward", metavar="NAME", help="score: the reward, as NAME")
    add(
        "--recipe",
        metavar="RECIPE",
        help="score: instead of --reward, all rewards of a recipe as a run sums them; list, show, test: know those beside it",
    )
    add("--file", metavar="IN.jsonl", help="score: rows {id, completion, answer, ...columns}; - for the standard input")
    add("--out", metavar="OUT.jsonl", help="score: rows {id, reward, status, detail}; printed when left out")
    add("--option", action="append", default=[], metavar="key=value", help="a setting of the reward")
    add("--workers", type=int, metavar="N", help="scoring processes (default 1)")
    add("--timeout", type=float, metavar="S", help="seconds for one completion (default 5)")
    add("--memory-mb", type=int, metavar="MB", help="memory of one scoring process (default 2048)")


def _folder_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--resume", action="store_true", help="continue the run in the run folder")
    parser.add_argument("--overwrite", action="store_true", help="replace the run in the run folder")


def _check(options: argparse.Namespace) -> int:
    from posttrain.config.check import check, print_plan
    from posttrain.config.load import load_recipe

    world, zero = _launch_settings(options.launch) if options.launch else (None, 2)
    if options.world is not None and options.world < 1:
        raise ConfigError(f"--world={options.world}: at least 1 rank is needed.")
    loaded = load_recipe(options.recipe, options.overrides)
    plan = check(loaded, options.world or world, zero=zero, resume=options.resume, overwrite=options.overwrite)
    print_plan(plan)
    return 0  # the recipe is right; what this machine lacks is printed, and `train` will refuse


def _explain(options: argparse.Namespace) -> int:
    from posttrain.config.explain import print_explanation
    from posttrain.config.load import load_recipe

    print_explanation(load_recipe(options.recipe, options.overrides))
    return 0


def _schema(options: argparse.Namespace) -> int:
    import json

    from posttrain.config.schema import recipe_schema

    print(json.dumps(recipe_schema(), indent=2))
    return 0


def _recipes(options: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    from posttrain.config.parents import head_comment, packaged_recipes

    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("recipe", style="cyan", no_wrap=True)
    table.add_column("what it is")
    for name, path in packaged_recipes().items():
        table.add_row(name, head_comment(path))
    Console().print(table)
    return 0


def _algorithms(options: argparse.Namespace) -> int:
    from posttrain.config.catalogue import print_algorithm, print_list

    if options.action == "matrix":
        from posttrain.config import matrix_table

        if options.name is not None:
            raise ConfigError(
                f"algorithms matrix takes no name, and got {options.name!r}: it is of all algorithms at once."
            )
        matrix_table.show(options.markdown, options.json)
        return 0
    if options.markdown or options.json:
        raise ConfigError(f"algorithms {options.action}: --markdown and --json are for `posttrain algorithms matrix`.")
    if options.action == "list":
        print_list()
        return 0
    if options.name is None:
        raise ConfigError("algorithms show: name one, such as `posttrain algorithms show grpo`.")
    print_algorithm(options.name, options.overrides)
    return 0


def _audit(options: argparse.Namespace) -> int:
    from posttrain.audit import audit_files, summary

    print(summary(audit_files(options.algorithm, options.inputs, options.out, options.option, options.seed)))
    print(f"written to {options.out}")
    return 0


def _rewards(options: argparse.Namespace) -> int:
    from posttrain.scoring import commands

    return commands.run(options)


def _train(options: argparse.Namespace) -> int:
    from posttrain import launch

    return launch.run(
        options.recipe,
        options.overrides,
        launch=options.launch,
        resume=options.resume,
        overwrite=options.overwrite,
        dry_run=options.dry_run,
    )


def _sft(options: argparse.Namespace) -> int:
    from posttrain import warmup

    return warmup.main(options.recipe, options.model, options.out)


def _report(options: argparse.Namespace) -> int:
    from posttrain.telemetry import report

    return report.main(options.folder)


def _doctor(options: argparse.Namespace) -> int:
    from posttrain import doctor

    return doctor.run(deep=options.deep)


def _launch_settings(name: str) -> tuple[int, int]:
    """Ranks and ZeRO stage of an accelerate configuration."""
    import yaml

    from posttrain.config.imports import package_folder

    folder = package_folder("posttrain_launch")
    known = {p.stem: p for p in sorted(folder.glob("*.yaml"))} if folder else {}
    path = known.get(name, Path(name))
    if not path.is_file():
        raise ConfigError(f"--launch={name}: there is no such accelerate configuration. {nearest(name, known)}")
    settings: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return settings.get("num_processes", 1), settings.get("deepspeed_config", {}).get("zero_stage", 0)


def _complain(text: str) -> None:
    """Each line marked as an error, in red on a terminal."""
    red, end = ("\x1b[31m", "\x1b[0m") if sys.stderr.isatty() else ("", "")
    for line in text.splitlines():
        print(f"{red}error: {line}{end}", file=sys.stderr)


def _version() -> str:
    try:
        return f"posttrain {version('posttrain')}"
    except PackageNotFoundError:
        return "posttrain (a checkout that is not installed)"
