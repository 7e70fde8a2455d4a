"""Evaluation protocols: prompt, sampling, lengths, samples and grader under one name, read from YAML."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le, MinLen
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from posttrain.config.errors import ConfigError
from posttrain.config.names import nearest
from posttrain.config.problems import describe
from posttrain.config.tree import Node, read, shown_path
from posttrain.data.chat import message_builder
from posttrain.evaluation.answers import Grader, component
from posttrain.evaluation.catalogue import SPECS
from posttrain.rollout.engine import Sampling

FOLDER = Path(__file__).parent / "protocols"
CHAT, ANY = "chat", "*"


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a score is measured. Stored whole with every result."""

    name: str  # of a file of the user's: its path as given, so that it is never taken for a packaged protocol
    about: str
    sources: tuple[str, ...]
    template: str  # "chat": the model's own; else the prompt's text, with {problem}
    system: str | None
    user: str
    opening: str  # how the completion begins, unless the model's template begins it so itself
    stop: tuple[str, ...]  # tokens that end a completion, beside the model's own
    sampling: Sampling
    samples: Mapping[str, int]  # by benchmark; "*": all others
    grader: Mapping[str, Any]  # of the mathematical benchmarks; the others have their own
    versions: Mapping[str, str]  # of what judges, by package: 0.9 is every 0.9.x
    seed: int

    def samples_of(self, bench: str) -> int:
        """How many completions of each question."""
        return self.samples.get(bench, self.samples[ANY])

    def with_samples(self, count: int) -> Protocol:
        """The same with `count` completions of each question of every benchmark."""
        if count < 1:
            raise ConfigError(f"samples={count}: at least 1 completion of each question is needed")
        if count > 1 and self.sampling.temperature == 0:
            raise ConfigError(
                f"samples={count}: protocol {self.name} is greedy (temperature 0), so all {count} completions of a question "
                "would be the same one. Name a protocol that samples, as in --protocol sampled, or ask for 1 sample"
            )
        return dataclasses.replace(self, samples={ANY: count})

    def grader_of(self, bench_grader: str) -> Grader:
        """What judges a benchmark whose own grader is `bench_grader`: the protocol says how mathematics is judged."""
        return self.grader if bench_grader == self.grader["use"] else {"use": bench_grader}

    def messages(self, problem: str) -> tuple[dict[str, str], ...]:
        """The conversation that ends in the problem; of a protocol with a text of its own, that text."""
        if self.template == CHAT:
            return message_builder(self.system, self.user)(problem)
        return ({"role": "user", "content": self.template.replace("{problem}", problem)},)

    def text(self, tokenizer: Any, problem: str) -> str:
        """The prompt as the model reads it, up to where it goes on.

        Raises ConfigError where the model has no chat template, and where its template refuses the conversation.
        """
        messages = self.messages(problem)
        if self.template != CHAT:
            return messages[-1]["content"] + self.opening
        file = f"{Path(self.name).stem}.yaml"
        own_text = f"Copy {file} and write the prompt's text as `template`, with {{problem}} in it"
        if not getattr(tokenizer, "chat_template", None):
            raise ConfigError(f"protocol {self.name}: the model has no chat template. {own_text}")
        try:
            text = str(tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False))
        except Exception as error:  # a template is a program that comes with the model and raises what it likes
            without = (
                "If it takes no system message, use a protocol without `system`, such as greedy; or "
                f"copy {file}, write that text into `user` and leave `system` out"
            )
            raise ConfigError(
                f"protocol {self.name}: the chat template of {getattr(tokenizer, 'name_or_path', '') or 'the model'} refuses "
                f"its messages ({type(error).__name__}: {error}). {own_text if self.system is None else without}"
            ) from error
        return text if self.opening and text.endswith(self.opening) else text + self.opening

    def encode(self, tokenizer: Any, problem: str) -> list[int]:
        """`text` as token ids. Chat templates write the first special token themselves; other texts get the model's."""
        ids = tokenizer(self.text(tokenizer, problem), add_special_tokens=self.template != CHAT)["input_ids"]
        return [int(token) for token in ids]

    def stop_ids(self, tokenizer: Any) -> list[int]:
        """Ids of those tokens of `stop` that the model knows."""
        known = tokenizer.get_vocab()
        return [int(known[token]) for token in self.stop if token in known]

    def as_json(self) -> dict[str, Any]:
        """Plain data, all of it."""
        out = dataclasses.asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in out.items()}

    def check_versions(self) -> None:
        """Raises ConfigError where what is installed judges otherwise than the protocol's scores were judged."""
        for name, wanted in self.versions.items():
            have = metadata.version(name)
            if not f"{have}.".startswith(f"{wanted}."):
                raise ConfigError(
                    f"protocol {self.name} judges with {name} {wanted}, and {have} is installed: scores may not be "
                    f"comparable. Install it (pip install '{name}=={wanted}.*'), or copy the protocol and change `versions`"
                )


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Sampling(_Strict):
    temperature: Annotated[float, Ge(0)]
    top_p: Annotated[float, Gt(0), Le(1)] = 1.0
    top_k: Annotated[int, Ge(0)] = 0
    min_p: Annotated[float, Ge(0), Le(1)] = 0.0
    max_tokens: Annotated[int, Ge(1)]


class _File(_Strict):
    about: Annotated[str, MinLen(1)]
    sources: list[str] = Field(default_factory=list)
    template: str = CHAT
    system: str | None = None
    user: str = "{problem}"
    opening: str = ""
    stop: list[str] = Field(default_factory=list)
    sampling: _Sampling
    samples: dict[str, Annotated[int, Ge(1)]]
    grader: dict[str, Any]
    versions: dict[str, Annotated[str, MinLen(1)]] = Field(default_factory=dict)
    seed: Annotated[int, Ge(0)] = 0


def names() -> list[str]:
    """The protocols that come with posttrain."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def load(name_or_path: str) -> Protocol:
    """A packaged protocol by name, or any YAML file by path, which is its name.

    Raises ConfigError with every problem of the file, each with file, line and key; an unknown key names the nearest.
    """
    file = Path(name_or_path).expanduser()
    if file.suffix in (".yaml", ".yml"):
        return dataclasses.replace(_load(file.resolve()), name=name_or_path)
    if name_or_path not in names():
        raise ConfigError(
            f"no protocol is called {name_or_path!r}. {nearest(name_or_path, names())} A file of your own is named by "
            "its path, as in ./mine.yaml"
        )
    return _load((FOLDER / f"{name_or_path}.yaml").resolve())


@cache
def _load(file: Path) -> Protocol:
    node = read(file)
    places = {key: one.origin for key, one in node.walk()}
    problems = [*_unknown(node), *_wrong(node)]
    if problems:
        lines = [f"{_place(key, places, file)}: {key or 'protocol'}: {message}" for key, message in problems]
        raise ConfigError("\n".join(lines))
    one = _File.model_validate(node.plain())
    return Protocol(
        name=file.stem,
        sampling=Sampling(**one.sampling.model_dump()),
        sources=tuple(one.sources),
        stop=tuple(one.stop),
        **one.model_dump(exclude={"sampling", "sources", "stop"}),
    )


def _unknown(node: Node) -> Iterator[tuple[str, str]]:
    sampling = node.value.get("sampling")
    blocks: list[tuple[str, Node | None, type[BaseModel]]] = [("", node, _File), ("sampling.", sampling, _Sampling)]
    for at, block, model in blocks:
        for key in block.value if block is not None and isinstance(block.value, dict) else ():
            if key not in model.model_fields:
                yield at + key, f"a protocol has no such setting. {nearest(key, model.model_fields)}"


def _wrong(node: Node) -> Iterator[tuple[str, str]]:
    """What is wrong with known keys: types and bounds first, and then what they say together."""
    try:
        one = _File.model_validate(node.plain())
    except ValidationError as error:
        for e in error.errors(include_url=False):
            if e["type"] != "extra_forbidden":
                yield ".".join(map(str, e["loc"])), describe(e)
        return
    for bench in one.samples:
        if bench != ANY and bench not in SPECS:
            yield f"samples.{bench}", f"no benchmark is called {bench!r}. {nearest(bench, [*SPECS, ANY])}"
    if ANY not in one.samples:
        yield "samples", 'says nothing about benchmarks that it does not name. Add "*": 1'
    if one.template != CHAT and (one.system is not None or one.user != "{problem}"):
        yield (
            "template",
            "a text of its own leaves no place for `system` and `user`: write them into it, or set it to chat",
        )
    for key, text in (("user", one.user), ("template", "{problem}" if one.template == CHAT else one.template)):
        if "{problem}" not in text:
            yield key, f"{text!r} must contain {{problem}}, or the model never sees the problem"
    for name in one.versions:
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            yield f"versions.{name}", "no such package is installed. Name one that judges, such as math-verify"
    try:
        component(one.grader)
    except (ConfigError, KeyError) as error:
        yield "grader", str(error) if isinstance(error, ConfigError) else "say which reward with `use:`"


def _place(key: str, places: Mapping[str, str], file: Path) -> str:
    """Where the key stands, or the nearest one above it."""
    while key and key not in places:
        key = key.rpartition(".")[0]
    return places.get(key) or shown_path(file)
