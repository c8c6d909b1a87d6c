"""Importing modelkeep, and asking for help, loads nothing heavy and is fast."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache

import pytest

HEAVY = (
    "torch",
    "onnx",
    "onnxruntime",
    "openvino",
    "numpy",
    "sqlalchemy",
    "starlette",
    "rich",
    "prometheus_client",
    "fsspec",
)
REPEATS = 7
IMPORT = "import modelkeep"
HELP = """
import sys
sys.argv = ["modelkeep", "--help"]
try:
    import runpy
    runpy.run_module("modelkeep", run_name="__main__")
except SystemExit as stop:
    assert stop.code in (0, None), stop.code
"""
TELL = "\nimport json, sys\nprint('MODULES ' + json.dumps(sorted({m.partition('.')[0] for m in sys.modules})))"


def python(*arguments: str) -> str:
    """What an interpreter printed."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@cache
def modules(code: str) -> frozenset[str]:
    """Top-level names in sys.modules of an interpreter that has run this."""
    line = python("-c", code + TELL).splitlines()[-1]
    return frozenset(json.loads(line.removeprefix("MODULES ")))


def best(*arguments: str) -> float:
    """Seconds of processor time, the best of some runs: what the code costs, not what the machine does besides."""
    found = []
    for _ in range(REPEATS):
        child = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        assert child.returncode == 0
        found.append(used.ru_utime + used.ru_stime)
    return min(found)


def test_import_loads_only_the_standard_library() -> None:
    loaded = modules(IMPORT) - modules("pass")
    assert "modelkeep" in loaded
    assert loaded - {"modelkeep"} <= sys.stdlib_module_names


@pytest.mark.parametrize("heavy", HEAVY)
def test_nothing_heavy_is_loaded(heavy: str) -> None:
    assert heavy not in modules(IMPORT)
    assert heavy not in modules(HELP)


def test_the_lists_would_show_a_heavy_library() -> None:
    assert {"modelkeep", "click"} <= modules(HELP)
    assert "numpy" in modules("import numpy")


def test_import_is_fast() -> None:
    cost = best("-c", IMPORT) - best("-c", "pass")
    assert cost <= 0.050, f"import modelkeep costs {cost * 1e3:.0f} ms"


def test_help_is_fast() -> None:
    assert "Usage: modelkeep" in python("-m", "modelkeep", "--help")
    cost = best("-m", "modelkeep", "--help")
    assert cost <= 0.150, f"modelkeep --help costs {cost * 1e3:.0f} ms"
