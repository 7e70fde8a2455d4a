"""What programs do outside their scratch folders: nothing. And that ordinary ones work within, and have room."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from walls import WALLS, printed

from posttrain.scoring.sandbox import judge, launch, selftest
from posttrain.scoring.sandbox.launch import Sandbox


@pytest.fixture(scope="module", params=WALLS)
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    found = selftest.start((request.param,))
    yield found
    found.close()


CHANGES = """
    import ctypes, os
    libc = ctypes.CDLL(None)
    def call(number, *words):
        if libc.syscall(number, *words): raise OSError
    def each(path, fd):
        name = path.encode()
        yield from (lambda: os.chmod(path, 0o777), lambda: os.utime(path, (1, 1)), lambda: os.chown(path, 1, 1))
        yield from (lambda: os.truncate(path, 0), lambda: os.open(path, os.O_TRUNC))
        yield lambda: os.open(path, os.O_TRUNC | 3)
        yield from (lambda: os.setxattr(path, "user.a", b"x"), lambda: os.rename(path, "mine"), lambda: os.unlink(path))
        yield from (lambda: os.link(path, "mine"), lambda: os.mkdir(path + "-folder"))
        yield lambda: os.symlink("a", path + "-link")
        if os.uname().machine == "x86_64":
            yield lambda: call(452, -100, name, 0o777, 0)  # fchmodat2
            yield lambda: call(132, name, None)  # utime
            yield lambda: call(235, name, None)  # utimes
            yield lambda: call(261, -100, name, None)  # futimesat
            yield lambda: call(92, name, 1, 1)  # chown
            yield lambda: call(94, name, 1, 1)  # lchown
        if fd is not None:
            yield from (lambda: os.fchmod(fd, 0o777), lambda: os.utime(fd, (1, 1)), lambda: os.fchown(fd, 1, 1))
            yield from (lambda: os.ftruncate(fd, 0), lambda: os.chmod(f"/proc/self/fd/{fd}", 0o777))
    def state(path):
        found = os.stat(path)
        return found.st_mode, found.st_size, found.st_mtime_ns, found.st_ctime_ns
    for path in PATHS:
        try: fd = os.open(path, os.O_RDONLY)
        except OSError: fd = None
        before = state(path) if os.path.exists(path) else None
        for one in each(path, fd):
            try: one()
            except OSError: pass
        if before: print(before == state(path), fd is not None)
"""


def test_nothing_outside_changes(sandbox: Sandbox, tmp_path: Path) -> None:
    """Neither a file that cannot be opened nor one that can."""
    outside = tmp_path / "file"
    outside.write_text("x")
    outside.chmod(0o600)
    before = (outside.stat().st_mode, outside.stat().st_mtime_ns, outside.stat().st_ctime_ns)
    found = printed(sandbox, f"PATHS = [{str(outside)!r}, {os.__file__!r}]" + textwrap.dedent(CHANGES))
    assert found.error == ""
    lines = found.text.split("\n")[:-1]
    assert lines == (["True False", "True True"] if sandbox.wall == "landlock" else ["True True"])
    assert (outside.stat().st_mode, outside.stat().st_mtime_ns, outside.stat().st_ctime_ns) == before
    assert os.listdir(tmp_path) == ["file"]


def test_ordinary_programs_work_in_the_scratch_folder(sandbox: Sandbox) -> None:
    code = """
        import os, pathlib, shelve, shutil, sqlite3, tempfile, zipfile
        pathlib.Path("a").touch()
        assert os.path.exists("a")
        pathlib.Path("a").touch()
        pathlib.Path("a").write_text("x")
        for copy in (shutil.copy, shutil.copy2, shutil.copyfile): assert open(copy("a", "b")).read() == "x"
        os.makedirs("x/y/z")
        shutil.move("b", "x/y/b")
        shutil.copytree("x", "w")
        assert os.listdir("w/y/z") == []
        shutil.rmtree("x")
        with tempfile.TemporaryDirectory() as folder, tempfile.NamedTemporaryFile(dir=folder) as file: file.write(b"x")
        with tempfile.TemporaryFile() as file: file.write(b"x")
        with sqlite3.connect("base") as base:
            base.execute("create table t (a)")
            base.execute("insert into t values (5)")
        with shelve.open("shelf") as shelf: shelf["a"] = 1
        with zipfile.ZipFile("a.zip", "w") as file: file.write("a")
        with zipfile.ZipFile("a.zip") as file: file.extractall("out")
        os.chmod("a", 0o600)
        os.utime("a", (1, 1))
        os.truncate("a", 0)
        with open("a", "r+") as file: file.truncate(5)
        print(os.path.getsize("a"), base.execute("select * from t").fetchall())
    """
    found = printed(sandbox, code)
    assert (found.text, found.error) == ("5 [(5,)]\n", "")


def test_what_the_kernel_says_of_processes_is_not_read(sandbox: Sandbox) -> None:
    code = f"""
        import os
        for process in ("self", "thread-self", os.getpid(), os.getppid(), 1, {os.getpid()}):
            for name in ("environ", "mem", "maps", "cmdline", "status", "fd/0"):
                if name == "fd/0" and process in ("self", "thread-self", os.getpid()): continue  # its own input
                try: print("read", process, name, open(f"/proc/{{process}}/{{name}}", "rb"))
                except OSError: pass
            for folder in ("/proc", f"/proc/{{process}}", f"/proc/{{process}}/fd", f"/proc/{{process}}/task"):
                try: print("listed", os.listdir(folder))
                except OSError: pass
            try: print("process", process, os.readlink(f"/proc/{{process}}/cwd"))
            except OSError: pass
    """
    if sandbox.wall == "landlock":  # it knows where it is
        code = code.replace('print("process", process, os.readlink(f"/proc/{process}/cwd"))', "pass")
    assert (printed(sandbox, code).text, printed(sandbox, code).error) == ("", "")


def test_one_program_sees_nothing_of_anothers_folder(sandbox: Sandbox) -> None:
    keep = """
        import os, time
        open("kept", "w").write("x")
        before = os.stat("kept")
        time.sleep(2)
        print(os.listdir("."), os.stat("kept") == before)
    """
    look = """
        import os
        try: print(os.listdir(".."))
        except PermissionError: pass
        for number in range(1, 100000):
            path = f"../{number}/kept"
            if os.path.exists(path):
                for change in (lambda: os.chmod(path, 0), lambda: os.utime(path, (1, 1)), lambda: os.unlink(path)):
                    try: change()
                    except PermissionError: pass
                try: print(open(path).read())
                except PermissionError: print("refused")
    """
    found: list[judge.Printed] = []
    other = threading.Thread(target=lambda: found.append(printed(sandbox, keep)))
    other.start()
    time.sleep(0.5)
    looked = printed(sandbox, look)
    other.join()
    assert (looked.text, looked.error) == ("" if sandbox.wall == "namespaces" else "refused\n", "")
    assert (found[0].text, found[0].error) == ("['kept'] True\n", "")


def test_threads_and_recursion_have_room(sandbox: Sandbox) -> None:
    threads = """
        import threading
        together = threading.Barrier(64)
        def work():
            kept = [bytearray(10000) for _ in range(20)]
            together.wait(5)
        all = [threading.Thread(target=work) for _ in range(63)]
        for one in all: one.start()
        together.wait(5)
        print("all")
    """
    found = printed(sandbox, threads)
    assert (found.text, found.error) == ("all\n", "")
    recursion = """
        import functools, sys
        sys.setrecursionlimit(10**6)
        def plain(n): return n and 1 + plain(n - 1)
        @functools.cache
        def kept(n): return n and 1 + kept(n - 1)
        print(plain(100000), kept(50000))
    """
    found = printed(sandbox, recursion)
    assert (found.text, found.error) == ("100000 50000\n", "")


def test_files_are_not_cut_off_where_landlock_does_not_see_it(tmp_path: Path) -> None:
    """As before its version 3: by seccomp alone."""
    code = """
import os, sys
from posttrain.scoring.sandbox import seccomp
seccomp.restrict(pretended=seccomp.ATTRIBUTES, refused=("truncate",))
for one in (lambda: os.truncate(sys.argv[1], 0), lambda: os.open(sys.argv[1], os.O_RDONLY | os.O_TRUNC)):
    try: one()
    except PermissionError: print("refused")
print(open(sys.argv[1]).read())
os.chmod(sys.argv[1], 0)
open(sys.argv[1], "w").write("y")
"""
    file = tmp_path / "file"
    file.write_text("x")
    mode = file.stat().st_mode
    done = subprocess.run([sys.executable, "-c", code, file], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["refused", "refused", "x"], done.stderr
    assert (file.read_text(), file.stat().st_mode) == ("y", mode)


@pytest.mark.parametrize("wall", WALLS)
def test_a_killed_worker_leaves_no_process(wall: str, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom posttrain.scoring.sandbox import judge, selftest\n"
        "from posttrain.scoring.sandbox.launch import Limits\n"
        "one = selftest.start((sys.argv[1],)); print('ready', flush=True)\n"
        "judge.run_program(one, 'while True: pass', '', Limits(cpu=60), 60.0)\n"
    )
    place = os.environ | {"TMPDIR": str(tmp_path)}  # what it leaves of files
    with subprocess.Popen([sys.executable, "-c", code, wall], stdout=subprocess.PIPE, env=place) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"ready\n"
        started: list[psutil.Process] = []
        end = time.monotonic() + 10
        while len(started) < 3 + (wall == "bubblewrap") and time.monotonic() < end:
            time.sleep(0.05)
            started = psutil.Process(worker.pid).children(recursive=True)
        worker.kill()
    assert len(started) >= 3  # the zygote, a guard, and the program
    _, alive = psutil.wait_procs(started, timeout=5)
    assert not alive


def test_bubblewrap_shows_code_that_lies_below_the_scratch_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch.shutil, "which", lambda name: f"/usr/bin/{name}")
    words = launch._bubblewrap("/tmp/python", "/tmp/code")
    assert words.index("--tmpfs") < words.index("/tmp/python")
    assert words[words.index("--tmpfs") + 1] == "/tmp"
