"""Prints what the evaluation harness costs over raw vLLM; asserts nothing: `python tests/bench/bench_eval.py`.

Both generate the same requests: the same prompts, seeds and lengths, all handed over at once. Raw is `vllm.LLM.generate` in a
process of its own, with text as its output. The harness is what `posttrain eval` runs, verdicts and files included. They
take turns, so that both see the same machine. `--size 1.5b` takes a random model of that size (Qwen2.5's), for GPUs.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from posttrain.config.models import TinyModel  # noqa: E402
from posttrain.data.types import Prompt  # noqa: E402
from posttrain.evaluation.judges import Judges  # noqa: E402
from posttrain.evaluation.running import Bench, Sitting  # noqa: E402
from posttrain.evaluation.store import Store  # noqa: E402
from posttrain.learner.tiny import build_tiny, build_tokenizer  # noqa: E402
from posttrain.rollout.engine import Sampling  # noqa: E402
from posttrain.rollout.fleet import Fleet  # noqa: E402
from posttrain.rollout.vllm_engine import EngineSettings, VLLMEngine  # noqa: E402

DATA = ROOT.parent / "shared" / "data" / "math500.jsonl"
CONTEXT = 4096
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {},
    "1.5b": {
        "vocab_size": 151936,
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": True,
    },
}


def build(size: str, folder: Path) -> Path:
    """A model with random weights, in Hugging Face format."""
    if size == "tiny":
        build_tiny(TinyModel(hidden=256, layers=4, heads=4, kv_heads=2, intermediate=512, context=CONTEXT), 0, folder)
        return folder
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(**SIZES[size], eos_token_id=151645, bos_token_id=None, pad_token_id=151643)
    torch.manual_seed(0)
    Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    build_tokenizer("chatml").save_pretrained(folder)
    return folder


def problems(count: int) -> list[dict[str, str]]:
    if DATA.is_file():
        return [json.loads(line) for line in DATA.read_text().splitlines()[:count]]
    return [{"id": str(i), "problem": f"What is {i} + {i}? " * 6, "answer": str(2 * i)} for i in range(count)]


def bench(folder: Path, count: int, samples: int) -> Bench:
    from transformers import AutoTokenizer

    tokenizer, rows = AutoTokenizer.from_pretrained(folder), problems(count)
    ask = lambda text: [{"role": "user", "content": text}]  # noqa: E731
    encode = lambda text: tokenizer.apply_chat_template(ask(text), add_generation_prompt=True, return_dict=False)  # noqa: E731
    prompts = {
        row["id"]: Prompt(id=row["id"], source="", messages=tuple(ask(row["problem"])), answer=row["answer"])
        for row in rows
    }
    return Bench("bench", {"use": "math"}, samples, prompts, {row["id"]: encode(row["problem"]) for row in rows})


class Raw:
    """vLLM by itself, in a process that answers one line per run: seconds, tokens."""

    def __init__(self, settings: dict[str, Any]) -> None:
        line = [sys.executable, __file__, "--raw", json.dumps(settings)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(line, stdin=pipe, stdout=pipe, text=True, start_new_session=True)
        self._line()

    def run(self) -> tuple[float, int]:
        assert self.process.stdin is not None
        print("go", file=self.process.stdin, flush=True)
        seconds, tokens = self._line().split()
        return float(seconds), int(tokens)

    def _line(self) -> str:
        assert self.process.stdout is not None
        while not (line := self.process.stdout.readline()).startswith("RAW "):
            if not line:
                raise SystemExit("raw vLLM ended; its errors are above")
        return line.removeprefix("RAW ")

    def close(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)  # vLLM's own processes with it
        self.process.wait()


def serve_raw(settings: dict[str, Any]) -> None:
    from vllm import LLM, SamplingParams

    backend: dict[str, Any] = {"gpu_memory_utilization": settings["gpu_memory"]}
    if settings["device"] == "cpu":
        memory = int(settings["kv_cache_gib"] * 2**30)
        backend = {"kv_cache_memory_bytes": memory, "enforce_eager": True, "enable_chunked_prefill": False}
        backend["max_num_batched_tokens"] = 8192
    llm = LLM(
        model=settings["model"],
        dtype=settings["dtype"],
        max_model_len=settings["context"],
        max_num_seqs=settings["max_sequences"],
        generation_config="vllm",
        disable_log_stats=True,
        seed=0,
        **backend,
    )
    print("RAW ready", flush=True)
    requests = json.loads(Path(settings["requests"]).read_text())
    for _ in sys.stdin:
        params = [SamplingParams(**settings["sampling"], seed=seed) for _, seed in requests]
        prompts = [{"prompt_token_ids": ids} for ids, _ in requests]
        began = time.perf_counter()
        outputs = llm.generate(prompts, params, use_tqdm=False)
        seconds = time.perf_counter() - began
        print(f"RAW {seconds} {sum(len(one.outputs[0].token_ids) for one in outputs)}", flush=True)


def harness(
    fleet: Fleet, one: Bench, tokenizer: Any, sampling: Sampling, judges: Judges, seed: int
) -> tuple[float, int, float]:
    """Seconds, tokens, and CPU seconds of this process: what the harness adds, engine and verifiers apart."""
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder)) as store:
        store.open({})
        decode = lambda ids: tokenizer.decode(ids, skip_special_tokens=True)  # noqa: E731
        sitting = Sitting("m", {one.name: one}, store, judges, decode, sampling, CONTEXT, seed)
        began, cpu = time.perf_counter(), time.process_time()
        sitting.run(fleet, sitting.left(), lambda done, total: None)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        return seconds, sum(row["tokens"] for row in store.rows("m", one.name)), cpu


def compare(options: argparse.Namespace, folder: Path) -> None:
    from transformers import AutoTokenizer

    one = bench(folder, options.questions, options.samples)
    on_cpu = options.device == "cpu"
    settings = {
        "model": str(folder),
        "dtype": "float32" if on_cpu else "bfloat16",
        "context": CONTEXT,
        "max_sequences": options.sequences,
        "kv_cache_gib": 2.0,
        "gpu_memory": 0.4,  # two engines live beside each other
        "device": options.device,
    }
    sampling = Sampling(temperature=0.6, top_p=0.95, max_tokens=options.max_tokens)
    requests = [(list(one.ids[job.question]), job.seed) for job in one.jobs(0)]
    (folder / "requests.json").write_text(json.dumps(requests))
    asked = {"temperature": 0.6, "top_p": 0.95, "max_tokens": options.max_tokens}
    raw = Raw({**settings, "requests": str(folder / "requests.json"), "sampling": asked})
    prefill = None if on_cpu else 16384
    engine = EngineSettings(**settings, logprobs=False, prefill=prefill)
    fleet = Fleet([VLLMEngine(engine, folder / "engine.log")])
    judges, tokenizer = Judges(), AutoTokenizer.from_pretrained(folder)
    try:
        fleet.wait_until_ready()
        judges.start([one.grader])
        turns = []
        for turn in range(options.repeats + 1):
            plain, ours = raw.run(), harness(fleet, one, tokenizer, sampling, judges, 0)
            if turn:  # the first warms up caches and kernels
                turns.append(ours[0] / plain[0])
            both = (("raw", plain), ("eval", ours[:2]))
            rates = [f"{name} {s:6.2f} s {n / s:9.0f} tokens/s" for name, (s, n) in both]
            rates.append(f"of it {ours[2]:.2f} s of this process")
            print(f"{'warm-up' if not turn else f'turn {turn}':8} {'   '.join(rates)}   ratio {ours[0] / plain[0]:.3f}")
    finally:
        fleet.close()
        judges.close()
        raw.close()
    spread = f", standard deviation {statistics.stdev(turns):.3f}" if len(turns) > 1 else ""
    print(f"eval / raw, seconds: median {statistics.median(turns):.3f}, {min(turns):.3f} to {max(turns):.3f}{spread}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--raw", help=argparse.SUPPRESS)
    parser.add_argument("--size", choices=list(SIZES), default="tiny")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--questions", type=int, default=32)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--sequences", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    if options.raw:
        return serve_raw(json.loads(options.raw))
    with tempfile.TemporaryDirectory() as folder:
        compare(options, build(options.size, Path(folder)))
    return None


if __name__ == "__main__":
    main()
