from __future__ import annotations

from typing import Any

import pytest

from posttrain.config.errors import ConfigError
from posttrain.data.chat import encode, fitting, message_builder
from posttrain.data.types import Prompt
from posttrain.learner.tiny import TEMPLATES, build_tokenizer
from tests.row_samples import prompt

FRAME = {"plain": 5, "chatml": 19}  # tokens of a conversation around the user's text


@pytest.fixture(scope="module", params=sorted(TEMPLATES))
def tokenizer(request: pytest.FixtureRequest) -> Any:
    out = build_tokenizer(request.param)
    out.frame = FRAME[request.param]
    return out


def sized(*sizes: int) -> list[Prompt]:
    return [prompt(f"p{i}", "x" * n) for i, n in enumerate(sizes)]


# ---- messages ----
def test_the_problem_takes_its_place_and_braces_stay() -> None:
    build = message_builder("Use \\boxed{}.", "Q: {problem} Answer in \\boxed{}.")
    assert build("What is {x}?") == (
        {"role": "system", "content": "Use \\boxed{}."},
        {"role": "user", "content": "Q: What is {x}? Answer in \\boxed{}."},
    )
    assert message_builder(None, "{problem}")("{problem}") == ({"role": "user", "content": "{problem}"},)


def test_a_user_message_without_the_problem_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"chat\.user='Solve it'"):
        message_builder(None, "Solve it")


# ---- lengths ----
def test_encode_gives_the_ids_of_the_rendered_prompt(tokenizer: Any) -> None:
    p = prompt(text="1+2=")
    ids = encode(tokenizer, p, 100)
    assert len(ids) == tokenizer.frame + 4
    text = tokenizer.apply_chat_template(list(p.messages), add_generation_prompt=True, tokenize=False)
    assert ids == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert all(type(i) is int for i in ids)


def test_encode_refuses_what_does_not_fit(tokenizer: Any) -> None:
    p = prompt("long one", "x" * 10)
    assert len(encode(tokenizer, p, tokenizer.frame + 10)) == tokenizer.frame + 10
    with pytest.raises(ConfigError, match=f"'long one' has {tokenizer.frame + 10} tokens"):
        encode(tokenizer, p, tokenizer.frame + 9)


@pytest.mark.parametrize("too_long", ["error", "drop"])
def test_what_fits_exactly_is_kept(tokenizer: Any, too_long: str) -> None:
    prompts = sized(10, 3, 0)
    assert fitting(tokenizer, prompts, tokenizer.frame + 10, too_long) == prompts


def test_too_long_is_an_error_that_names_the_longest(tokenizer: Any) -> None:
    with pytest.raises(ConfigError) as error:
        fitting(tokenizer, sized(10, 12, 50, 3), tokenizer.frame + 10, "error")
    message = str(error.value)
    assert f"2 of 4 prompts are too long: 'p2' has {tokenizer.frame + 50} tokens" in message
    assert f"leaves {tokenizer.frame + 10}" in message
    assert "chat.too_long=drop" in message


def test_or_left_out(tokenizer: Any) -> None:
    kept = fitting(tokenizer, sized(10, 12, 50, 3), tokenizer.frame + 10, "drop")
    assert [p.id for p in kept] == ["p0", "p3"]


def test_characters_of_several_bytes_are_counted_as_tokens(tokenizer: Any) -> None:
    p = prompt(text="ü∑🙂")  # 2 + 3 + 4 bytes
    assert fitting(tokenizer, [p], tokenizer.frame + 9, "error") == [p]
    with pytest.raises(ConfigError):
        fitting(tokenizer, [p], tokenizer.frame + 8, "error")


def test_system_messages_count(tokenizer: Any) -> None:
    build = message_builder("s" * 40, "{problem}")
    p = prompt(messages=build("x" * 10))
    exact = len(encode(tokenizer, p, 10_000))
    assert fitting(tokenizer, [p], exact, "error") == [p]
    with pytest.raises(ConfigError):
        fitting(tokenizer, [p], exact - 1, "error")


def test_nothing_left_is_an_error(tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match="all 2 prompts are longer than the 20 tokens"):
        fitting(tokenizer, sized(100, 200), 20, "drop")


def test_no_room_at_all(tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match=r"sampling\.max_tokens fills"):
        fitting(tokenizer, sized(1), 0, "drop")
