from __future__ import annotations

import os
import subprocess
import sys
import time
import types

import pytest

from posttrain.config.errors import ConfigError
from posttrain.data import sources

HUB = """
from posttrain.config.errors import ConfigError
from posttrain.data import sources
try:
    sources.rows("nobody/no-such-dataset", "main", "train")
except ConfigError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\boxed{42}", "42"),
        (r"a \boxed{1} b \boxed{2} c", "2"),
        (r"\boxed{\frac{1}{\sqrt{2}}}", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed{a \boxed{b} c}", "b"),
        (r"\boxed{}", ""),
        (r"\boxed{1} and \boxed{2", "1"),
        (r"\boxed{1 \boxed{2", None),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{ x \right.}", r"\left\{ x \right."),
        (r"\boxed{\text{a \\}}", r"\text{a \\}"),
        ("boxed{1}", None),
        ("", None),
    ],
)
def test_last_boxed(text: str, expected: str | None) -> None:
    assert sources.last_boxed(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\boxed{" * 100_000 + "1" + "}" * 100_000, "1"),
        (r"\boxed{" * 100_000, None),
        (r"\boxed{1}" + "{" * 100_000 + r"\boxed{", "1"),
        (r"\boxed{x{" * 100_000, None),
    ],
    ids=["closed", "unclosed", "braces", "braced"],
)
def test_last_boxed_is_linear(text: str, expected: str | None) -> None:
    start = time.process_time()
    assert sources.last_boxed(text) == expected
    assert time.process_time() - start < 2  # a quadratic search takes minutes


@pytest.mark.parametrize(
    ("path", "is_file"),
    [
        ("openai/gsm8k", False),
        ("gsm8k", False),
        ("a.jsonl", True),
        ("data/a.parquet", True),
        ("./a", True),
        ("~/a", True),
        ("/a/b", True),
    ],
)
def test_what_is_a_file_and_what_an_id(path: str, is_file: bool) -> None:
    assert sources.is_file(path) is is_file


def test_an_unreachable_hub_is_one_line_that_says_what_to_do() -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", HUB], env=environment, capture_output=True, text=True, timeout=50, check=True
    )
    (line,) = done.stdout.splitlines()
    assert "task.path='nobody/no-such-dataset' (config 'main', split 'train') could not be read" in line
    assert "task.path=FILE.jsonl" in line


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ConnectionError("no route\nto the host"), "hub: no route. "),
        (ValueError("Unknown split 'test'"), "hub: Unknown split 'test'. "),
        (TimeoutError(), "hub: TimeoutError. "),
    ],
)
def test_a_failed_download_gives_its_first_line(monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=refuse))
    with pytest.raises(ConfigError) as found:
        sources.rows("a/b", None, "train")
    assert reason in str(found.value)
    assert "\n" not in str(found.value)


def test_hub_rows_come_from_the_named_config_and_split(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def load(*args: object, **kwargs: object) -> list[dict[str, str]]:
        asked.append((args, kwargs))
        return [{"question": "q"}]

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load))
    assert sources.rows("a/b", "main", "test") == [{"question": "q"}]
    assert asked == [(("a/b", "main"), {"split": "test"})]
