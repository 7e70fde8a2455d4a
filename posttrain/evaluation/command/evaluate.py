"""`posttrain eval`: models on benchmarks under a protocol, into a folder that can be continued, read and compared."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from posttrain.config.errors import ConfigError
from posttrain.evaluation import answers, benchmarks, calibration, models, protocols
from posttrain.evaluation.benchmarks import Benchmark
from posttrain.evaluation.command.engines import Serving, context_for, limit_of, serving, start, stops_of, tokenizer_of
from posttrain.evaluation.environment import environment
from posttrain.evaluation.finish import results_of
from posttrain.evaluation.judges import Judges
from posttrain.evaluation.models import Model
from posttrain.evaluation.protocols import Protocol
from posttrain.evaluation.running import Bench, Sitting
from posttrain.evaluation.store import CannotWrite, Store
from posttrain.evaluation.table import remarks, table
from posttrain.rollout.engine import EngineError, Interrupted
from posttrain.scoring.pool import ScorerBroken
from posttrain.signals import Stop
from posttrain.telemetry.console import Console

FAILED = 3  # exit code where a model failed, a result is marked, or a calibration does not hold


@dataclass(frozen=True)
class Asked:
    """Everything that decides the outcome, read and checked."""

    models: Sequence[Model]
    benchmarks: Sequence[Benchmark]
    protocol: Protocol
    serving: Serving
    seed: int
    limit: int | None
    max_failed: float
    timeout: float
    workers: int
    calibrate: str | None

    def as_json(self) -> dict[str, Any]:
        return {
            "models": [one.as_json() for one in self.models],
            "benchmarks": [
                {
                    "name": one.name,
                    "origin": one.origin,
                    "note": one.note,
                    "questions": len(one.questions),
                    "hash": one.hash,
                    "samples": self.protocol.samples_of(one.name),
                    "grader": answers.version(self.protocol.grader_of(one.grader)),
                }
                for one in self.benchmarks
            ],
            "protocol": self.protocol.as_json(),
            "seed": self.seed,
            "limit": self.limit,
            "context": self.serving.context,
            "dtype": self.serving.dtype,
            "tensor_parallel": self.serving.tensor_parallel,
            "data_parallel": self.serving.data_parallel,
            "batch_invariant": self.serving.batch_invariant,
            "max_failed": self.max_failed,
            "timeout": self.timeout,
            "workers": self.workers,
            "environment": environment(),
        }


def read(options: Any) -> Asked:
    """From the options of the command. Raises ConfigError for whatever cannot be."""
    for name in ("model", "bench"):
        if not getattr(options, name):
            raise ConfigError(
                f"eval: --{name} is missing, as in `posttrain eval --model runs/quickstart/model --bench math500`."
            )
    several = options.samples is not None and options.samples > 1
    protocol = protocols.load(options.protocol or ("sampled" if several else "greedy"))
    if options.samples is not None:
        protocol = protocol.with_samples(options.samples)
    if options.max_tokens is not None:
        if options.max_tokens < 1:
            raise ConfigError(f"--max-tokens={options.max_tokens}: at least 1 is needed.")
        protocol = replace(protocol, sampling=replace(protocol.sampling, max_tokens=options.max_tokens))
    protocol.check_versions()
    if options.calibrate is not None:
        _check_calibration(options, protocol)
    data = Path(options.data) if options.data else None
    served, found = serving(options), benchmarks.load_all(",".join(options.bench), data, options.limit)
    return Asked(
        models=models.resolve(options.model),  # last: it reads all the weights
        benchmarks=found,
        protocol=protocol,
        serving=served,
        seed=protocol.seed if options.seed is None else options.seed,
        limit=options.limit,
        max_failed=options.max_failed,
        timeout=options.timeout,
        workers=options.workers,
        calibrate=options.calibrate,
    )


def _check_calibration(options: Any, protocol: Protocol) -> None:
    """What would make the comparison at the end impossible is said before anything is sampled.

    A file of the user's is named by its path, which is no published protocol, whatever it says.
    """
    for name, value in (("--max-tokens", options.max_tokens), ("--context", options.context)):
        if value is not None:
            raise ConfigError(
                f"--calibrate {options.calibrate}: published scores hold for the protocol's own lengths. Leave out {name}."
            )
    there = calibration.published(options.calibrate, protocol.name).scores
    if not set(",".join(options.bench).split(",")) & set(there):
        raise ConfigError(
            f"--calibrate {options.calibrate}: under {protocol.name} scores are published of {', '.join(there)}. Add one to "
            "--bench."
        )


def run(options: Any) -> int:
    """Exit codes: 0 done, 2 a mistake in the request, 3 a model failed or a result is marked, 130 Ctrl-C."""
    stop, console = Stop(), Console(steps=1)
    with console.during("reading models and benchmarks"):
        asked = read(options)
    out = Path(options.out) if options.out else _folder(asked)
    stop.install()
    judges = Judges(asked.workers, asked.timeout)
    try:
        with Store(out) as store:
            resumed = store.open(asked.as_json(), options.overwrite)
            console.note(f"{'continuing' if resumed else 'writing to'} {out}")
            for bench in asked.benchmarks:
                store.write_questions(bench.name, _questions(bench))
            results = _evaluate(asked, store, judges, console, stop)
            store.write_results(results)
    except Interrupted:
        again = shlex.join(["posttrain", "eval", *options.words])
        console.stopped("by you; finished samples are kept", hint=f"go on with: {again}")
        return stop.exit_code
    except ScorerBroken as error:
        raise ConfigError(f"eval: no verdicts can be reached: {error}") from error
    finally:
        judges.close()
        console.close()
    return _show(results, out, console)


def _evaluate(asked: Asked, store: Store, judges: Judges, console: Console, stop: Stop) -> dict[str, Any]:
    """results.json. A model that cannot be evaluated has the reason in it, and the others go on."""
    judges.start([asked.protocol.grader_of(bench.grader) for bench in asked.benchmarks])
    found: dict[str, Any] = {}
    for model in asked.models:
        failed, benches = model.failed, {}
        try:
            if failed is None:
                _sample(model, asked, store, judges, console, stop)
        except CannotWrite:
            raise
        except (ConfigError, EngineError) as error:
            failed = str(error)
        if failed is not None:
            console.note(f"{model.key}: failed")
        else:
            with console.during(f"{model.key}: comparing answers"):
                benches = results_of(model.key, _benches(asked), store, judges, asked.max_failed)
        for bench in asked.benchmarks:
            if bench.name in benches:
                benches[bench.name] |= {"note": bench.note, "calibration": None}
        found[model.key] = {
            "path": str(model.path),
            "hash": model.hash,
            "settings": model.settings,
            "failed": failed,
            "benchmarks": benches,
        }
    results = {
        "protocol": asked.protocol.name,
        "protocol_settings": asked.protocol.as_json(),
        "seed": asked.seed,
        "environment": environment(),
        "models": found,
    }
    for key, verdicts in (calibration.compare(asked.calibrate, results) if asked.calibrate else {}).items():
        for name, verdict in verdicts.items():
            found[key]["benchmarks"][name]["calibration"] = verdict.as_json()
    return results


def _sample(model: Model, asked: Asked, store: Store, judges: Judges, console: Console, stop: Stop) -> None:
    """Every sample of one model that is not there yet."""
    tokenizer, sampling = tokenizer_of(model), asked.protocol.sampling
    benches = _benches(asked, tokenizer)
    sizes = [len(ids) for bench in benches for ids in bench.ids.values()]
    limit = asked.serving.context or limit_of(model.base or model.path)
    context = context_for(model, asked.serving, [size for size in sizes if size < limit], sampling.max_tokens)
    sitting = Sitting(
        model=model.key,
        benches={bench.name: bench for bench in benches},
        store=store,
        judges=judges,
        decode=lambda ids: tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False),
        sampling=sampling,
        context=context,
        seed=asked.seed,
    )
    left = sitting.left()
    there = sum(len(bench.prompts) * bench.samples for bench in benches) - len(left)
    if there:
        console.note(f"{model.key}: {there} samples are there, {len(left)} are left")
    left = sitting.refuse(left)
    if short := sum(size < limit < size + sampling.max_tokens for size in sizes):
        console.note(
            f"{model.key}: beside {short} of {len(sizes)} prompts the context of {limit} leaves less than max_tokens = "
            f"{sampling.max_tokens} for the completion"
        )
    if not left:
        return
    stops = stops_of(model.base or model.path, tokenizer, asked.protocol)
    fleet = start(model, asked.serving, stops, context, store.folder / "logs", stop)
    try:
        with console.during(f"{model.key}: loading"):
            fleet.wait_until_ready()
        with console.during(f"{model.key}: sampling"):
            sitting.run(fleet, left, console.progress)
    finally:
        fleet.close()


def _benches(asked: Asked, tokenizer: Any = None) -> list[Bench]:
    protocol = asked.protocol
    return [
        Bench(
            name=bench.name,
            grader=protocol.grader_of(bench.grader),
            samples=protocol.samples_of(bench.name),
            prompts={question.id: question.prompt(protocol.messages) for question in bench.questions},
            ids={q.id: protocol.encode(tokenizer, q.problem) for q in bench.questions} if tokenizer else {},
        )
        for bench in asked.benchmarks
    ]


def _questions(bench: Benchmark) -> list[dict[str, Any]]:
    return [
        {"question": q.id, "problem": q.problem, "gold": q.gold, "level": q.level, "source": q.source}
        for q in bench.questions
    ]


def _folder(asked: Asked) -> Path:
    first, more = asked.models[0].key, len(asked.models) - 1
    return Path("runs/eval") / f"{first}{f'-and-{more}-more' if more else ''}-{Path(asked.protocol.name).name}"


def _show(results: Mapping[str, Any], out: Path, console: Console) -> int:
    """The table, what has to be said about it, and where everything is."""
    from posttrain.evaluation.pages.report import write_evaluation_report

    console.show(table(results))
    for head, text in remarks(results):
        console.remark(head, text)
    report = write_evaluation_report(out)
    console.note(f"results  {out / 'results.json'}")
    console.note(f"report   {report}")
    return FAILED if not sound(results) else 0


def sound(results: Mapping[str, Any]) -> bool:
    """Whether no model failed, no result is marked, and every calibration holds."""
    models = results["models"].values()
    scores = [one for model in models for one in model["benchmarks"].values()]
    calibrated = [one["calibration"] for one in scores if one.get("calibration")]
    return not (
        any(model["failed"] for model in models)
        or any(one["marked"] for one in scores)
        or any(verdict["passed"] is False for verdict in calibrated)
    )
