"""NVIDIA's own client against a live server, over HTTP and gRPC, one check of triton_client.py a test."""

from __future__ import annotations

import ast
import json
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from modelkeep.serve.server import Running
from modelkeep.settings import Settings
from modelkeep.types import Signature, TensorSpec

HERE = Path(__file__).parent
PYTHON = HERE.parents[1] / ".venv-conformance" / "bin" / "python"
SCRIPT = HERE / "triton_client.py"
CHECKS = [
    node.name
    for node in ast.parse(SCRIPT.read_text()).body
    if isinstance(node, ast.FunctionDef) and node.name.startswith("check_")
]
DTYPES = {
    "BOOL": "bool",
    **{f"{u}INT{bits}": f"{u.lower()}int{bits}" for u in ("", "U") for bits in (8, 16, 32, 64)},
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
    "BYTES": "str",
}


class Echo:
    """y is x; ``seconds`` later; or it fails."""

    def __init__(self, dtype: str, seconds: float = 0.0, fails: bool = False) -> None:
        shape = (None, None)
        self.signature = Signature((TensorSpec("x", dtype, shape),), (TensorSpec("y", dtype, shape),))
        self.seconds, self.fails = seconds, fails

    def run(self, inputs: Any) -> dict[str, Any]:
        time.sleep(self.seconds)
        if self.fails:
            raise ValueError("poison")
        return {"y": inputs["x"].copy()}

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def found() -> dict[str, str]:
    assert PYTHON.exists(), "make test sets up .venv-conformance; do that first: make conformance"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    models: dict[str, Any] = {f"echo-{theirs}": Echo(ours) for theirs, ours in DTYPES.items()}
    models |= {"fails": Echo("float32", fails=True), "slow": Echo("float32", seconds=1.0)}
    with Running(models, settings=Settings(grpc_port=port)) as url:
        command = [str(PYTHON), str(SCRIPT), url.removeprefix("http://"), f"127.0.0.1:{port}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    checked: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return checked


@pytest.mark.parametrize("check", CHECKS)
def test_the_client_gets_what_it_expects(found: dict[str, str], check: str) -> None:
    assert found[check] == "ok", found[check]


def test_all_checks_ran(found: dict[str, str]) -> None:
    assert set(found) == set(CHECKS)
    assert len(CHECKS) >= 18
