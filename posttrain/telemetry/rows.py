"""Rollouts as rows of a table, one row a completion."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from posttrain.data.types import Group, Prompt, Rollout

Row = dict[str, Any]

# column: its Arrow type
COLUMNS = {
    "step": "int64",
    "prompt_id": "string",
    "source": "string",
    "level": "int64",
    "prompt": "string",
    "sample": "int64",
    "completion": "string",
    "answer": "string",
    "reward": "float64",
    "correct": "bool_",
    "status": "string",
    "detail": "string",
    "parts": "string",  # JSON, part name: value
    "finish": "string",
    "tokens": "int64",
    "seed": "uint64",  # a hash: it may use all 64 bits
    "version": "int64",
    "origin": "string",
    "advantage": "float64",  # of the first token
    "sampler_logp": "float64",  # mean over the tokens
}


def rollout_rows(step: int, groups: Iterable[Group]) -> list[Row]:
    """Plain dictionaries, so that ranks can gather them before one of them writes."""
    return [_row(step, group.prompt, index, r) for group in groups for index, r in enumerate(group.rollouts)]


def _row(step: int, prompt: Prompt, index: int, rollout: Rollout) -> Row:
    score, advantage, logp = rollout.score, rollout.advantage, rollout.sampler_logp
    return {
        "step": step,
        "prompt_id": prompt.id,
        "source": prompt.source,
        "level": prompt.level,
        "prompt": last_user_message(prompt),
        "sample": index,
        "completion": rollout.text,
        "answer": prompt.answer,
        "reward": None if score is None else score.value,
        "correct": score is not None and score.correct,
        "status": "skipped" if score is None else score.status,
        "detail": "" if score is None else score.detail,
        "parts": json.dumps({} if score is None else dict(score.parts)),
        "finish": rollout.finish,
        "tokens": len(rollout.response_ids),
        "seed": rollout.seed,
        "version": rollout.version,
        "origin": rollout.origin.name.lower(),
        "advantage": None if advantage is None or not len(advantage) else float(advantage[0]),
        "sampler_logp": float(logp.mean()) if len(logp) else None,
    }


def last_user_message(prompt: Prompt) -> str:
    texts = [message["content"] for message in prompt.messages if message["role"] == "user"]
    return texts[-1] if texts else ""


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """The types are written out, so that a column of only missing values keeps its own."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, getattr(pa, kind)()) for name, kind in COLUMNS.items()])
    table = pa.Table.from_pylist([_encodable(row) for row in rows], schema=schema)
    pq.write_table(table, path, compression="zstd")


def read_rows(path: Path) -> list[Row]:
    import pyarrow.parquet as pq

    rows: list[Row] = pq.read_table(path).to_pylist()
    return rows


def _encodable(row: Row) -> Row:
    """A sampled token can be half a surrogate pair, which UTF-8 refuses."""
    return {k: v.encode("utf-8", "replace").decode() if isinstance(v, str) else v for k, v in row.items()}
