"""The walls hold, the self-test would notice if they did not, and where none can be had nothing is run."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from posttrain import doctor
from posttrain.config.errors import ConfigError
from posttrain.config.registries import REWARDS
from posttrain.data.types import Prompt
from posttrain.scoring.pool import ScorerBroken
from posttrain.scoring.sandbox import excess, jail, judge, kernel, landlock, launch, probe, seccomp, selftest, wire
from posttrain.scoring.sandbox.launch import Limits, Sandbox, SandboxError
from posttrain.scoring.sandbox.sources import plan
from posttrain.scoring.scorer import Scorer

ADD = "def add(a, b): return a + b"
PLAN = plan(["assert add(1, 2) == 3", "assert add(2, 2) == 4"])
WALLS = ["namespaces", "landlock"]  # both need no package
if shutil.which("bwrap"):
    WALLS.append("bubblewrap")


@pytest.fixture(scope="module", params=WALLS)
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    found = selftest.start((request.param,))
    yield found
    found.close()


def asked(sandbox: Sandbox, order: dict[str, Any]) -> dict[str, Any]:
    return selftest._asked(sandbox, order)


def test_the_self_test_passes_and_tries_what_it_says(sandbox: Sandbox) -> None:
    selftest.prove(sandbox)
    order = {"parent": os.getpid(), "secret": "/none", "outside": "/none/x", "name": "none", "port": 1}
    found = asked(sandbox, order | {"memory_mb": 512, "scratch_mb": 1, "threads": 16})
    assert found["done"] == found["failed"] == []
    assert len(found["tried"]) >= 26
    assert len(found["excesses"]) == 3


def test_every_attempt_of_the_self_test_succeeds_without_walls(tmp_path: Path) -> None:
    """Otherwise it would prove nothing. In a process of its own, with one file and one socket to reach."""
    code = """
import os, resource, signal, socket, sys, json
from posttrain.scoring.sandbox import probe
for which in (signal.SIGCONT, signal.SIGTERM): signal.signal(which, signal.SIG_IGN)
order = json.loads(sys.argv[1])
harmful = ["mount", "write beside the standard library", "run a program", "signal everybody", "trace the worker"]
attempts = {name: one for name, one in probe._attempts(order).items() if name not in harmful} | probe._excesses(order)
print(json.dumps([name for name, one in attempts.items() if not probe._succeeds(one)]))
"""
    (tmp_path / "secret").write_text("x")
    inside = tmp_path / "inside"
    inside.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as local:
        local.bind(f"\0{tmp_path}"[:90])
        local.listen()
        order = {"parent": os.getpid(), "secret": str(tmp_path / "secret"), "outside": str(tmp_path / "out")}
        order |= {
            "port": server.getsockname()[1],
            "name": str(tmp_path)[:89],
            "memory_mb": 16,
            "scratch_mb": 1,
            "threads": 16,
        }
        done = subprocess.run(
            [sys.executable, "-c", code, json.dumps(order)],
            capture_output=True,
            text=True,
            cwd=inside,
            start_new_session=True,
            check=False,
        )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_a_hole_is_found(monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox) -> None:
    monkeypatch.setattr(selftest, "_asked", lambda s, o: {"done": ["see processes"], "failed": []})
    with pytest.raises(SandboxError, match="from inside one can see processes"):
        selftest.prove(sandbox)
    monkeypatch.setattr(selftest, "_asked", lambda s, o: {"done": [], "failed": ["start a thread"]})
    with pytest.raises(SandboxError, match="inside one cannot start a thread"):
        selftest.prove(sandbox)


def test_threads_that_nobody_counts_are_a_hole(monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox) -> None:
    monkeypatch.setattr(excess, "threads", lambda process: 0)
    with pytest.raises(SandboxError, match="from inside one can run more threads than it may"):
        selftest.prove(sandbox)


CROWD = """
import ctypes, threading, time
ctypes.CDLL(None).mallopt(-8, 1)
threading.stack_size(32768)
def crowd(n, seconds):
    all = [threading.Thread(target=time.sleep, args=(seconds,), daemon=True) for _ in range(n)]
    for one in all: one.start()
    for one in all: one.join()
def add(a, b):
    crowd(4000, 3)
    return a + b
"""


def test_threads_are_counted(sandbox: Sandbox) -> None:
    printed = judge.run_program(sandbox, CROWD + "crowd(100, 0.2)\nprint(1)", "", Limits(), 5.0)
    assert (printed.text, printed.error) == ("1\n", "")
    printed = judge.run_program(sandbox, CROWD + "crowd(4000, 3)\nprint(1)", "", Limits(), 20.0)
    assert (printed.text, printed.error) == ("", "more than 128 threads at once")
    tested = judge.run_tests(sandbox, CROWD, PLAN, Limits(), 20.0, True)
    assert tested.passed == 0
    assert "more than 128 threads at once" in tested.detail


def test_tests_and_programs_run(sandbox: Sandbox) -> None:
    assert judge.run_tests(sandbox, ADD, PLAN, Limits(), 5.0, False) == judge.Tested(2, 2)
    printed = judge.run_program(sandbox, "print(input() * 2)", "ab", Limits(), 5.0)
    assert (printed.text, printed.error) == ("abab\n", "")
    assert judge.run_program(sandbox, "raise SystemExit(3)", "", Limits(), 5.0).error == "exit code 3"
    assert (
        judge.run_program(sandbox, "x = 1 / 0", "", Limits(), 5.0).error
        == "ZeroDivisionError: division by zero (line 1)"
    )


def test_a_smaller_memory_is_enough_for_the_tests_themselves(sandbox: Sandbox) -> None:
    assert judge.run_tests(sandbox, ADD, PLAN, Limits(memory_mb=128), 5.0, False).passed == 2


def test_no_descriptor_is_left_open(sandbox: Sandbox) -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    def once() -> None:
        judge.run_tests(sandbox, ADD, PLAN, Limits(), 5.0, False)
        judge.run_tests(sandbox, "import os; os._exit(1)", PLAN, Limits(), 5.0, False)
        judge.run_program(sandbox, "print(1)", "", Limits(), 5.0)

    once()
    before = count()
    for _ in range(5):
        once()
    assert count() == before


def test_a_zygote_that_has_died_is_an_error_and_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "_shared", None)
    first = selftest.shared()
    assert selftest.shared() is first
    first._zygote.process.kill()
    first._zygote.process.wait()
    assert not first.alive
    with pytest.raises(SandboxError, match="first process is gone"):
        judge.run_tests(first, ADD, PLAN, Limits(), 5.0, False)
    second = selftest.shared()
    assert second is not first
    assert judge.run_tests(second, ADD, PLAN, Limits(), 5.0, False).passed == 2
    second.close()
    first.close()


def test_a_sandbox_without_namespaces_leaves_no_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(launch.tempfile, "tempdir", str(tmp_path))
    old = tmp_path / f"{launch._PREFIX}old"
    old.mkdir()
    os.utime(old, (0, 0))
    one = Sandbox("landlock", True)
    assert len(list(tmp_path.iterdir())) == 1
    assert not old.exists()
    judge.run_program(one, "open('a', 'w').write('x')", "", Limits(), 5.0)
    one.close()
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(sys, "_base_executable", "/nowhere/python")
    with pytest.raises(SandboxError, match="/nowhere/python"):
        Sandbox("landlock", True)
    assert not list(tmp_path.iterdir())


def test_limits_that_cannot_be_set_run_nothing(sandbox: Sandbox) -> None:
    """A process that cannot be locked in ends, is an error, and never counts as the candidate's failure."""
    with pytest.raises(SandboxError, match="could not be locked in"):
        judge.run_program(sandbox, "print(1)", "", Limits(cpu="none"), 5.0)
    with pytest.raises(SandboxError, match="could not be locked in"):
        judge.run_tests(sandbox, ADD, PLAN, Limits(cpu="none"), 5.0, False)


def test_where_no_wall_holds_code_is_refused_and_the_package_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise SandboxError("unshare: Operation not permitted")

    monkeypatch.setattr(selftest, "Sandbox", refuse)
    monkeypatch.setattr(selftest, "_shared", None)
    reward = REWARDS.build("code", "reward")
    with pytest.raises(ConfigError, match=r"unshare: Operation not permitted.*apt install bubblewrap"):
        reward.prepare()
    with pytest.raises(ConfigError, match="not run at all"):
        reward("```python\nx = 1\n```", Prompt(id="p", source="t", messages=(), answer="assert f(1) == 1"))
    (finding,) = doctor.check_sandbox()
    assert "apt install bubblewrap" in finding.fix


def test_workers_refuse_to_start_without_a_sandbox(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With a Python whose sandbox has no wall to try, as the workers see it."""
    (tmp_path / "no_walls.py").write_text(
        "from posttrain.scoring.sandbox import selftest\nselftest.WALLS = ()\nselftest.start.__defaults__ = ((),)\n"
        "from posttrain_rewards.code import Code\n"
        "class NoWalls(Code): pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(
        selftest, "WALLS", launch.WALLS
    )  # set back behind this test, for the import changes it here too
    monkeypatch.setattr(selftest.start, "__defaults__", (launch.WALLS,))
    from no_walls import NoWalls  # type: ignore[import-not-found]

    with Scorer({"code": (NoWalls(), 1.0)}) as scorer, pytest.raises(ScorerBroken, match="apt install bubblewrap"):
        scorer.score([("x", Prompt(id="p", source="t", messages=(), answer="assert f(1) == 1"))])


def test_the_doctor_says_what_there_is() -> None:
    (finding,) = doctor.check_sandbox()
    assert finding.fix == ""
    assert "self-test passed" in finding.text


def test_the_list_of_calls_is_that_of_this_kernel() -> None:
    """Against the C library's own numbers, for the machine the tests run on."""
    header = Path(f"/usr/include/{os.uname().machine}-linux-gnu/asm/unistd_64.h")
    if not header.is_file():
        header = Path("/usr/include/asm-generic/unistd.h")
    if not header.is_file():
        pytest.skip("no kernel headers")
    words = [line.split() for line in header.read_text().splitlines()]
    numbers = {w[1]: w[2] for w in words if len(w) == 3 and w[1].startswith("__NR_")}
    column = 1 if os.uname().machine == "x86_64" else 2
    listed = f"{seccomp._ALLOWED},{seccomp._EXTENDED}"
    calls = [call.split() for call in listed.replace("\n", " ").split(",")]
    assert {c[0]: c[column] for c in calls if c[column] != "-"} == {
        c[0]: numbers[f"__NR_{c[0]}"] for c in calls if c[column] != "-"
    }
    for name, (*both, _) in seccomp._checked(1).items():
        if both[column - 1] is not None:
            assert str(both[column - 1]) == numbers[f"__NR_{name}"]


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_filters_are_well_formed(machine: str) -> None:
    lines = list(seccomp._program(machine, 1))
    assert len(lines) < 4096
    for at, line in enumerate(lines):
        code, if_true, if_false = int.from_bytes(line[:2], sys.byteorder), line[2], line[3]
        if code != seccomp._RETURN:
            assert at + 1 + max(if_true, if_false) < len(lines)  # no jump beyond the end
    assert lines[-1][:2] == lines[-2][:2]


def test_libraries_and_packages_do_not_hold_a_home() -> None:
    shown = jail.libraries()
    assert os.path.realpath(os.path.dirname(os.__file__)).startswith(tuple(shown))
    assert not any(Path.home().is_relative_to(path) for path in shown)
    assert all(any(path.startswith(f"{folder}/") for folder in shown) for path in jail.packages())


def test_landlock_alone_keeps_files_and_more(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "secret").write_text("x")
    code = (
        "import sys; from posttrain.scoring.sandbox import landlock\n"
        "landlock.restrict(['/usr/lib'], [sys.argv[1] + '/scratch'])\n"
        "open(sys.argv[1] + '/scratch/a', 'w').write('x')\n"
        "for path, mode in ((sys.argv[1] + '/secret', 'r'), (sys.argv[1] + '/b', 'w'), ('/proc/self/environ', 'r')):\n"
        "    try: open(path, mode)\n    except PermissionError: print('refused')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["refused"] * 3, done.stderr
    assert landlock.version() > 0


def test_errors_name_the_call() -> None:
    with pytest.raises(OSError, match=r"mount\(/nowhere\)"):
        kernel.mount("none", "/nowhere", "tmpfs", 0)


def test_messages_that_are_none() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for data, error in ((b"\0\0\0\2{]", wire.BadMessage), (b"\xff\xff\xff\xff", wire.BadMessage)):
            theirs.sendall(data)
            with pytest.raises(error):
                wire.receive(ours)
        with pytest.raises(wire.BadMessage, match="at most"):
            wire.send(ours, "x" * (wire.LIMIT + 1))
        theirs.close()
        with pytest.raises(EOFError):
            wire.receive(ours)


def test_the_probe_needs_what_candidates_need() -> None:
    assert all(probe._succeeds(need) for name, need in probe._needs().items() if "scratch" not in name)
