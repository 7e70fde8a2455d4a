"""The blocks of a recipe. A string below a field is its description in the schema and in `explain`."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    Strict,
    ValidationError,
    model_validator,
)

from posttrain.config import registries
from posttrain.config.problems import with_names

Positive = Annotated[int, Ge(1)]
Count = Annotated[int, Ge(0)]
Share = Annotated[float, Ge(0), Le(1)]
Above0 = Annotated[float, Gt(0), Lt(float("inf"))]
Decay = Annotated[float, Ge(0), Lt(1)]
FROM_LIST = Strict(False)  # YAML has no tuples; the items stay strict
_KEEPS_ALL = (
    "for training, which keeps every token: the engine's log-probabilities are renormalised over the tokens that are "
    "kept, the learner's are not, so every ratio would be wrong. It exists so that a recipe that sets it is told."
)


class Section(BaseModel):
    """A block of the recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    @model_validator(mode="wrap")
    @classmethod
    def _name_unknown_keys(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(data)
        except ValidationError as error:
            what = f"`{'_'.join(re.findall('[A-Z][a-z]*', cls.__name__)).lower()}`"
            raise with_names(error, cls.model_fields, what, elsewhere=cls._elsewhere()) from None

    @classmethod
    def _elsewhere(cls) -> dict[str, str]:
        """Keys of the blocks below, by their dotted name."""
        below = {name: field.annotation for name, field in cls.model_fields.items()}
        return {
            key: f"{name}.{key}"
            for name, section in below.items()
            if isinstance(section, type) and issubclass(section, Section)
            for key in section.model_fields
        }


class Warmup(Section):
    """Supervised warm-up on demonstrations of the task, before the first step of RL."""

    steps: Positive = 700
    """Optimizer steps."""
    batch: Positive = 64
    """Demonstrations per optimizer step."""
    lr: Above0 = 2e-3
    """Highest learning rate."""
    warmup_steps: Count = 50
    """Steps on the way up to it."""
    demonstrations: Positive = 20000
    """How many demonstrations to draw from the task."""


class Chat(Section):
    """How a problem becomes messages."""

    system: str | None = None
    """System message; null for none."""
    user: str = "{problem}"
    """User message; {problem} stands for the text of the problem."""
    too_long: Literal["error", "drop"] = "error"
    """What happens with problems that leave no room for a completion."""


class Batch(Section):
    """How much one step takes in. prompts x samples = sequences a step."""

    prompts: Positive = 32
    """Problems a step."""
    samples: Positive = 8
    """Completions of each problem: the group that an advantage compares (samples per prompt)."""
    updates: Positive = 1
    """Optimizer steps in one pass over the batch, each on an equal share of the prompts."""
    epochs: Positive = 1
    """Passes over the batch before new completions are sampled."""


class Sampling(Section):
    """How completions are sampled."""

    temperature: Above0 = 1.0
    """Divides the logits, both when sampling and when training."""
    max_tokens: Positive = 64
    """Longest completion; a longer one is cut and counted as truncated."""
    top_p: Annotated[float, Gt(0), Le(1)] = Field(
        default=1.0, description=f"Total probability of the likeliest tokens to keep. Has to stay at 1 {_KEEPS_ALL}"
    )
    top_k: Count = Field(default=0, description=f"Number of likeliest tokens to keep. Has to stay at 0 {_KEEPS_ALL}")
    min_p: Share = Field(
        default=0.0, description=f"Least share of the likeliest token's probability. Has to stay at 0 {_KEEPS_ALL}"
    )


class Scoring(Section):
    """Where and how verdicts are reached."""

    workers: Positive = 1
    """Scoring processes beside each engine."""
    timeout: Above0 = 5.0
    """Seconds for one completion; then its process is killed and it counts as failed."""
    max_failed: Share = 0.02
    """Share of failed verdicts of a step above which the run stops."""
    memory_mb: Annotated[int, Ge(64)] = 2048
    """Memory of one scoring process."""


class Learner(Section):
    """The optimizer and how a batch is cut."""

    lr: Above0 = 1e-6
    """Highest learning rate."""
    schedule: Annotated[Any, registries.LR_SCHEDULES.default("constant")] = Field(
        default="constant", validate_default=True
    )
    """How the learning rate changes over the run."""
    weight_decay: Annotated[float, Ge(0)] = 0.0
    """AdamW's decoupled weight decay."""
    betas: Annotated[tuple[Decay, Decay], FROM_LIST] = (0.9, 0.95)
    """AdamW's decay rates of the two moments."""
    eps: Above0 = 1e-8
    """AdamW's epsilon."""
    max_grad_norm: Above0 = 1.0
    """Gradients are scaled down to this norm."""
    tokens_per_micro_batch: Positive = 8192
    """Tokens (prompts included) in one forward pass of one rank: the knob for memory."""
    head_chunk: Positive = 2048
    """Tokens whose logits exist at the same time."""
    packing: Literal["auto"] | bool = "auto"
    """Rows one after the other without padding; auto does so where the attention takes variable lengths."""


class Critic(Section):
    """A second model that estimates the return from each token on, for advantages that need one."""

    path: Annotated[str, MinLen(1)] | None = None
    """Weights to start from: a folder or a hub id; null for the first weights of the policy."""
    lr: Above0 = 1e-5
    """Highest learning rate of the critic; it follows learner.schedule."""
    warmup: Count = 0
    """First steps of the run in which the critic learns and the policy does not."""
    max_grad_norm: Above0 = 1.0
    """The critic's gradients are scaled down to this norm."""


class Reference(Section):
    """The frozen model that the policy is compared with. Loaded only where something reads it."""

    path: Annotated[str, MinLen(1)] | None = None
    """Its weights: a folder or a hub id; null for the first weights of the run."""


class Probe(Section):
    """The comparison of learner and engine after each publishing of weights."""

    prompts: Positive = 4
    """Completions compared."""
    tokens: Positive = 16
    """Tokens of each."""
    tolerance: Above0 | Literal["auto"] = "auto"
    """Largest difference of log-probabilities that is let pass; auto goes by the dtype."""


class Engine(Section):
    """The vLLM engine."""

    context: Positive | None = None
    """Most tokens of a prompt and its completion together; null for the model's own limit."""
    kv_cache_gib: Above0 = 1.0
    """KV cache on the CPU, in GiB."""
    gpu_memory: Annotated[float, Gt(0), Le(1)] = 0.35
    """Share of the GPU's memory that vLLM may take."""
    max_sequences: Positive = 256
    """Completions sampled at the same time."""
    probe: Probe = Probe()
    """The comparison of learner and engine after each publishing of weights."""
    start_timeout: Above0 = 300.0
    """Seconds to wait for the engine to come up."""


class Eval(Section):
    """Evaluation on held-out problems."""

    every: Count = 20
    """Steps from one evaluation to the next; 0 for none in between."""
    problems: Positive = 256
    """Held-out problems."""
    samples: Positive = 1
    """Completions of each."""
    temperature: Annotated[float, Ge(0), Lt(float("inf"))] = 1.0
    """0 is greedy."""
    before: bool = True
    """Evaluate before the first step."""
    after: bool = True
    """Evaluate after the last step."""
    bench: Annotated[tuple[Annotated[str, MinLen(1)], ...], FROM_LIST] = ()
    """Benchmarks beside the held-out problems, by name or as file:PATH; the recipe's rewards judge them."""
    best: Annotated[str, MinLen(1)] | None = None
    """Metric whose best checkpoint stays beside checkpoint.keep: accuracy, pass_at_k, or these of a benchmark, as in
    amc23/accuracy; null for none."""


class Checkpoint(Section):
    """What is kept to continue from."""

    every: Count = 20
    """Steps from one checkpoint to the next; 0 for none."""
    keep: Positive = 2
    """How many of the newest stay on disk."""


class Guards(Section):
    """When to raise an alarm."""

    all_zero_steps: Count = 3
    """Steps in a row of the same reward for all before the alarm, or without a verdict before the run stops; 0 for never."""
    truncated: Share = 0.5
    """Share of truncated completions above which the alarm is raised."""
