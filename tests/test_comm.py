from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import textwrap
from typing import Any

import pytest
import torch

from posttrain.comm import SingleProcess
from tests.fake_ranks import Rank, results_of

WORKER = """
import json, os, sys, threading
threading.Timer(50, lambda: os._exit(9)).start()  # a collective that does not meet would wait for half an hour
import torch
import torch.distributed as dist
from posttrain.comm import Distributed
from tests.test_comm import exercise

dist.init_process_group("gloo")
print("OUT " + json.dumps(exercise(Distributed(torch.device("cpu")))), flush=True)
dist.barrier()
dist.destroy_process_group()
os._exit(0)
"""


def exercise(comm: Any) -> dict[str, Any]:
    """Every collective once, with values that differ by rank; what came back, as plain data."""
    rank = comm.rank
    mine = torch.arange(3.0) + 10 * rank
    single = torch.tensor(1.0 + rank)
    flags = torch.tensor([rank == 0, True])
    out = {
        "world": comm.world,
        "sum": comm.sum(mine).tolist(),
        "sum of nothing": comm.sum(torch.zeros(0)).tolist(),
        "sum of a scalar": comm.sum(single).tolist(),
        "dtype": str(comm.sum(mine.double()).dtype),
        "max": comm.max(torch.tensor([rank, -rank])).tolist(),
        "gather": comm.gather(mine[: 1 + rank]).tolist(),
        "gather with an empty rank": comm.gather(torch.ones(rank)).tolist(),
        "gather of nothing": comm.gather(torch.zeros(0)).tolist(),
        "gather of flags": comm.gather(flags).tolist(),
        "broadcast": comm.broadcast({"from": rank}),
        "objects": comm.gather_objects([rank] * (rank + 1)),
    }
    comm.barrier()
    return out | {"untouched": [mine.tolist(), single.tolist(), flags.tolist()]}


def expected(world: int, rank: int) -> dict[str, Any]:
    ranks = range(world)
    return {
        "world": world,
        "sum": sum(3.0 + 30 * r for r in ranks),
        "sum of nothing": 0.0,
        "sum of a scalar": sum(1.0 + r for r in ranks),
        "dtype": "torch.float64",
        "max": [world - 1, 0],
        "gather": [x for r in ranks for x in [10.0 * r, 10.0 * r + 1][: 1 + r]],
        "gather with an empty rank": [1.0 for r in ranks for _ in range(r)],
        "gather of nothing": [],
        "gather of flags": [x for r in ranks for x in (r == 0, True)],
        "broadcast": {"from": 0},
        "objects": [[r] * (r + 1) for r in ranks],
        "untouched": [[0.0 + 10 * rank, 1.0 + 10 * rank, 2.0 + 10 * rank], 1.0 + rank, [rank == 0, True]],
    }


def test_a_single_process_is_a_world_of_one() -> None:
    assert exercise(SingleProcess()) == expected(1, 0)


def test_the_fake_ranks_of_the_tests_do_as_the_real_ones() -> None:
    for rank, found in enumerate(results_of(2, exercise)):
        assert found == expected(2, rank)


def test_fake_ranks_know_their_rank() -> None:
    def where(rank: Rank) -> tuple[int, int]:
        return rank.rank, rank.world

    assert results_of(3, where) == [(0, 3), (1, 3), (2, 3)]


@pytest.mark.slow
def test_two_real_processes() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    world = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", textwrap.dedent(WORKER)]
    processes = [
        subprocess.Popen(words, env={**world, "RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    printed = [p.communicate(timeout=60)[0] for p in processes]
    assert [p.returncode for p in processes] == [0, 0]
    for rank, text in enumerate(printed):
        (line,) = [x for x in text.splitlines() if x.startswith("OUT ")]
        assert json.loads(line.removeprefix("OUT ")) == expected(2, rank)
