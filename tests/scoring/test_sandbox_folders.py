"""Programs have no more in their scratch folders than they may, and all of it goes, whatever it is."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from walls import WALLS, printed

from posttrain.scoring.sandbox import excess, folders, judge, launch, selftest
from posttrain.scoring.sandbox.launch import Limits, Sandbox, SandboxError


@pytest.fixture(scope="module", params=WALLS)
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    found = selftest.start((request.param,))
    yield found
    found.close()


DEEP = "import os, time\nfor _ in range(1500):\n    os.mkdir('d' * 10)\n    os.chdir('d' * 10)\n"
CLOSED = "import os, time\nos.mkdir('c', 0o300)\nos.chdir('c')\n"
MANY = "import os, time\nfor i in range(3000): open(str(i), 'w').close()\n"
LARGE = """
import os, time
for i in range(8):
    with open(str(i), "wb") as file: os.posix_fallocate(file.fileno(), 0, 4 << 20)
"""
HELD = """
import os, time
for i in range(8):
    file = os.open("a", os.O_RDWR | os.O_CREAT)
    os.unlink("a")
    os.posix_fallocate(file, 0, 4 << 20)
"""
MAPPED = """
import ctypes, os, time
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
for i in range(8):  # mmap.mmap would keep a descriptor
    file = os.open("a", os.O_RDWR | os.O_CREAT)
    os.unlink("a")
    os.posix_fallocate(file, 0, 4 << 20)
    assert libc.mmap(None, ctypes.c_size_t(4 << 20), 3, 1, file, ctypes.c_long(0)) != ctypes.c_void_p(-1).value
    os.close(file)
"""
FOLDER = "in its scratch folder"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        pytest.param(DEEP, f"folders nested more than 64 deep {FOLDER}", id="deep"),
        pytest.param(CLOSED + DEEP, f"folders nested more than 64 deep {FOLDER}", id="closed and deep"),
        pytest.param(MANY, f"more than 1024 files {FOLDER}", id="many"),
        pytest.param(CLOSED + MANY, f"more than 1024 files {FOLDER}", id="closed and many"),
        pytest.param(LARGE, f"more than 16 MB {FOLDER}", id="large"),
        pytest.param(CLOSED + LARGE, f"more than 16 MB {FOLDER}", id="closed and large"),
        pytest.param(HELD, "more than 16 MB in deleted files", id="deleted"),
        pytest.param(MAPPED, "more than 16 MB in deleted files", id="deleted and mapped"),
    ],
)
def test_what_is_too_much_is_the_end(sandbox: Sandbox, code: str, reason: str) -> None:
    """Also of a program that would make up for it, and it is the program's own fault."""
    found = printed(sandbox, f"{code}\ntime.sleep(5)\nprint('done')")
    if sandbox.wall == "namespaces":
        assert (found.text, "No space left" in found.error) == ("", True)
    else:
        assert (found.text, found.error) == ("", reason)


def test_input_and_shared_memory_are_no_deleted_files(sandbox: Sandbox) -> None:
    code = "import mmap, sys, time\nm = mmap.mmap(-1, 40 << 20)\nm.write(b'x' * (40 << 20))\ntime.sleep(0.3)\n"
    found = judge.run_program(sandbox, f"{code}print(len(sys.stdin.read()))", "x" * (20 << 20), Limits(), 10.0)
    assert (found.text, found.error) == (f"{20 << 20}\n", "")


def test_no_thread_has_descriptors_of_its_own(sandbox: Sandbox) -> None:
    """They would not be counted."""
    code = """
        import ctypes, os
        libc = ctypes.CDLL(None, use_errno=True)
        libc.close_range(50, 60, 2)  # CLOSE_RANGE_UNSHARE
        print(ctypes.get_errno())
        thread, shared = 0x10000 | 0x800 | 0x100, 0x400  # CLONE_THREAD, _SIGHAND, _VM; _FILES
        libc.syscall(56 if os.uname().machine == "x86_64" else 220, thread, 0, 0, 0, 0)
        print(ctypes.get_errno())
    """
    assert printed(sandbox, code).text == "1\n1\n"


def hostile(top: Path) -> None:
    """What a program may leave behind."""
    (top / "many").mkdir(parents=True)
    for number in range(3000):
        (top / "many" / str(number)).touch()
    for mode in (0o000, 0o300, 0o400, 0o500, 0o100):
        closed = top / f"{mode:o}"
        (closed / "in" / "in").mkdir(parents=True)
        (closed / "in" / "file").touch()
        (closed / "in").chmod(mode)
        closed.chmod(mode)
    os.makedirs(os.fsencode(top) + b"/\xff\xfe/\n")
    open(os.fsencode(top) + b"/\xff\xfe/\x80", "w").close()
    (top / "link").symlink_to("/")
    (top / "nowhere").symlink_to("nowhere")
    os.mkfifo(top / "pipe")
    handle = os.open(top, os.O_RDONLY)
    for number in range(1500):
        os.mkdir("d" * 100, dir_fd=handle)
        inner = os.open("d" * 100, os.O_RDONLY, dir_fd=handle)
        os.close(os.open("f", os.O_CREAT, dir_fd=inner))
        os.symlink("/", "l", dir_fd=inner)
        os.close(handle)
        handle = inner
        if number == 700:
            os.fchmod(handle, 0o700)
    os.close(handle)


REMOVE = (
    "import sys; from posttrain.scoring.sandbox import folders, kernel\n"
    "kernel.drop_capabilities()\nfolders.remove(sys.argv[1])\n"
)


def test_hostile_trees_are_removed(tmp_path: Path) -> None:
    hostile(tmp_path / "tree")
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").touch()
    (tmp_path / "tree" / "leads out").symlink_to(kept)
    folders.remove(str(tmp_path / "tree"))
    assert sorted(os.listdir(tmp_path)) == ["kept"]
    hostile(tmp_path / "tree")  # now without the privileges of root, whom no mode keeps out
    subprocess.run([sys.executable, "-c", REMOVE, tmp_path / "tree"], check=True)
    assert sorted(os.listdir(tmp_path)) == ["kept"]
    assert os.listdir(kept) == ["file"]
    (tmp_path / "link").symlink_to(kept)
    folders.remove(str(tmp_path / "link"))
    folders.remove(str(tmp_path / "nowhere"))
    assert os.listdir(kept) == ["file"]


def test_a_hostile_tree_does_not_keep_a_sandbox_from_its_end_or_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(launch.tempfile, "tempdir", str(tmp_path))
    one = Sandbox("landlock", True)
    (folder,) = tmp_path.iterdir()
    hostile(folder / "left")
    one.close()
    assert not list(tmp_path.iterdir())
    old = tmp_path / f"{launch._PREFIX}old"
    hostile(old)
    os.utime(old, (0, 0))
    two = Sandbox("landlock", True)
    assert not old.exists()
    two.close()


def test_a_tree_is_measured(tmp_path: Path) -> None:
    assert folders.too_much(str(tmp_path), 1 << 20) == ""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").write_bytes(b"x" * (1 << 20))
    (tmp_path / "a" / "out").symlink_to("/usr")
    assert folders.too_much(str(tmp_path), 2 << 20) == ""
    assert folders.too_much(str(tmp_path), 1 << 20) == "more than 1 MB in its scratch folder"
    assert "cannot be looked into" in folders.too_much(str(tmp_path / "none"), 1)
    before = len(os.listdir("/proc/self/fd"))
    os.makedirs(tmp_path / "/".join("d" * 80))
    assert "64 deep" in folders.too_much(str(tmp_path), 2 << 20)
    assert len(os.listdir("/proc/self/fd")) == before


def test_deleted_files_are_measured(tmp_path: Path) -> None:
    file = os.open(tmp_path / "a b", os.O_RDWR | os.O_CREAT)
    os.posix_fallocate(file, 0, 1 << 20)
    assert excess.held(os.getpid(), str(tmp_path)) == 0
    os.unlink(tmp_path / "a b")
    assert excess.held(os.getpid(), str(tmp_path)) == 1 << 20
    with mmap.mmap(file, 1 << 20):
        assert excess.held(os.getpid(), str(tmp_path)) == 1 << 20
        assert excess.held(os.getpid(), f"{tmp_path}/other") == 0
    os.close(file)
    assert excess.held(os.getpid(), str(tmp_path)) == 0


@pytest.mark.parametrize(
    ("module", "name", "value", "hole"),
    [(excess, "held", lambda *a: 0, "hold more in deleted files"), (folders, "ENTRIES", 1 << 20, "make more files")],
)
def test_what_nobody_counts_is_a_hole(
    monkeypatch: pytest.MonkeyPatch, module: object, name: str, value: object, hole: str
) -> None:
    if module is folders:  # counted by the sandbox's own processes
        patched = launch._BOOT.replace(
            "sys.path.pop(0);", f"sys.path.pop(0); folders.{name} = {value}; probe.folders = one;"
        )
        patched = patched.replace(
            "main;",
            "main, folders; from types import SimpleNamespace; "
            "from posttrain.scoring.sandbox import probe; one = SimpleNamespace(ENTRIES=1024);",
        )
        monkeypatch.setattr(launch, "_BOOT", patched)
    else:
        monkeypatch.setattr(module, name, value)
    one = Sandbox("landlock", True)
    with pytest.raises(SandboxError, match=f"from inside one can {hole}"):
        selftest.prove(one)
    one.close()
