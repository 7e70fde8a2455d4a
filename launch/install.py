"""Sets up `.venv` in the checkout: `python3 launch/install.py`, or `make setup`.

Run by whatever Python there is, before anything is installed: standard library only. inside.py is what the
new environment's Python runs.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / "posttrain-setup.json"
LOG = VENV / "setup.log"
PYTHON = VENV / "bin" / "python"
INPUTS = ("pyproject.toml", "launch/install.py", "launch/inside.py", "launch/constraints-cpu.txt")

# Variables of a caller that send pip or Python elsewhere than `.venv`, or keep byte code from being written.
MISLEADING = {"PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV"}
MISLEADING |= {"PIP_USER", "PIP_TARGET", "PIP_PREFIX"}
# Byte code is left to the check at the end: compiling all files, most of them never imported, takes a minute.
PIP = ["-m", "pip", "install", "--no-compile", "--no-input", "--progress-bar", "off"]
TAIL = 30  # lines of the log shown after a failure


class SetupError(Exception):
    """What is wrong and what to do, in one or two lines."""


def problems(version: tuple[int, int], compiler: str | None, header: bool, venv: bool) -> list[str]:
    """What this machine lacks, one line each."""
    found = []
    name = f"python{version[0]}.{version[1]}"
    if not (3, 11) <= version < (3, 14):
        found.append(f"{name} is not supported: `make PYTHON=python3.11 setup` with Python 3.11, 3.12 or 3.13")
    if not venv:
        found.append(f"{name} cannot make virtual environments: install {name}-venv")
    if not header:
        found.append(f"{name} has no C headers (Python.h): install {name}-dev")
    if compiler is None:
        found.append("no C++ compiler: install g++, or set CXX to yours")
    return found


def this_machine() -> list[str]:
    """`problems` of the machine we are on."""
    compiler = shutil.which(os.environ.get("CXX") or "c++") or shutil.which("g++")
    header = (Path(sysconfig.get_path("include")) / "Python.h").exists()
    return problems(sys.version_info[:2], compiler, header, importlib.util.find_spec("ensurepip") is not None)


def has_cuda() -> bool:
    """A driver that lists a device."""
    if shutil.which("nvidia-smi") is None:
        return False
    asked = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return asked.returncode == 0 and "GPU" in asked.stdout


def fingerprint(stack: str) -> str:
    """Changes whenever another installation would result."""
    digest = hashlib.sha256()
    for name in INPUTS:
        digest.update((ROOT / name).read_bytes())
    digest.update(f"{stack} {sys.version} {ROOT}".encode())  # a moved checkout has a broken environment
    return digest.hexdigest()


def read_stamp(path: Path = STAMP) -> dict:
    """What the last set-up left; {} where there was none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}


def write_stamp(state: str, stack: str, key: str, path: Path = STAMP) -> None:
    """At once or not at all."""
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps({"state": state, "stack": stack, "key": key}) + "\n", encoding="utf-8")
    os.replace(draft, path)


def decide(stamp: dict, stack: str, key: str, python: bool, exists: bool) -> str:
    """What to do with `.venv`: "nothing", "create", "remake" or "update".

    An installation that did not reach its end is remade: pip counts a package as installed that it was
    copying when it was killed. Its downloads are in pip's cache, so this costs little.
    """
    if not exists:
        return "create"
    if not python or (stamp and (stamp.get("state") != "done" or stamp.get("stack") != stack)):
        return "remake"
    return "nothing" if stamp.get("key") == key else "update"


def child_environment() -> dict[str, str]:
    """For everything run inside `.venv`: its tools come first, and so does its folder of extensions."""
    kept = {name: value for name, value in os.environ.items() if name not in MISLEADING}
    return kept | {
        "PATH": f"{VENV / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "TORCH_EXTENSIONS_DIR": str(VENV / "torch_extensions"),  # as posttrain.doctor.extensions_dir()
        "DS_ACCELERATOR": "cpu",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }


def start(arguments: list[str]) -> subprocess.Popen:
    """The environment's Python, heard by the log only, in a session of its own so that `stop` reaches all."""
    with LOG.open("a", encoding="utf-8") as log:
        print(f"\n$ python {' '.join(arguments)}", file=log, flush=True)
        return subprocess.Popen(
            [str(PYTHON), *arguments],
            cwd=ROOT,
            env=child_environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def finish(child: subprocess.Popen, name: str) -> None:
    """Waits; takes the child and its children along when we are interrupted."""
    try:
        code = child.wait()
    except BaseException:
        stop(child)
        raise
    if code != 0:
        lines = LOG.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL:]
        text = "\n".join(f"    {line}" for line in lines)
        raise SetupError(f"{name} failed (exit code {code}). The end of .venv/{LOG.name}:\n{text}")


def stop(child: subprocess.Popen) -> None:
    """Ends a child and everything it started."""
    if child.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


@contextlib.contextmanager
def step(text: str):
    """One line of progress: what, then how long it took."""
    print(f"  {text:<60}", end="", flush=True)
    began = time.monotonic()
    try:
        yield
    except BaseException:
        print(flush=True)
        raise
    print(f"{time.monotonic() - began:6.1f} s", flush=True)


def pinned(constraints: str, name: str) -> str:
    """`name==version` as the constraints have it."""
    lines = (ROOT / constraints).read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if line.startswith(f"{name}=="))


def wanted(project: dict, *extras: str) -> list[str]:
    """The project's own requirements with those of some extras."""
    optional = project["optional-dependencies"]
    return project["dependencies"] + [need for extra in extras for need in optional[extra]]


def install_cpu(project: dict, cpu: dict) -> None:
    """torch first and exactly: a plain `torch` is the CUDA build, `==` takes that version's CPU build."""
    fixed = ["-c", cpu["constraints"]]
    torch, engine = pinned(cpu["constraints"], "torch"), pinned(cpu["constraints"], cpu["engine"])
    with step(torch):
        finish(start([*PIP, *fixed, torch, "setuptools", "packaging"]), torch)
    with step(engine):
        finish(start([*PIP, "--no-deps", engine]), engine)
    asked = [str(PYTHON), str(ROOT / "launch" / "inside.py"), "needs", cpu["engine"], *cpu["without"]]
    answer = subprocess.run(asked, env=child_environment(), capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise SetupError(f"cannot read what {cpu['engine']} needs:\n{answer.stderr}")
    left_out = ", ".join(cpu["without"][1:])
    with LOG.open("a", encoding="utf-8") as log:
        print(f"\n# {left_out} are left out on purpose: that pip complains below is no error.", file=log)
    with step("DeepSpeed, transformers, TRL and the rest"):
        finish(start([*PIP, *fixed, *json.loads(answer.stdout), *wanted(project, "train", "dev")]), "pip")


def install_cuda(project: dict, extra: str) -> None:
    """The official vLLM brings its torch; one resolution, so that nothing replaces it later."""
    with step("vLLM with its torch, DeepSpeed, TRL and the rest"):
        finish(start([*PIP, "setuptools>=78", *wanted(project, extra, "train", "dev")]), "pip")


def install(stack: str, action: str, key: str) -> None:
    """All steps, from nothing or from an older set-up."""
    import tomllib  # there since Python 3.11, which has been checked

    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    choice = config["tool"]["posttrain"]["stack"]
    if action in ("create", "remake"):
        with step("virtual environment"):
            if VENV.exists():
                shutil.rmtree(VENV)
            VENV.mkdir()
            write_stamp("installing", stack, key)
            subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True, env=child_environment())
    write_stamp("installing", stack, key)
    if stack == "cuda":
        install_cuda(config["project"], choice["cuda"]["extra"])
    else:
        install_cpu(config["project"], choice["cpu"])
    with step("posttrain itself, from this folder"):
        # Without build isolation: setuptools is there, nothing more is fetched.
        finish(start([*PIP, "--no-deps", "--no-build-isolation", "-e", "."]), "pip install -e .")
    parts = [("imports", stack)] + ([("extension",)] if stack == "cpu" else [])
    with step("checking the imports, compiling DeepSpeed's collective"):
        children = {part: start(["launch/inside.py", *part]) for part in parts}  # side by side, a core each
        try:
            for part, child in children.items():
                finish(child, f"launch/inside.py {part[0]}")
        finally:
            for child in children.values():
                stop(child)
    write_stamp("done", stack, key)


@contextlib.contextmanager
def only_one():
    """A second set-up of the same checkout waits for the first."""
    with Path(__file__).open(encoding="utf-8") as own:
        try:
            fcntl.flock(own, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("set-up: another one is running in this folder; waiting for it", flush=True)
            fcntl.flock(own, fcntl.LOCK_EX)
        yield


def set_up(check: bool) -> None:
    """The whole program but for its errors."""
    if lacking := this_machine():
        raise SetupError("\n".join(lacking))
    stack = "cuda" if has_cuda() else "cpu"
    key = fingerprint(stack)
    action = decide(read_stamp(), stack, key, PYTHON.exists(), VENV.exists())
    if action == "nothing":
        print("set-up: nothing to do, .venv is up to date", flush=True)
        return
    why = "a CUDA device" if stack == "cuda" else "no CUDA device"
    print(
        f"set-up: {action} .venv for Python {sys.version.split()[0]} and {why} (once, some minutes)",
        flush=True,
    )
    if check:
        return
    began = time.monotonic()
    install(stack, action, key)
    print(f"set-up: done in {time.monotonic() - began:.0f} s; what pip said is in .venv/setup.log", flush=True)


def interrupted(number, frame):
    """SIGTERM ends us like Ctrl-C does: children first."""
    raise KeyboardInterrupt


def main() -> int:
    parser = argparse.ArgumentParser(description="Set up posttrain in .venv of this checkout.")
    parser.add_argument("--check", action="store_true", help="say what would be done, do nothing")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, interrupted)
    try:
        with only_one():
            set_up(options.check)
    except KeyboardInterrupt:
        print("\nset-up: interrupted; run the same command again", flush=True)
        return 130
    except SetupError as error:
        print(f"set-up: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
