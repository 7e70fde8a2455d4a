from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from posttrain.evaluation import metrics
from posttrain.evaluation.metrics import Lengths, Rates, lengths, rates


def row(finish: str = "stop", status: str = "ok", tokens: int = 10, **more: Any) -> dict[str, Any]:
    return {"finish": finish, "status": status, "tokens": tokens, **more}


def test_every_name_is_there_and_explained() -> None:
    for name in metrics.__all__:
        found = getattr(metrics, name)
        if callable(found) and name not in ("Over", "Scores"):
            assert found.__doc__, name


def test_what_went_wrong_is_told_apart() -> None:
    rows = [row(), row("length"), row("length", "unparseable"), row(status="timeout"), row(status="error")]
    assert rates(rows) == Rates(truncated=0.4, malformed=None, no_answer=None, unparseable=None, failed=0.6)


def test_answers_that_are_missing_or_cannot_be_read_are_the_models() -> None:
    rows = [
        row(extracted="1", parsed=True),
        row(extracted="\\frac{}", parsed=False),
        row(extracted=None, parsed=None),
        row(extracted="", parsed=None),
        row(status="timeout", extracted=None, parsed=None),  # nobody knows what it says
    ]
    found = rates(rows)
    assert (found.no_answer, found.unparseable, found.failed) == (2 / 4, 1 / 4, 1 / 5)
    assert rates([row(extracted="a", parsed=1.0), row(extracted="b", parsed=0.0)]).unparseable == 0.5
    assert (rates([row(extracted="a")]).no_answer, rates([row(extracted="a")]).unparseable) == (0.0, None)


def test_the_form_counts_where_somebody_looked() -> None:
    rows = [row(format=1.0), row(format=0.0), row(format=True), row(format=None), row()]
    assert rates(rows).malformed == pytest.approx(1 / 3)


def test_lengths() -> None:
    assert lengths([row(tokens=n) for n in (1, 2, 3, 4, 90)]) == Lengths(20.0, 3.0, pytest.approx(72.8), 90)  # type: ignore[arg-type]


def test_of_nothing_there_is_no_rate() -> None:
    for function in (rates, lengths):
        with pytest.raises(ValueError, match="no rows"):
            function([])


def test_a_row_without_a_verdict_is_no_row() -> None:
    with pytest.raises(KeyError, match="status"):
        rates([{"finish": "stop"}])


def test_it_needs_neither_torch_nor_an_engine() -> None:
    code = "import sys, posttrain.evaluation.metrics; print({'torch', 'vllm', 'pyarrow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
