"""`posttrain eval regenerate`: one sample of an evaluation again, alone, from its seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from posttrain.config.errors import ConfigError
from posttrain.config.names import nearest
from posttrain.evaluation import models
from posttrain.evaluation.command.engines import context_for, serving, start, stops_of, tokenizer_of
from posttrain.evaluation.jobs import job
from posttrain.evaluation.models import Model
from posttrain.evaluation.protocols import Protocol
from posttrain.evaluation.rows import digest
from posttrain.evaluation.store import Row, Store
from posttrain.rollout.engine import EngineError, Interrupted, Request, Sampling
from posttrain.signals import Stop

DIFFERS = 3  # exit code


def run(options: Any) -> int:
    """Prints the completion and whether it is the stored one.

    Exit codes: 0 the same, 2 a mistake, 3 it differs, 130 Ctrl-C, 143 SIGTERM.
    """
    if len(options.what) != 4:
        raise ConfigError(
            "eval regenerate: say which sample: `posttrain eval regenerate FOLDER BENCH QUESTION SAMPLE`, with --model KEY "
            "where several models were evaluated."
        )
    folder, bench, question, sample = options.what
    store = Store(Path(folder))
    asked = store.asked()
    stored = _stored(store, _key(asked, options.model), bench, question, sample)
    key, row, problem = stored
    protocol = _protocol(asked["protocol"])
    model = _model(asked, key)
    options.dtype, options.context = asked["dtype"], asked["context"]
    options.tensor_parallel, options.data_parallel = asked["tensor_parallel"], 1
    options.batch_invariant = asked["batch_invariant"]
    settings, tokenizer = serving(options), tokenizer_of(model)
    ids = protocol.encode(tokenizer, problem)
    sizes = [len(protocol.encode(tokenizer, q["problem"])) for name in _names(asked) for q in store.questions(name)]
    context = context_for(model, settings, sizes, protocol.sampling.max_tokens)
    one = job(asked["seed"], bench, question, row["sample"])
    stop = Stop()
    stop.install()
    stops = stops_of(model.base or model.path, tokenizer, protocol)
    fleet = start(model, settings, stops, context, store.folder / "logs", stop)
    try:
        [again] = fleet.engines[0].generate([Request(key=0, prompt_ids=ids, seed=one.seed)], protocol.sampling)
    except EngineError as error:
        raise ConfigError(f"eval regenerate: {error}") from None
    except Interrupted:
        print("stopped by you")
        return stop.exit_code
    finally:
        fleet.close()
    text = tokenizer.decode(again.token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    same = digest(again.token_ids) == row["digest"]
    print(text)
    print(_verdict(row, len(again.token_ids), same))
    return 0 if same else DIFFERS


def _verdict(row: Row, tokens: int, same: bool) -> str:
    judged = "right" if row["correct"] else ("wrong" if row["status"] == "ok" else f"no verdict ({row['status']})")
    head = f"seed {row['seed']}, {tokens} tokens, ended by {row['finish']}; answer {row['extracted']!r}: {judged}"
    if same:
        return f"{head}\nthe same as the stored sample, token for token"
    return (
        f"{head}\nNOT the stored sample, which has {row['tokens']} tokens. On GPUs what runs beside a sample changes its last "
        "bits: evaluate with --batch-invariant to have it the same always."
    )


def _key(asked: dict[str, Any], given: list[str] | None) -> str:
    keys = [one["key"] for one in asked["models"]]
    if not given and len(keys) == 1:
        return str(keys[0])
    if not given or given[0] not in keys:
        said = f"--model {given[0]} is none of them" if given else "several models were evaluated"
        raise ConfigError(f"eval regenerate: {said}. Name one with --model: {', '.join(keys)}.")
    return given[0]


def _names(asked: dict[str, Any]) -> list[str]:
    return [one["name"] for one in asked["benchmarks"]]


def _stored(store: Store, key: str, bench: str, question: str, sample: str) -> tuple[str, Row, str]:
    """The model's key, the row, and the problem's text."""
    names = _names(store.asked())
    if bench not in names:
        raise ConfigError(f"eval regenerate: no benchmark {bench!r} in {store.folder}. {nearest(bench, names)}")
    problems = {q["question"]: q["problem"] for q in store.questions(bench)}
    if question not in problems:
        raise ConfigError(
            f"eval regenerate: {bench} has no question {question!r}. {nearest(question, list(problems)[:999])}"
        )
    rows = [row for row in store.rows(key, bench) if row["question"] == question and str(row["sample"]) == sample]
    if not rows:
        raise ConfigError(f"eval regenerate: sample {sample} of {question} is not there (yet) for {key}.")
    if rows[0]["finish"] == "refused":
        raise ConfigError(f"eval regenerate: that sample was refused: {rows[0]['detail']}.")
    return key, rows[0], problems[question]


def _protocol(stored: dict[str, Any]) -> Protocol:
    """As it was then, whatever the file says now."""
    lists = {name: tuple(stored[name]) for name in ("sources", "stop")}
    return Protocol(**{**stored, **lists, "sampling": Sampling(**stored["sampling"])})


def _model(asked: dict[str, Any], key: str) -> Model:
    """The model as it lies there now. Raises ConfigError unless its files are those that were evaluated."""
    stored = next(one for one in asked["models"] if one["key"] == key)
    [model] = models.resolve([stored["asked"]])
    if model.failed:
        raise ConfigError(f"eval regenerate: {model.failed}")
    if model.hash != stored["hash"]:
        raise ConfigError(f"eval regenerate: {stored['asked']} has other weights now than those that were evaluated.")
    if model.settings != stored.get("settings"):
        raise ConfigError(
            f"eval regenerate: {stored['asked']} has another configuration, tokenizer or chat template now than when it was "
            "evaluated. Put those files back, or evaluate again."
        )
    return model
