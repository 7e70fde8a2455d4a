"""Supervised warm-up with TRL's SFTTrainer, in a process of its own.

A process of its own because the launcher's variables would make the trainer take part in the learner's world, and
because its memory is gone when it ends.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from posttrain.config.errors import ConfigError
from posttrain.config.recipe import Recipe, Warmup
from posttrain.data.chat import message_builder

_LAUNCHER_PREFIXES = (
    "ACCELERATE_",
    "MASTER_",
    "TORCHELASTIC_",
    "RANK",
    "LOCAL_",
    "WORLD_SIZE",
    "GROUP_",
    "ROLE_",
    "OMP_",
)
MARK = "warm-up: "
IGNORED = -100  # torch's cross-entropy leaves such labels out
Progress = Callable[[int, int, float], None]


class WarmupFailed(RuntimeError):
    """The warm-up process ended without a model."""


def run_warmup(
    recipe: Recipe, recipe_file: Path, model: Path, out: Path, progress: Progress, stop: Callable[[], bool]
) -> bool:
    """Trains `model` on the task's demonstrations into `out`. False when it was asked to stop before the end.

    `recipe_file` is the resolved recipe, which the process reads. Raises WarmupFailed with the end of its log.
    """
    if not recipe.task.has_demonstrations:
        raise ConfigError("warmup: this task has no demonstrations to learn from; set `warmup: false`")
    log = out.parent / "warmup.log"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(_LAUNCHER_PREFIXES)}
    environment |= {"TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "posttrain.warmup", str(recipe_file), str(model), str(out)]
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
        )
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if line.startswith(MARK):  # the trainer prints lines of its own
                    now = json.loads(line.removeprefix(MARK))
                    progress(now["step"], now["steps"], now["loss"])
                if stop():
                    return False
        finally:
            if process.poll() is None:
                process.terminate() if not stop() else process.kill()
            process.wait()
    if process.returncode != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-12:])
        raise WarmupFailed(
            f"the supervised warm-up ended with exit code {process.returncode}. The end of {log}:\n{tail}"
        )
    return True


def train_supervised(recipe: Recipe, settings: Warmup, model: Path, out: Path) -> None:
    """The work itself: completion-only cross-entropy on (prompt, completion) pairs, tokens prepared here."""
    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    class Lines(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if logs and "loss" in logs:
                now = {"step": state.global_step, "steps": state.max_steps, "loss": float(logs["loss"])}
                print(MARK + json.dumps(now))

    tokenizer = AutoTokenizer.from_pretrained(model)
    messages = message_builder(recipe.chat.system, recipe.chat.user)
    pairs = recipe.task.demonstrations(settings.demonstrations, messages, recipe.seed)
    # Rendered once per prompt and tokenized in one batch: the trainer's own map over the rows takes ten times as long.
    heads = [
        tokenizer.apply_chat_template(list(p.messages), add_generation_prompt=True, tokenize=False) for p, _ in pairs
    ]
    head_ids = tokenizer(heads, add_special_tokens=False)["input_ids"]
    tail_ids = tokenizer([text + tokenizer.eos_token for _, text in pairs], add_special_tokens=False)["input_ids"]
    rows = [{"input_ids": [*a, *b], "labels": [IGNORED] * len(a) + b} for a, b in zip(head_ids, tail_ids, strict=True)]
    trainer = SFTTrainer(
        model=str(model),
        args=SFTConfig(
            output_dir=str(out.parent / "warmup-state"),
            max_steps=settings.steps,
            per_device_train_batch_size=settings.batch,
            learning_rate=settings.lr,
            lr_scheduler_type="linear",
            warmup_steps=settings.warmup_steps,
            max_length=None,  # every row is whole; nothing is to be cut
            dataset_kwargs={"skip_prepare_dataset": True},  # rows are tokens already
            weight_decay=0.0,
            max_grad_norm=1.0,
            logging_steps=10,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=recipe.seed,
            data_seed=recipe.seed,
            bf16=False,
            use_cpu=not torch.cuda.is_available(),
            gradient_checkpointing=False,
            dataloader_pin_memory=False,
            model_init_kwargs={"dtype": "float32"},
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=[Lines()],
    )
    trainer.train()
    trainer.model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def main(recipe_file: str, model: str, out: str) -> int:
    from posttrain.config.load import load_recipe

    recipe = load_recipe(recipe_file).recipe
    assert recipe.warmup is not None
    train_supervised(recipe, recipe.warmup, Path(model), Path(out))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
