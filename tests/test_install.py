"""The set-up program: what it decides and how it fails; the launch files as accelerate reads them."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
CPU_CONFIG = ROOT / "launch" / "cpu-2.yaml"


@pytest.fixture(scope="module")
def install() -> ModuleType:
    """launch/install.py as set-up runs it: a file, not part of a package."""
    spec = importlib.util.spec_from_file_location("set_up_program", ROOT / "launch" / "install.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("stamp", "python", "exists", "expected"),
    [
        ({}, False, False, "create"),
        ({"state": "done", "stack": "cpu", "key": "k"}, True, True, "nothing"),
        ({"state": "done", "stack": "cpu", "key": "old"}, True, True, "update"),
        ({}, True, True, "update"),  # somebody's own virtual environment is finished
        ({}, False, True, "remake"),
        ({"state": "installing", "stack": "cpu", "key": "k"}, True, True, "remake"),
        ({"state": "done", "stack": "cuda", "key": "k"}, True, True, "remake"),
        ({"state": "done", "stack": "cpu", "key": "k"}, False, True, "remake"),
    ],
)
def test_what_happens_to_the_environment(
    install: ModuleType, stamp: dict, python: bool, exists: bool, expected: str
) -> None:
    assert install.decide(stamp, "cpu", "k", python, exists) == expected


def test_a_stamp_is_read_back_and_a_broken_one_counts_as_none(install: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "stamp.json"
    install.write_stamp("done", "cpu", "k", path)
    assert install.read_stamp(path) == {"state": "done", "stack": "cpu", "key": "k"}
    path.write_text('{"state": "do', encoding="utf-8")
    assert install.read_stamp(path) == {}
    assert install.read_stamp(tmp_path / "none") == {}


def test_a_machine_without_what_is_needed_gets_one_line_each(install: ModuleType) -> None:
    assert install.problems((3, 12), "c++", True, True) == []
    lines = install.problems((3, 9), None, False, False)
    assert len(lines) == 4
    assert "python3.9 is not supported" in lines[0]
    assert "g++" in lines[3]


def test_the_callers_variables_do_not_reach_pip(install: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("PIP_TARGET", "/elsewhere")
    child = install.child_environment()
    assert "PYTHONPATH" not in child
    assert "PIP_TARGET" not in child
    assert child["PATH"].startswith(str(install.VENV / "bin"))


def test_every_requirement_is_pinned_by_the_constraints(install: ModuleType) -> None:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (ROOT / "launch" / "constraints-cpu.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    known = {canonicalize_name(name): version for name, version in pins.items()}
    for need in map(Requirement, install.wanted(project, "train", "dev")):
        version = known[canonicalize_name(need.name)]
        assert need.specifier.contains(version), f"{need} against {version}"


def copy_of_the_program(folder: Path) -> Path:
    for name in ("pyproject.toml", "launch"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
    return folder / "launch" / "install.py"


def test_no_compiler_is_one_clear_line_and_touches_nothing(tmp_path: Path) -> None:
    program = copy_of_the_program(tmp_path)
    empty = tmp_path / "bin"
    empty.mkdir()
    asked = subprocess.run(
        [sys.executable, str(program)], env={"PATH": str(empty)}, capture_output=True, text=True, check=False
    )
    assert asked.returncode == 1
    assert asked.stderr == "set-up: no C++ compiler: install g++, or set CXX to yours\n"
    assert not (tmp_path / ".venv").exists()


@pytest.mark.slow
def test_a_failing_pip_shows_its_last_lines_and_the_next_run_starts_over(tmp_path: Path) -> None:
    program = copy_of_the_program(tmp_path)
    constraints = program.with_name("constraints-cpu.txt")
    constraints.write_text("torch==0.0.0.dev0\nvllm-cpu==0.0.0\n", encoding="utf-8")
    offline = os.environ | {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": ""}
    asked = subprocess.run([sys.executable, str(program)], env=offline, capture_output=True, text=True, check=False)
    assert asked.returncode == 1
    assert "torch==0.0.0.dev0 failed (exit code 1)" in asked.stderr
    assert "ERROR: " in asked.stderr  # in pip's own words
    again = subprocess.run([sys.executable, str(program), "--check"], capture_output=True, text=True, check=True)
    assert "remake .venv" in again.stdout


def test_accelerate_reads_the_launch_files() -> None:
    expected = {
        "cpu-2": (2, 2),
        "gpu-1": (1, 2),
        "gpu-8-zero2": (8, 2),
        "gpu-8-zero3": (8, 3),
        "multi-node": (16, 3),
    }
    files = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in (ROOT / "launch").glob("*.yaml")}
    found = {name: (file["num_processes"], file["deepspeed_config"]["zero_stage"]) for name, file in files.items()}
    assert found == expected
    assert not any(file["use_cpu"] for file in files.values())  # accelerate would ignore DeepSpeed


@pytest.mark.slow
def test_accelerate_starts_two_processes_under_zero_2(tmp_path: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    for path in (ROOT / "launch").glob("*.yaml"):
        load_config_from_file(str(path))  # refuses keys it does not know
    script = tmp_path / "show.py"
    script.write_text(
        "import os, pathlib, sys\n"
        "names = 'WORLD_SIZE', 'ACCELERATE_USE_DEEPSPEED', 'ACCELERATE_DEEPSPEED_ZERO_STAGE'\n"
        "pathlib.Path(sys.argv[1], os.environ['RANK']).write_text(' '.join(os.environ[n] for n in names))\n",
        encoding="utf-8",
    )
    seen = tmp_path / "seen"  # files, because two processes may print into one line
    seen.mkdir()
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CPU_CONFIG)]
    environment = os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    subprocess.run([*launcher, str(script), str(seen)], env=environment, check=True, timeout=120)
    assert {path.name: path.read_text() for path in seen.iterdir()} == {"0": "2 true 2", "1": "2 true 2"}
