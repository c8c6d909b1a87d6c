"""What this machine is and has. Standard library only: a registry may be asked from anywhere."""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from modelkeep import __version__, environments, settings
from modelkeep.model.engines import ENGINES as ENGINE
from modelkeep.model.engines import engines_for
from modelkeep.system import cores as cores
from modelkeep.system import memory as memory
from modelkeep.tune import advice

INSTRUCTION_SETS = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_vnni": "AVX-512 VNNI (int8)",
    "avx_vnni": "AVX VNNI (int8)",
    "avx512_bf16": "AVX-512 BF16",
    "avx512_fp16": "AVX-512 FP16",
    "amx_int8": "AMX int8",
    "amx_bf16": "AMX BF16",
    "amx_fp16": "AMX FP16",
    "asimd": "NEON",
    "asimddp": "NEON dot product (int8)",
    "sve": "SVE",
    "bf16": "NEON BF16",
}
ENGINES = {
    "onnxruntime": "modelkeep",
    "openvino": "modelkeep[openvino]",
    "torch": "modelkeep[torch]",
    "skops": "modelkeep[sklearn]",
}
"""Engine's distribution → what to install for it."""
ALSO = {"onnxruntime": ("onnxruntime-gpu",), "xgboost-cpu": ("xgboost",)}
"""Other distributions that bring the same library."""
BESIDE = {"sklearn": ("skops", "scikit-learn", "xgboost-cpu", "lightgbm")}
"""Engine → the distributions that compute, where those are others than its library alone."""
EXTRAS = {
    "torch": ("torch", "safetensors", "onnx", "onnxscript"),
    "optimize": ("torch", "safetensors", "onnx", "onnxscript", "sympy"),
    "openvino": ("openvino", "onnx"),
    "grpc": ("grpcio", "grpcio-reflection", "protobuf"),
    "console": ("jinja2",),
    "sample": ("pyarrow",),
    "client": ("httpx",),
    "gpu": ("nvidia-ml-py", "nvtx"),
    "plots": ("matplotlib",),
    "traces": ("opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http"),
    "huggingface": ("torch", "safetensors", "onnx", "onnxscript", "transformers"),
    "sklearn": ("scikit-learn", "skops", "skl2onnx", "onnxmltools", "onnx", "pandas"),
    "trees": ("scikit-learn", "skops", "skl2onnx", "onnxmltools", "onnx", "pandas", "xgboost-cpu", "lightgbm"),
}


def explain() -> list[str]:
    """What to make of this machine's hardware, a sentence a line."""
    return advice.on_machine(_instruction_sets(), cores(), memory())


def precisions() -> list[str]:
    """The precisions below float32 that this processor multiplies in, by numpy's names."""
    known = _instruction_sets()
    there = {"bfloat16": "BF16", "float16": "FP16"}
    return [precision for precision, word in there.items() if any(name.endswith(word) for name in known)]


def fingerprint(*formats: str) -> str:
    """A short name of this hardware and of the software that runs models of these formats.

    Tuned settings hold where it is the same. What no engine of the formats uses may come and go.
    """
    engines = {engine for one in formats for engine in engines_for(one)}
    libraries = {name for engine in engines for name in BESIDE.get(engine, (ENGINE[engine].library,))}
    found = {
        "modelkeep": __version__,
        "os": _os(),
        "processor": _processor(),
        "cores": cores(),
        "instruction_sets": _instruction_sets(),
        "libraries": {name: _version(name) for name in sorted(libraries)},
    }
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:16]


def describe() -> dict[str, Any]:
    """What doctor prints: hardware, engines, extras, and what is missing with the mend."""
    missing = {
        extra: f"pip install 'modelkeep[{extra}]'"
        for extra, needs in EXTRAS.items()
        if not all(_version(name) for name in needs)
    }
    return {
        "os": _os(),
        "python": platform.python_version(),
        "processor": _processor(),
        "cores": cores(),
        "memory_gib": _memory_gib(),
        "instruction_sets": _instruction_sets(),
        "gpu": _gpus(),
        "engines": {name: _version(name) or f"missing: pip install '{package}'" for name, package in ENGINES.items()},
        "extras": {extra: "missing" if extra in missing else "installed" for extra in EXTRAS},
        "environments": {name: _environment(name) for name in environments.ENVIRONMENTS},
        "missing": missing,
        "advice": advice.on_instructions(_instruction_sets()),
    }


def _environment(name: str) -> str:
    """Whether it has been made, and the command for the opposite."""
    root = settings.read().environments
    if size := environments.size(name, root):
        place = environments.ENVIRONMENTS[name].place(root)
        return f"{size / 1e9:.2g} GB at {place}; to remove it: modelkeep doctor --remove {name}"
    return f"made on first use, or now: modelkeep doctor --make {name}"


def _os() -> str:
    return f"{platform.system()} {platform.machine()}"


def _version(distribution: str) -> str | None:
    for name in (distribution, *ALSO.get(distribution, ())):
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(name)
    return None


def _cpuinfo() -> Mapping[str, str]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return {}
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}


def _processor() -> str:
    return _cpuinfo().get("model name") or platform.processor() or platform.machine()


def _instruction_sets() -> list[str]:
    info = _cpuinfo()
    flags = set((info.get("flags") or info.get("Features") or "").split())
    return [name for flag, name in INSTRUCTION_SETS.items() if flag in flags]


def _memory_gib() -> float:
    return round(memory() / 2**30, 1)


def _gpus() -> list[str]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    try:
        asked = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader"]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return (
        [re.sub(r"\s+", " ", line) for line in done.stdout.splitlines() if line.strip()] if not done.returncode else []
    )
