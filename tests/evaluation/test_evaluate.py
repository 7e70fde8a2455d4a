"""`posttrain eval` from its words to its exit code on scripted engines; the verifiers are real."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from posttrain.cli import main
from posttrain.evaluation import models, protocols
from posttrain.evaluation.command import again, evaluate
from posttrain.evaluation.command.engines import tokenizer_of
from posttrain.evaluation.models import Model
from posttrain.rollout.engine import Completion, Interrupted, Request, Sampling
from posttrain.rollout.fleet import Fleet
from posttrain.rollout.scripted import ScriptedEngine
from posttrain.signals import ASKING

R1, QUESTIONS, SAMPLES = "DeepSeek-R1-Distill-Qwen-1.5B", 30, 4
PROBLEMS = [f"{i}+1=" for i in range(QUESTIONS)]
REFUSING = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}Q"
OWN = """
about: mine
system: Be right.
sampling: {temperature: 1.0, max_tokens: 32}
samples: {"*": 1}
grader: {use: math}
"""
Start = Callable[..., Fleet]


def answering(rights: int, kind: type[ScriptedEngine] = ScriptedEngine, protocol: str = "sober") -> Start:
    """What starts an engine that gives the right answer to the first `rights` of all requests, question by question."""

    def start(model: Model, *others: Any) -> Fleet:
        tokenizer, asked = tokenizer_of(model), protocols.load(protocol)
        script: Any = {
            tuple(asked.encode(tokenizer, problem)): [
                f"\\boxed{{{i + 1 if i * SAMPLES + sample < rights else -1}}}" for sample in range(SAMPLES)
            ]
            for i, problem in enumerate(PROBLEMS)
        }
        return Fleet([kind(tokenizer, script, logp=-1.0)])

    return start


class Stopped(ScriptedEngine):
    """Somebody presses Ctrl-C while it generates."""

    def generate(self, requests: Sequence[Request], sampling: Sampling, on_done: Any = None) -> list[Completion]:
        os.kill(os.getpid(), signal.SIGINT)
        raise Interrupted


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in ASKING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with room for the protocol's prompt, one whose chat template takes no system message, and the problems."""
    from posttrain.config.models import TinyModel
    from posttrain.learner.tiny import build_tiny

    folder = tmp_path_factory.mktemp("evaluate")
    build_tiny(TinyModel(hidden=64, layers=2, heads=2, kv_heads=1, intermediate=128, context=1024), 0, folder / "model")
    shutil.copytree(folder / "model", folder / "refusing")
    (folder / "refusing" / "chat_template.jinja").write_text(REFUSING)
    rows = [{"id": f"q{i}", "problem": problem, "answer": str(i + 1)} for i, problem in enumerate(PROBLEMS)]
    (folder / "aime24.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "own.yaml").write_text(OWN)
    return folder


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder one works in: the same, for each test of its own."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def eval_(*more: str, protocol: str = "sober", model: Sequence[str] = ("./model",), samples: int = SAMPLES) -> int:
    words = ["eval", "--model", *model, "--bench", "aime24", "--data", ".", "--out", "out", "--protocol", protocol]
    return main([*words, "--samples", str(samples), *more])


def results() -> dict[str, Any]:
    return dict(json.loads(Path("out/results.json").read_text()))


# ---- calibration ----
@pytest.mark.parametrize(("rights", "passed", "code"), [(34, True, 0), (0, False, 3)])
def test_a_calibration_is_shown_stored_and_in_the_exit_code(
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    rights: int,
    passed: bool,
    code: int,
) -> None:
    """28.7 ± 4.8 is published."""
    monkeypatch.setattr(evaluate, "start", answering(rights))
    assert eval_("--calibrate", R1) == code
    verdict = results()["models"]["model"]["benchmarks"]["aime24"]["calibration"]
    assert (verdict["passed"], verdict["name"], verdict["protocol"]) == (passed, R1, "sober")
    assert verdict["score"] == pytest.approx(rights / 120)
    assert (abs(verdict["z"]) <= verdict["limit"]) is passed
    shown = " ".join(capsys.readouterr().out.split())
    assert f"{rights / 1.2:.1f}% @4" in shown
    assert "calibration: model, aime24:" in shown
    assert (", pass (|z|" in shown, ", FAIL (|z|" in shown) == (passed, not passed)


@pytest.mark.parametrize(
    ("words", "protocol", "said"),
    [
        ((), "./sober.yaml", "published under sober, r1-distill, not ./sober.yaml"),
        ((), "sober.yaml", "published under sober, r1-distill, not sober.yaml"),
        (("--max-tokens", "64"), "sober", "Leave out --max-tokens"),
        (("--context", "512"), "sober", "Leave out --context"),
    ],
)
def test_a_changed_protocol_is_not_calibrated(
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    protocol: str,
    said: str,
) -> None:
    monkeypatch.setattr(evaluate, "start", answering(34))
    packaged = (protocols.FOLDER / "sober.yaml").read_text()
    (place / "sober.yaml").write_text(packaged.replace("temperature: 0.8", "temperature: 0.1"))
    assert eval_("--calibrate", R1, *words, protocol=protocol) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not Path("out").exists()


def test_results_hold_the_whole_protocol_the_seed_and_what_the_model_was(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "start", answering(34, protocol="own.yaml"))
    assert eval_("--seed", "5", protocol="./own.yaml", samples=1) == 0
    found, [model] = results(), models.resolve(["./model"])
    assert (found["protocol"], found["seed"]) == ("./own.yaml", 5)
    assert found["protocol_settings"] == protocols.load("./own.yaml").with_samples(1).as_json()
    assert (found["models"]["model"]["hash"], found["models"]["model"]["settings"]) == (model.hash, model.settings)
    assert len({model.hash, model.settings, ""}) == 3


# ---- models that fail ----
def test_a_chat_template_that_refuses_the_conversation_fails_one_model(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "start", answering(120, protocol="own.yaml"))
    assert eval_(protocol="./own.yaml", model=("./refusing", "./model"), samples=1) == 3
    found = results()["models"]
    assert found["model"]["benchmarks"]["aime24"]["accuracy"]["mean"] == 1.0
    for part in ("protocol ./own.yaml", "refusing", "System role not supported", "a protocol without `system`"):
        assert part in found["refusing"]["failed"]


def test_samples_of_two_models_never_meet_in_one_folder(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Gone in the second sitting, the model is another one in the third."""
    monkeypatch.setattr(evaluate, "start", answering(34))
    assert eval_() == 0
    first = results()
    shutil.move("model", "away")
    assert eval_() == 3
    assert "there is no such folder" in results()["models"]["model"]["failed"]
    weights = Path(shutil.copytree("away", "model")) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert eval_() == 2
    assert "models.model.hash" in capsys.readouterr().err
    shutil.rmtree("model")
    shutil.move("away", "model")
    assert eval_() == 0
    assert results() == first


# ---- regenerate ----
@pytest.fixture
def evaluated(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(evaluate, "start", answering(34))
    assert eval_(samples=1) == 0
    capsys.readouterr()


AGAIN = ("eval", "regenerate", "out", "aime24", "q1", "0")


@pytest.mark.usefixtures("evaluated")
def test_ctrl_c_ends_a_regeneration(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(again, "start", answering(34))
    assert main(AGAIN) == 0
    monkeypatch.setattr(again, "start", answering(34, Stopped))
    assert main(AGAIN) == 130
    assert "stopped by you" in capsys.readouterr().out


@pytest.mark.usefixtures("evaluated")
def test_another_chat_template_is_another_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(again, "start", answering(34))
    template = Path("model/chat_template.jinja")
    template.write_text(template.read_text() + "{# #}")
    assert main(AGAIN) == 2
    assert "another configuration, tokenizer or chat template" in " ".join(capsys.readouterr().err.split())
    assert eval_(samples=1) == 2
    assert "models.model.settings" in capsys.readouterr().err
