"""What doctor says of this machine, and the name under which tuned settings are kept."""

from __future__ import annotations

import os
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from modelkeep import environments
from modelkeep.model.engines import ENGINES
from modelkeep.tune import machine

EXTRAS: dict[str, list[str]] = tomllib.loads(
    (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text(encoding="utf-8")
)["project"]["optional-dependencies"]
KEYS = "os python processor cores memory_gib instruction_sets gpu engines extras environments missing advice"


def pretend(monkeypatch: pytest.MonkeyPatch, **versions: str | None) -> None:
    """Other versions of distributions; None where one is not installed."""
    real = metadata.version

    def version(name: str) -> str:
        found = versions[name] if name in versions else real(name)
        if found is None:
            raise metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(metadata, "version", version)


def kernel(monkeypatch: pytest.MonkeyPatch, text: str | None) -> None:
    """What /proc and /sys say; None where they are not there."""
    real = Path.read_text

    def read_text(self: Path, *args: Any, **kwargs: Any) -> str:
        if self.parts[1:2] not in (("proc",), ("sys",)):
            return real(self, *args, **kwargs)
        if text is None:
            raise FileNotFoundError(self)
        return text

    monkeypatch.setattr(Path, "read_text", read_text)


def test_all_is_described() -> None:
    found = machine.describe()
    assert list(found) == KEYS.split()
    assert found["cores"] >= 1
    assert found["memory_gib"] > 0
    assert found["processor"]
    assert set(found["engines"]) == {engine.library for engine in ENGINES.values() if not engine.environment}
    assert found["advice"]


def test_what_is_missing_is_told_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, openvino=None, torch=None, onnxruntime=None, skops=None)
    found = machine.describe()
    assert found["missing"]["openvino"] == "pip install 'modelkeep[openvino]'"
    assert found["extras"]["openvino"] == "missing"
    assert found["engines"] == {
        "onnxruntime": "missing: pip install 'modelkeep'",
        "openvino": "missing: pip install 'modelkeep[openvino]'",
        "torch": "missing: pip install 'modelkeep[torch]'",
        "skops": "missing: pip install 'modelkeep[sklearn]'",
    }


def test_what_is_there_is_told_with_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, openvino="2099.1")
    found = machine.describe()
    assert found["engines"]["openvino"] == "2099.1"
    assert found["extras"]["openvino"] == "installed"
    assert "openvino" not in found["missing"]


@pytest.mark.parametrize("extra", machine.EXTRAS)
def test_an_extra_is_what_pyproject_says(extra: str) -> None:
    def needs(name: str) -> set[str]:
        found: set[str] = set()
        for requirement in map(Requirement, EXTRAS[name]):
            if requirement.marker and not requirement.marker.evaluate():
                continue
            inner = [needs(e) for e in requirement.extras] if requirement.name == "modelkeep" else [{requirement.name}]
            found.update(*inner)
        return found

    assert set(machine.EXTRAS[extra]) == needs(extra)


def test_every_extra_of_a_person_is_described() -> None:
    assert set(machine.EXTRAS) == set(EXTRAS) - {"dev", "all"}


def test_an_environment_is_told_with_the_command_for_the_opposite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELKEEP_ENVIRONMENTS", str(tmp_path))
    assert machine.describe()["environments"] == {
        "tensorflow": "made on first use, or now: modelkeep doctor --make tensorflow"
    }
    place = environments.ENVIRONMENTS["tensorflow"].place(tmp_path)
    (place / "bin").mkdir(parents=True)
    (place / "bin" / "python").write_bytes(b"x" * 25_000_000)
    told = machine.describe()["environments"]["tensorflow"]
    assert told == f"0.025 GB at {place}; to remove it: modelkeep doctor --remove tensorflow"


def test_the_fingerprint_is_stable() -> None:
    assert machine.fingerprint("onnx") == machine.fingerprint("onnx")
    assert len(machine.fingerprint("onnx")) == 16
    assert machine.fingerprint("onnx", "torch") == machine.fingerprint("torch", "onnx")


@pytest.mark.parametrize(
    ("format", "library"),
    [
        ("onnx", "onnxruntime"),
        ("onnx", "openvino"),
        ("openvino", "openvino"),
        ("torch", "torch"),
        ("huggingface", "torch"),
        ("sklearn", "skops"),
        ("sklearn", "scikit-learn"),
    ],
)
@pytest.mark.parametrize("version", ["0.0.1", None])
def test_the_fingerprint_changes_with_what_runs_the_format(
    monkeypatch: pytest.MonkeyPatch,
    format: str,  # noqa: A002  (the noun of types.Model)
    library: str,
    version: str | None,
) -> None:
    before, both = machine.fingerprint(format), machine.fingerprint(format, "tensorflow")
    pretend(monkeypatch, **{library: version})
    assert machine.fingerprint(format) != before
    assert machine.fingerprint(format, "tensorflow") != both


@pytest.mark.parametrize("version", ["0.0.1", None])
@pytest.mark.parametrize(
    ("format", "library"), [("onnx", "skops"), ("onnx", "torch"), ("torch", "onnxruntime"), ("sklearn", "openvino")]
)
def test_what_does_not_run_the_format_may_come_and_go(
    monkeypatch: pytest.MonkeyPatch,
    format: str,  # noqa: A002  (the noun of types.Model)
    library: str,
    version: str | None,
) -> None:
    before = machine.fingerprint(format)
    pretend(monkeypatch, **{library: version})
    assert machine.fingerprint(format) == before


def test_the_fingerprint_changes_with_the_cores_only(monkeypatch: pytest.MonkeyPatch) -> None:
    before = machine.fingerprint("onnx")
    monkeypatch.setattr(machine, "_memory_gib", lambda: 1.0)
    monkeypatch.setattr(machine, "_gpus", lambda: pytest.fail("a fingerprint must not start nvidia-smi"))
    assert machine.fingerprint("onnx") == before
    monkeypatch.setattr(machine, "cores", lambda: 1000)
    assert machine.fingerprint("onnx") != before


@pytest.mark.parametrize(("text", "cores"), [("max 100000", 8), ("150000 100000", 1), ("400000 100000", 4), ("", 8)])
def test_cores_are_those_of_the_container(monkeypatch: pytest.MonkeyPatch, text: str, cores: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    kernel(monkeypatch, text)
    assert machine.cores() == cores


def files(monkeypatch: pytest.MonkeyPatch, found: dict[str, str]) -> None:
    """What some files of /proc and /sys say; the others are not there."""
    real = Path.read_text

    def read_text(self: Path, *args: Any, **kwargs: Any) -> str:
        if self.parts[1:2] not in (("proc",), ("sys",)):
            return real(self, *args, **kwargs)
        if str(self) not in found:
            raise FileNotFoundError(self)
        return found[str(self)]

    monkeypatch.setattr(Path, "read_text", read_text)


@pytest.mark.parametrize(
    ("own", "above", "cores"),
    [("max 1000", "3000 1000", 3), ("2000 1000", "3000 1000", 2), ("2000 1000", "max 1000", 2)],
)
def test_a_limit_holds_for_the_groups_below(monkeypatch: pytest.MonkeyPatch, own: str, above: str, cores: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    group = {"/proc/self/cgroup": "1:cpu:/old\n0::/system.slice/keep.service\n"}
    slices = "/sys/fs/cgroup/system.slice"
    files(monkeypatch, {**group, f"{slices}/keep.service/cpu.max": own, f"{slices}/cpu.max": above})
    assert machine.cores() == cores


@pytest.mark.parametrize(
    ("limit", "memory"), [("1048576\n", 2**20), ("max\n", 2**33), (str(2**50), 2**33), ("", 2**33)]
)
def test_memory_is_that_of_the_container(monkeypatch: pytest.MonkeyPatch, limit: str, memory: int) -> None:
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 2**21}.__getitem__)
    files(monkeypatch, {"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/memory.max": limit})
    assert machine.memory() == memory
    assert machine.describe()["memory_gib"] == round(memory / 2**30, 1)


def test_another_distribution_of_an_engine_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, onnxruntime=None, **{"onnxruntime-gpu": "9.9"})
    assert machine.describe()["engines"]["onnxruntime"] == "9.9"


def test_instruction_sets_and_what_they_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "processor : 0\nmodel name : A CPU\nflags : fpu avx2 avx512_vnni amx_bf16\n"
    kernel(monkeypatch, text)
    found = machine.describe()
    assert found["processor"] == "A CPU"
    assert found["instruction_sets"] == ["AVX2", "AVX-512 VNNI (int8)", "AMX BF16"]
    assert "bfloat16" in found["advice"][0]
    assert "a quantized model can be faster" in found["advice"][1]


@pytest.mark.parametrize(
    ("flags", "precisions"),
    [("avx2", []), ("avx512_bf16", ["bfloat16"]), ("amx_bf16 amx_fp16", ["bfloat16", "float16"])],
)
def test_the_precisions_that_a_processor_multiplies_in(
    monkeypatch: pytest.MonkeyPatch, flags: str, precisions: list[str]
) -> None:
    kernel(monkeypatch, f"model name : A CPU\nflags : fpu {flags}\n")
    assert machine.precisions() == precisions
    assert any(word in " ".join(machine.explain()) for word in ("bfloat16", "float32 is the fastest"))


def test_without_cpuinfo(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel(monkeypatch, None)
    found = machine.describe()
    assert found["instruction_sets"] == []
    assert found["processor"]
    assert "no instructions for bfloat16 or int8" in found["advice"][0]


def test_graphics_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Any] = [
        subprocess.CompletedProcess([], 0, "A  GPU, 81559 MiB\n\n"),
        subprocess.CompletedProcess([], 9, "no driver"),
        subprocess.TimeoutExpired("nvidia-smi", 10),
    ]

    def run(*args: Any, **kwargs: Any) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(machine.shutil, "which", lambda tool: "/bin/nvidia-smi")
    monkeypatch.setattr(machine.subprocess, "run", run)
    assert [machine._gpus() for _ in range(3)] == [["A GPU, 81559 MiB"], [], []]
    monkeypatch.setattr(machine.shutil, "which", lambda tool: None)
    assert machine._gpus() == []
