"""No candidate that does not solve its problem gets a reward, and none leaves a trace. On every wall there is."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from posttrain.config.registries import REWARDS
from posttrain.data.types import Prompt, Score
from posttrain.scoring.api import judge
from posttrain.scoring.sandbox import launch, selftest
from posttrain.scoring.scorer import Scorer

FILE = Path(__file__).with_name("code_attacks.txt")


def attacks(group: str) -> dict[str, str]:
    """Candidates that would rather be right than solve anything, by name."""
    parts = [part.partition("\n") for part in FILE.read_text(encoding="utf-8").split("## ")[1:]]
    return {title.split(": ", 1)[1]: code for title, _, code in parts if title.startswith(f"{group}: ")}


FUNCTIONS, ENDLESS, OUTSIDE = attacks("function"), attacks("endless function"), attacks("outside")
PROGRAMS, ENDLESS_PROGRAMS = attacks("program"), attacks("endless program")
(SEARCH,) = attacks("search").values()
OTHERS = ["landlock", *(["bubblewrap"] if shutil.which("bwrap") else [])]
UNITTEST = """
import math
import unittest

class Test(unittest.TestCase):
    def test_value(self): self.assertEqual(f(2), {0})
    def test_close(self): self.assertAlmostEqual(f(2), {0}.5)
    def test_order(self): self.assertTrue({0} <= f(2) <= {0}.9)
    def test_within(self):
        with f(2) as it: self.assertEqual(it, {0})
    def test_iterate(self): self.assertIn({0}, f(2))
    def test_raises(self):
        with self.assertRaises(ZeroDivisionError): f(3)
"""


@pytest.fixture(scope="module", params=["namespaces", *(pytest.param(wall, marks=pytest.mark.slow) for wall in OTHERS)])
def wall(request: pytest.FixtureRequest) -> Iterator[launch.Sandbox]:
    before = selftest._shared
    sandbox = selftest.start((request.param,))
    selftest._shared = (os.getpid(), sandbox)
    yield sandbox
    selftest._shared = before
    sandbox.close()


@pytest.fixture
def sandbox(wall: launch.Sandbox) -> Iterator[launch.Sandbox]:
    """The same for all tests of the file; what a candidate has started is gone after each of them."""
    yield wall
    first = psutil.Process(wall._zygote.process.pid)
    own = 2 if wall.wall == "bubblewrap" else 0  # bwrap's process 1, and the zygote below it
    end = time.monotonic() + 3.0
    while len(first.children(recursive=True)) > own and time.monotonic() < end:
        time.sleep(0.01)
    assert len(first.children(recursive=True)) == own


def score(code: str, tests: Any, **settings: Any) -> Score:
    prompt = Prompt(id="p", source="t", messages=(), answer="", columns={"tests": tests})
    use = {"use": "code", "timeout": 1.5, "memory_mb": 192, **settings}
    return judge(REWARDS.build(use, "reward"), f"```python\n{code}\n```", prompt)


def is_worth_nothing(code: str, tests: Any, **settings: Any) -> Score:
    found = score(code, tests, **settings)
    assert (found.value, found.correct, found.status) == (0.0, False, "ok"), found.detail
    assert "sandbox" not in found.detail
    return found


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_that_cheats(sandbox: launch.Sandbox, name: str) -> None:
    secret = secrets.randbelow(10**9) + 10
    tests = [
        f"assert f(2) == {secret}",
        f"assert not f(2) != {secret}",
        f"assert abs(f(2) - {secret}) < 1e-6",
        f"assert f(2) - {secret} == 0",
        f"assert {secret} in f(2)",
        f"assert f(2) in ({secret}, {secret + 1})",
        f"assert {secret} < f(2)",
        f"assert f(2) > {secret}",
        f"assert f(2) is {secret}",
        f"assert [f(2)] == [{secret}]",
        f"assert {{'a': f(2)}} == {{'a': {secret}}}",
        f"assert f(2).startswith('{secret}')",
        f"assert f(2).intersection({{{secret}}}) == {{{secret}}}",
        f"assert round(f(2), 2) == {secret}.0",
        f"assert set([f(2)]) == {{{secret}}}",
        f"assert isinstance(f(2), int) and f(2) > {secret}",
        f"import math\nassert math.isclose(f(2), {secret})",
        f"with f(2) as it:\n    assert it == {secret}",
    ]
    assert is_worth_nothing(FUNCTIONS[name], tests, fraction=True).parts["passed"] == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_that_cheats_at_unittest(sandbox: launch.Sandbox, name: str) -> None:
    source = UNITTEST.format(secrets.randbelow(10**9) + 10)
    assert is_worth_nothing(FUNCTIONS[name], source, fraction=True).parts["passed"] == 0.0


@pytest.mark.parametrize("name", ENDLESS)
def test_a_function_without_end(sandbox: launch.Sandbox, name: str) -> None:
    began = time.monotonic()
    found = is_worth_nothing(ENDLESS[name], ["assert list(f(2)) == 7"], timeout=0.3)
    assert time.monotonic() - began < 10.0  # of which 0.3 are meant
    assert found.parts["timeout"] == 1.0 or "MemoryError" in found.detail or "ended" in found.detail, found.detail


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_that_cheats(sandbox: launch.Sandbox, name: str) -> None:
    is_worth_nothing(PROGRAMS[name], [{"input": "3\n", "output": "6\n"}])


@pytest.mark.parametrize("name", ENDLESS_PROGRAMS)
def test_a_program_without_end(sandbox: launch.Sandbox, name: str) -> None:
    found = is_worth_nothing(ENDLESS_PROGRAMS[name], [{"input": "3\n", "output": "6\n"}], timeout=0.3)
    assert found.parts["timeout"] == 1.0


def test_the_expected_value_is_nowhere(sandbox: launch.Sandbox) -> None:
    marker = f"EXPECTED-{secrets.token_hex(8)}"
    found = is_worth_nothing(SEARCH, [f"assert f(0) == {marker!r}"], timeout=20.0, memory_mb=2048)
    assert "returned 'nothing'" in found.detail
    # The search does find what is there: the same value as an argument.
    found = score(SEARCH, [f"assert f({marker!r}) == {marker!r}"], timeout=20.0, memory_mb=2048)
    assert found.value == 1.0, found.detail


def test_nor_in_a_program(sandbox: launch.Sandbox) -> None:
    marker = f"EXPECTED-{secrets.token_hex(8)}"
    code = SEARCH + "\nhere = input()\nprint(f(here) if here == 'look' else f(here))"
    assert "nothing" in is_worth_nothing(code, [{"input": "look\n", "output": marker}], timeout=20.0).detail
    assert score(code, [{"input": marker, "output": marker}], timeout=20.0).value == 1.0


@pytest.mark.parametrize("name", OUTSIDE)
def test_nothing_outside_is_reached(sandbox: launch.Sandbox, name: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    received: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda *a: received.append(1))
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        paths = {"PATH": "escaped", "SECRET": "secret", "FOLDER": ""}
        code = f"PORT, WORKER = {server.getsockname()[1]}, {os.getpid()}\n"
        code += "".join(f"{key} = {str(tmp_path / name)!r}\n" for key, name in paths.items())
        code += f"try:\n{textwrap.indent(OUTSIDE[name], '    ')}\n"
        code += "except BaseException as error: print('refused', type(error).__name__)\nelse: print('done')\n"
        try:
            found = score(code, [{"input": "", "output": "done"}])
            with pytest.raises(BlockingIOError):
                server.accept()
        finally:
            signal.signal(signal.SIGUSR1, before)
    assert found.value == 0.0
    assert "refused" in found.detail or "killed by signal 31" in found.detail, found.detail
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]
    assert not received


def test_only_the_descriptors_it_needs(sandbox: launch.Sandbox) -> None:
    code = """
import os
def is_open(fd):
    try: return bool(os.fstat(fd))
    except OSError: return False
print(sum(map(is_open, range(256))))
"""
    assert score(code, [{"input": "", "output": "4"}]).value == 1.0  # the standard ones and the one it came over


def test_the_scratch_folder_is_its_own_and_bounded(sandbox: launch.Sandbox) -> None:
    write = "import os\nassert os.listdir('.') == []\nopen('a', 'w').write('x')\nos.mkdir('b')\nprint(sorted(os.listdir('.')))"
    for _ in range(2):  # the second finds nothing of the first
        assert score(write, [{"input": "", "output": "['a', 'b']"}]).value == 1.0
    fill = (
        "import os\nfor i in range(1000):\n    with open(str(i), 'wb') as f: f.write(b'0' * (1 << 20))\nprint('done')"
    )
    found = score(fill, [{"input": "", "output": "done"}])
    assert found.value == 0.0
    assert "No space left" in found.detail or "MB in its scratch folder" in found.detail, found.detail


def test_one_candidate_knows_nothing_of_another(sandbox: launch.Sandbox) -> None:
    mark = """
import builtins, math, os
builtins.mark = math.mark = os.environ['MARK'] = '1'
math.sqrt = None
def f(x): return x
"""
    look = """
import builtins, math, os
def f(x): return [hasattr(builtins, 'mark'), hasattr(math, 'mark'), 'MARK' in os.environ, math.sqrt(x)]
"""
    assert score(mark, ["assert f(1) == 1"]).value == 1.0
    assert score(look, ["assert f(4) == [False, False, False, 2.0]"]).value == 1.0


def test_a_killed_worker_takes_everything_along() -> None:
    reward = REWARDS.build({"use": "code", "timeout": 60}, "reward")
    loop = "```python\nimport signal\nfor s in (2, 15): signal.signal(s, signal.SIG_IGN)\nwhile True: pass\n```"
    prompt = Prompt(id="p", source="t", messages=(), answer="", columns={"tests": ["assert f(1) == 1"]})
    with Scorer({"code": (reward, 1.0)}, timeout=2.0) as scorer:
        scorer.submit(0, loop, prompt)
        started: list[psutil.Process] = []
        end = time.monotonic() + 30
        while len(started) < 5 and time.monotonic() < end:  # the zygote, two guards, candidate and driver
            time.sleep(0.02)
            started = [child for pid in scorer.pids() for child in psutil.Process(pid).children(recursive=True)]
        assert len(started) >= 5
        ((_, found),) = scorer.drain()
        assert found.status == "timeout"
        _, alive = psutil.wait_procs(started, timeout=5)
        assert not alive
