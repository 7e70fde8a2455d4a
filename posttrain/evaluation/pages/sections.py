"""What the page of an evaluation says in tables: scores, what went wrong, calibration, and how it was made."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from posttrain.evaluation import table
from posttrain.evaluation.pages import completions
from posttrain.evaluation.pages.found import Found
from posttrain.telemetry import page


def share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def bounds(at: Mapping[str, Any] | None) -> str:
    if at is None or at.get("low") is None or at.get("high") is None:
        return "-"
    return f"[{at['low']:.1%}, {at['high']:.1%}]"


def results(found: Found) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """(model, benchmark, result) of all that there is."""
    for model in found.models:
        for name in found.benchmarks:
            result = found.result(model, name)
            if result is not None:
                yield model, name, result


def scores(found: Found) -> str:
    head = ("model", "benchmark", "questions", "avg@k", "95% interval", "by question", "by sample")
    rows = []
    for model, name, result in results(found):
        accuracy, each = result["accuracy"], result["samples"] / max(result["questions"], 1)
        mean = share(accuracy["mean"])
        row = [model, name, f"{result['questions']:,} x {each:.3g}", mean]
        row += [bounds(accuracy), bounds(accuracy.get("by_question")), bounds(accuracy.get("by_sample"))]
        rows.append([*row, *(_last(result[curve]) for curve in ("pass_at_k", "maj_at_k"))])
    note = (
        "Questions x samples of each. avg@k: the mean over questions of the share of right samples. Its interval draws "
        "questions and samples anew (bootstrap); by question: other questions alone; by sample: other samples of the same "
        "questions alone. pass@k: the chance that one of k samples is right; maj@k: that the most frequent answer of k is, "
        "both for the largest k."
    )
    return f"{page.table((*head, 'pass@k', 'maj@k'), rows)}<p class='soft small' style='margin-top:10px'>{note}</p>"


def _last(curve: Mapping[str, Mapping[str, Any]]) -> str:
    if not curve:
        return "-"
    k = max(map(int, curve))
    at = curve[str(k)]
    error = f" +- {at['error']:.1%}" if at.get("error") else ""
    return f"{share(at['value'])}{error} (k = {k})"


def behaviour(found: Found) -> str:
    head = ["model", "benchmark", "truncated", "malformed", "no answer", "unparseable", "no verdict"]
    head += ["mean tokens", "median", "95%", "longest", "different answers"]
    shown = ("truncated", "malformed", "no_answer", "unparseable", "failed")
    rows = []
    for model, name, result in results(found):
        rates, lengths = result["rates"], result["lengths"]
        row = [model, name, *(share(rates[key]) for key in shown)]
        row += [f"{lengths[key]:,.0f}" for key in ("mean", "median", "p95", "longest")]
        distinct = result.get("distinct")
        rows.append([*row, "-" if distinct is None else f"{distinct:.1f}"])
    note = (
        "Shares of completions; one may count in several. Malformed: not in the asked-for form. No answer, unparseable: of the "
        "judged ones those in which none was found, or one that cannot be read; they count as wrong. Samples without a "
        "verdict count neither as right nor as wrong. "
        "Different answers: how many a question got, on average."
    )
    table = page.table(head, rows)
    return f"{table}<p class='soft small' style='margin-top:10px'>{note}</p>"


def remarks(found: Found) -> str:
    """What a reader of the numbers must know: failures, results that are not to be relied on, what was left out."""
    said = [head + text for head, text in table.remarks(found.results) if not head.startswith("calibration")]
    return page.note("To know about these numbers", said)


def unjudged(found: Found) -> str:
    """How many samples have no verdict, by the reason, and the first of each."""
    rows = []
    for model, name, _ in results(found):
        samples = found.samples(model, name)
        for status, count in completions.statuses(samples).most_common():
            if status == "ok":
                continue
            first = next(row for row in samples if status in (row["status"], row["finish"]))
            rows.append((model, name, status, f"{count:,}", f"{first['question']} #{first['sample']}", first["detail"]))
    head = ("model", "benchmark", "what happened", "samples", "first", "in words")
    return f"<h2>Samples without a verdict</h2>{page.table(head, rows)}" if rows else ""


def calibration(found: Found) -> str:
    """The comparisons with published scores; a result without one has no line."""
    judged = [(m, b, r["calibration"]) for m, b, r in results(found) if r.get("calibration")]
    if not judged:
        return ""
    rows = []
    for model, name, verdict in judged:
        passed = {True: "pass", False: "fail", None: "not comparable"}[verdict["passed"]]
        row = [model, name, passed, share(verdict["score"]), share(verdict["published"])]
        row += ["-" if verdict[key] is None else f"{verdict[key]:.2f}" for key in ("z", "limit")]
        rows.append([*row, f"{verdict['model']}, {verdict['protocol']}", verdict["source"]])
    said = [f"{model}, {name}: {verdict['text']}" for model, name, verdict in judged if not verdict["passed"]]
    head = ("model", "benchmark", "calibration", "score", "published", "z", "limit of |z|", "of", "source")
    return f"<h2>Calibration</h2>{page.table(head, rows)}{page.note('In words', said)}"


def settings(founds: Mapping[str, Found]) -> str:
    """How the numbers were made: models and their hashes, versions, hardware, seeds, the protocol in full."""
    parts = ["<h2>How this was made</h2>"]
    for title, found in founds.items():
        about = f"{title}: " if len(founds) > 1 else ""
        environment = found.results.get("environment") or found.asked.get("environment") or {}
        rows = [(name, _text(value)) for name, value in environment.items()]
        rows.insert(0, ("seed", _text(found.asked.get("seed"))))
        parts.append(
            page.folded(f"{about}models", page.table(("key", "kind", "path", "weights", "settings"), _models(found)))
        )
        parts.append(page.folded(f"{about}versions, hardware and seed", page.table(("what", "which"), rows)))
        whole = yaml.safe_dump(found.asked.get("protocol"), sort_keys=False, allow_unicode=True, width=110)
        parts.append(page.folded(f"{about}protocol {protocol(found)}", f"<pre>{page.escape(whole)}</pre>"))
        others = {k: v for k, v in found.asked.items() if k not in ("protocol", "environment", "models", "seed")}
        whole = yaml.safe_dump(others, sort_keys=False, allow_unicode=True, width=110)
        parts.append(page.folded(f"{about}benchmarks and other settings", f"<pre>{page.escape(whole)}</pre>"))
    return "".join(parts)


def protocol(found: Found) -> str:
    asked = found.asked.get("protocol")
    named = asked.get("name") if isinstance(asked, Mapping) else asked
    return str(found.results.get("protocol") or named or "unnamed")


def _models(found: Found) -> list[Sequence[object]]:
    asked = {m.get("key"): m for m in found.asked.get("models") or [] if isinstance(m, Mapping)}
    return [
        (key, asked.get(key, {}).get("kind", "-"), *(entry.get(name) or "-" for name in ("path", "hash", "settings")))
        for key, entry in found.models.items()
    ]


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {_text(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "none"
    return "-" if value is None else value if isinstance(value, str) else json.dumps(value)
