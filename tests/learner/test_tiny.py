from __future__ import annotations

import hashlib
import string
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import torch

from posttrain.config.errors import ConfigError
from posttrain.config.models import TINY_VOCABULARY, TinyModel
from posttrain.learner.models import load_policy
from posttrain.learner.tiny import END, PAD, START, TEMPLATES, build_tiny, build_tokenizer

SMALL = TinyModel(hidden=32, layers=1, heads=1, kv_heads=1, intermediate=32, context=64)
TEXTS = [
    "12+3=15;15+4=19\\boxed{19}",
    "  two  spaces, a\ttab,\r\n\n and lines ",
    "Ünïcödé ∑ ≠ 漢字 한국어 עברית",
    "🙂👩‍👩‍👧‍👦 e\u0301 \u00e9 \ufeff \u200b",
    "\x00\x01\x7f\x80\xa0\xff",
    "it 's n't , and . no cleaning up",
    "<|im_start|>not special here<|im_end|>",
    "",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tiny") / "model"
    build_tiny(SMALL, 5, out)
    return out


@pytest.fixture(scope="module", params=["built", "loaded"])
def tokenizer(request: pytest.FixtureRequest, folder: Path) -> Any:
    if request.param == "built":
        return build_tokenizer("plain")
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


# ---- tokenizer ----
@pytest.mark.parametrize("text", TEXTS)
def test_any_text_survives_in_its_composed_form(tokenizer: Any, text: str) -> None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == unicodedata.normalize("NFC", text)


def test_any_character_survives(tokenizer: Any) -> None:
    every = [chr(i) for i in range(0x110000) if not 0xD800 <= i <= 0xDFFF]
    text = unicodedata.normalize("NFC", "".join(every[::37]))
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_one_token_for_every_ascii_character(tokenizer: Any) -> None:
    ids = [tokenizer(c)["input_ids"] for c in string.printable]
    assert all(len(i) == 1 for i in ids)
    assert len({i[0] for i in ids}) == len(string.printable)
    assert tokenizer(string.printable)["input_ids"] == [i[0] for i in ids]


def test_a_built_tokenizer_is_the_one_that_a_run_loads(tokenizer: Any) -> None:
    built = build_tokenizer("plain")
    for text in [*TEXTS, string.printable]:
        assert tokenizer(text)["input_ids"] == built(text)["input_ids"]
    assert tokenizer.chat_template == built.chat_template


def test_one_token_for_every_byte(tokenizer: Any) -> None:
    text = "ü漢🙂"
    assert len(tokenizer(text)["input_ids"]) == len(text.encode())


def test_the_special_tokens(tokenizer: Any) -> None:
    assert (tokenizer.pad_token, tokenizer.eos_token) == (PAD, END)
    ids = tokenizer(f"{START}a{END}{PAD}")["input_ids"]
    assert len(ids) == 4
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a"
    assert len(tokenizer) == TINY_VOCABULARY


CHAT = [
    {"role": "system", "content": "Be {brief}."},
    {"role": "user", "content": "1+2="},
    {"role": "assistant", "content": "3"},
]
RENDERED = {
    "plain": "<|im_start|>sBe {brief}.<|im_end|><|im_start|>u1+2=<|im_end|><|im_start|>a3<|im_end|>",
    "chatml": (
        "<|im_start|>system\nBe {brief}.<|im_end|>\n<|im_start|>user\n1+2=<|im_end|>\n"
        "<|im_start|>assistant\n3<|im_end|>\n"
    ),
}
OPENING = {"plain": "<|im_start|>a", "chatml": "<|im_start|>assistant\n"}


@pytest.mark.parametrize("template", sorted(TEMPLATES))
def test_chat_templates(template: str) -> None:
    made = build_tokenizer(template)
    assert made.apply_chat_template(CHAT, tokenize=False) == RENDERED[template]
    opened = made.apply_chat_template(CHAT[:2], tokenize=False, add_generation_prompt=True)
    answered = opened + "3" + END
    assert opened.endswith(OPENING[template])
    assert RENDERED[template].startswith(answered)  # what is sampled is what would be rendered


# ---- model ----
def test_the_seed_decides_every_weight(folder: Path, tmp_path: Path) -> None:
    build_tiny(SMALL, 5, tmp_path / "again")
    build_tiny(SMALL, 6, tmp_path / "other")
    assert digest(tmp_path / "again") == digest(folder)
    assert digest(tmp_path / "other") != digest(folder)


def test_building_leaves_the_random_state_alone(tmp_path: Path) -> None:
    torch.manual_seed(1)
    want = torch.rand(3).tolist()
    torch.manual_seed(1)
    build_tiny(SMALL, 5, tmp_path / "model")
    assert torch.rand(3).tolist() == want


def test_the_model_is_what_the_settings_say(folder: Path) -> None:
    policy = load_policy(folder, "float32", "auto", torch.device("cpu"))
    lm: Any = policy.lm
    assert sum(p.numel() for p in policy.parameters()) == SMALL.parameters()
    assert lm.config.max_position_embeddings == SMALL.context
    assert lm.get_input_embeddings().weight.shape == (TINY_VOCABULARY, SMALL.hidden)
    assert lm.get_input_embeddings().weight is not lm.get_output_embeddings().weight
    tokenizer = build_tokenizer("plain")
    assert (lm.config.eos_token_id, lm.config.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)
    assert {p.dtype for p in policy.parameters()} == {torch.float32}


def test_a_tied_model_on_the_cpu_is_refused(tmp_path: Path) -> None:
    build_tiny(TinyModel(hidden=32, layers=1, heads=1, kv_heads=1, intermediate=32, tie_embeddings=True), 0, tmp_path)
    with pytest.raises(ConfigError, match=r"ties its input and output embeddings.*tie_embeddings=false"):
        load_policy(tmp_path, "float32", "auto", torch.device("cpu"))


def test_the_dtype_is_the_one_asked_for(folder: Path) -> None:
    policy = load_policy(folder, "bfloat16", "auto", torch.device("cpu"))
    assert {p.dtype for p in policy.parameters()} == {torch.bfloat16}
