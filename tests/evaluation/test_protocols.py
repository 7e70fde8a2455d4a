"""Protocols are data: what the packaged ones say, how they become prompts, and what is wrong with others."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from posttrain.config.errors import ConfigError
from posttrain.evaluation import protocols
from posttrain.evaluation.protocols import Protocol, load
from posttrain.learner.tiny import build_tokenizer

BOXED = "Please reason step by step, and put your final answer within \\boxed{}."
FILE = """
about: mine
sampling: {temperature: 1.0, max_tokens: 16}
samples: {"*": 2}
grader: {use: math}
"""


class Tokenizer:
    """ChatML with single characters as tokens, of which `<|im_end|>` is one; `starts` is put before other texts."""

    chat_template: str | None = "chatml"

    def __init__(self, opens: str = "", starts: str = "") -> None:
        self.opens, self.starts = opens, starts

    def apply_chat_template(self, messages: list[dict[str, str]], **how: Any) -> str:
        assert how == {"add_generation_prompt": True, "tokenize": False}
        turns = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)
        return f"{turns}<|im_start|>assistant\n{self.opens}"

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        return {"input_ids": [ord(c) for c in (self.starts if add_special_tokens else "") + text]}

    def get_vocab(self) -> dict[str, int]:
        return {"<|im_end|>": 7}


def read_back(protocol: Protocol, tokenizer: Any, problem: str = "1+1?") -> str:
    return "".join(map(chr, protocol.encode(tokenizer, problem)))


def test_the_packaged_ones_and_their_published_settings() -> None:
    assert protocols.names() == ["greedy", "qwen-math-cot", "r1-distill", "sampled", "simplerl-zoo", "sober"]
    said = {}
    for name in protocols.names():
        one = load(name)
        one.check_versions()
        s = one.sampling
        said[name] = (s.temperature, s.top_p, s.max_tokens, one.samples_of("aime24"), one.samples_of("math500"))
        assert s.top_k == 0
        assert one.sources or name in ("greedy", "sampled")
    assert said == {
        "greedy": (0.0, 1.0, 4096, 1, 1),
        "qwen-math-cot": (0.0, 1.0, 2048, 1, 1),  # QwenLM/Qwen2.5-Math: eval.sh, math_eval.py
        "r1-distill": (0.6, 0.95, 32768, 64, 64),  # 2501.12948
        "sampled": (0.6, 0.95, 4096, 8, 8),
        "simplerl-zoo": (1.0, 0.95, 16000, 32, 1),  # 2503.18892
        "sober": (0.8, 0.9, 32768, 10, 3),  # 2504.07086
    }
    assert load("sampled").user == load("greedy").user


def test_prompts_in_chatml() -> None:
    """The first is the text of `qwen25-math-cot`, the second that of `qwen-boxed`, both of QwenLM/Qwen2.5-Math."""
    head, tail = "<|im_start|>system\n", "<|im_end|>\n<|im_start|>assistant\n"
    assert read_back(load("qwen-math-cot"), Tokenizer()) == f"{head}{BOXED}<|im_end|>\n<|im_start|>user\n1+1?{tail}"
    assert read_back(load("simplerl-zoo"), Tokenizer()) == (
        f"{head}You are a helpful assistant.<|im_end|>\n<|im_start|>user\n1+1?\n{BOXED}{tail}"
    )
    assert read_back(load("greedy"), Tokenizer()) == f"<|im_start|>user\n1+1?\n{BOXED}{tail}"
    sober = read_back(load("sober"), Tokenizer())
    assert sober.startswith(
        "<|im_start|>user\nSolve the following math problem efficiently and clearly.  The last line"
    )
    assert "is: $\\boxed{ANSWER}$. I hope" in sober
    assert sober.endswith(f"before answering.\n\n1+1?{tail}")


def test_the_opening_is_written_once() -> None:
    r1 = load("r1-distill")
    for tokenizer in (Tokenizer(), Tokenizer(opens="<think>\n")):
        text = read_back(r1, tokenizer)
        assert text.endswith(f"1+1?\n{BOXED}<|im_end|>\n<|im_start|>assistant\n<think>\n")
        assert text.count("<think>") == 1


def test_problems_may_hold_braces() -> None:
    assert "\\{x\\} {problem} {0}" in read_back(load("greedy"), Tokenizer(), "\\{x\\} {problem} {0}")


def test_a_text_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "abel.yaml"
    file.write_text(FILE + 'template: "Question:\\n{problem}\\nAnswer:\\n"\n')
    one = load(str(file))
    assert (one.name, one.messages("1+1?")) == (str(file), ({"role": "user", "content": "Question:\n1+1?\nAnswer:\n"},))
    tokenizer = Tokenizer(starts="<s>")  # the harness it comes from gives the text to the engine: with the first token
    assert read_back(one, tokenizer) == "<s>Question:\n1+1?\nAnswer:\n"
    assert not read_back(load("greedy"), tokenizer).startswith("<s>")


def test_a_model_without_a_chat_template() -> None:
    tokenizer = Tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(ConfigError, match=r"protocol greedy: the model has no chat template. Copy greedy.yaml"):
        load("greedy").encode(tokenizer, "1+1?")


@pytest.mark.parametrize(
    ("protocol", "mend"),
    [
        ("qwen-math-cot", "use a protocol without `system`, such as greedy; or copy qwen-math-cot.yaml"),
        ("greedy", "Copy greedy.yaml and write the prompt's text as `template`, with {problem} in it"),
    ],
)
def test_a_chat_template_that_refuses_is_named_with_what_to_do(protocol: str, mend: str) -> None:
    tokenizer = build_tokenizer("plain")
    tokenizer.name_or_path = "models/gemma"
    tokenizer.chat_template = "{{ raise_exception('No such role') }}"
    with pytest.raises(ConfigError) as caught:
        load(protocol).encode(tokenizer, "1+1?")
    said = (
        f"protocol {protocol}: the chat template of models/gemma refuses its messages (TemplateError: No such role). "
    )
    assert str(caught.value).startswith(said)
    assert mend in str(caught.value)


def test_a_file_of_the_users_is_named_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sober.yaml").write_text((protocols.FOLDER / "sober.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    for path in ("./sober.yaml", "sober.yaml", str(tmp_path / "sober.yaml")):
        assert load(path) == dataclasses.replace(load("sober"), name=path)
    assert load("sober").name == "sober"


def test_a_real_tokenizer_reads_what_its_template_says(tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer, protocol = AutoTokenizer.from_pretrained(tiny_model), load("qwen-math-cot")
    messages = list(protocol.messages("1+1?"))
    whole = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert protocol.encode(tokenizer, "1+1?") == list(whole)


def test_samples_graders_and_stops() -> None:
    sober = load("sober")
    assert sober.with_samples(32).samples_of("aime24") == sober.with_samples(32).samples_of("gsm8k") == 32
    with pytest.raises(ConfigError, match="samples=0: at least 1"):
        sober.with_samples(0)
    greedy = protocols.load("greedy")
    assert greedy.with_samples(1).samples_of("aime24") == 1
    with pytest.raises(ConfigError, match=r"samples=4: protocol greedy is greedy .temperature 0.*--protocol sampled"):
        greedy.with_samples(4)
    assert sober.grader_of("math") == {"use": "math", "extraction": "lenient"}
    assert sober.grader_of("countdown") == {"use": "countdown"}
    assert load("qwen-math-cot").stop_ids(Tokenizer()) == [7]


def test_all_of_it_is_plain_data() -> None:
    one = load("sober")
    stored = one.as_json()
    assert json.loads(json.dumps(stored)) == stored
    assert stored["sampling"] == {"temperature": 0.8, "top_p": 0.9, "top_k": 0, "min_p": 0.0, "max_tokens": 32768}
    assert set(stored) == {*Protocol.__dataclass_fields__}


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("temprature: 1\n", r"mine.yaml:6: temprature: a protocol has no such setting. Did you mean 'template'\?"),
        ("sampling: {temperature: 1.0, max_token: 9}\n", r"sampling.max_token: .* Did you mean 'max_tokens'\?"),
        ("sampling: {temperature: 1.0}\n", r"mine.yaml:6: sampling.max_tokens: is missing"),
        ("sampling: {temperature: -1, max_tokens: 9}\n", r"sampling.temperature: .*greater than or equal to 0; got -1"),
        ("sampling: {temperature: 1, max_tokens: 1.5}\n", "sampling.max_tokens: "),
        ("samples: {aime24: 2}\n", r'samples: says nothing about benchmarks that it does not name. Add "\*": 1'),
        (
            'samples: {aime2024: 2, "*": 1}\n',
            r"samples.aime2024: no benchmark is called 'aime2024'. Did you mean 'aime24'\?",
        ),
        ("user: Solve it.\n", r"user: 'Solve it.' must contain \{problem\}"),
        ("template: Solve it.\n", r"template: 'Solve it.' must contain \{problem\}"),
        (
            'template: "Q: {problem}"\nsystem: hello\n',
            "template: a text of its own leaves no place for `system` and `user`",
        ),
        ("grader: {use: maths}\n", r"grader.use: no reward is called 'maths'. Did you mean 'math'"),
        ("grader: {use: math, tolerence: 1}\n", r"Did you mean 'tolerance'"),
        ("grader: {}\n", "grader: say which reward"),
        (
            "versions: {math-verify: 0.9}\n",
            "versions.math-verify: should be a valid string; got 0.9. Write it in quotes",
        ),
        ("versions: {math-verfy: '1'}\n", "versions.math-verfy: no such package is installed"),
        ("seed: -1\n", "seed: "),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, extra: str, message: str) -> None:
    key = extra.partition(":")[0]
    kept = "".join(line for line in FILE.splitlines(keepends=True) if not line.startswith(f"{key}:"))
    file = tmp_path / "mine.yaml"
    file.write_text(kept.rstrip("\n") + "\n" * (7 - len(kept.splitlines()) - 1) + extra)
    with pytest.raises(ConfigError, match=message):
        load(str(file))


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("abuot: x\nsampling: {temperature: hot, max_tokens: 5}\nsamples: {'*': 0}\ngrader: {use: math}\n")
    with pytest.raises(ConfigError) as caught:
        load(str(file))
    assert [line.split(": ")[1] for line in str(caught.value).splitlines()] == [
        "abuot",
        "about",
        "sampling.temperature",
        "samples.*",
    ]


def test_names_nobody_knows() -> None:
    with pytest.raises(ConfigError, match=r"no protocol is called 'sobre'. Did you mean 'sober'\?"):
        load("sobre")
    with pytest.raises(ConfigError, match=r"nothing.yaml cannot be read"):
        load("./nothing.yaml")


def test_other_versions_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "old.yaml"
    file.write_text(FILE + "versions: {math-verify: '0.1'}\n")
    with pytest.raises(ConfigError, match=r"protocol .*old.yaml judges with math-verify 0.1, and 0.9.* is installed"):
        load(str(file)).check_versions()
