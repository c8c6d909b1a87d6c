"""modelkeep tune, doctor --explain and serve's notice, as a person reads them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelkeep import Keep
from modelkeep.cli import tune
from modelkeep.data.dataset import Dataset
from modelkeep.settings import Settings
from modelkeep.tune import kept, machine
from modelkeep.types import Report

Run = Callable[..., tuple[int, str, str]]
BUDGET = ("--p99", "2s", "--concurrency", "2", "--budget", "3s")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with an ONNX model that was tuned once, briefly."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    folder = tmp_path_factory.mktemp("tuned")
    weights = np.random.default_rng(0).standard_normal((8, 3)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "m",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, folder / "m.onnx")
    x = np.random.default_rng(1).standard_normal((400, 8)).astype(np.float32)
    rows = Dataset({"x": x}, (x @ weights).argmax(1), "made rows")
    np.savez(folder / "rows.npz", x=x, labels=rows.labels)
    with Keep(Settings(home=folder / ".modelkeep")) as keep:
        keep.add(folder / "m.onnx", "m", data=rows)
    return folder


@pytest.fixture
def tuned(run: Run) -> str:
    code, out, _ = run("tune", "m", *BUDGET, "--price-per-hour", "3.6", "--explain")
    assert code == 0
    return out


def test_a_person_reads_the_front_the_reason_and_the_cost(tuned: str, home: Path) -> None:
    assert "m: 2 requests in flight, promise p99 ≤ 2 s" in tuned
    assert "keeps the promise of p99 ≤ 2000 ms" in tuned
    assert "the naive setting (onnxruntime, its own threads, max batch 1):" in tuned
    assert "a million predictions cost" in tuned
    assert "where trying all would have been" in tuned
    assert "GiB of memory" in tuned
    with Keep(Settings(home=home / ".modelkeep")) as keep:
        version = keep.get("m")
        assert keep.registry.config(version, machine.fingerprint("onnx")) is not None
        assert keep.registry.journal("m", kind=kept.KIND)


def test_the_second_time_it_knows(run: Run, tuned: str) -> None:
    code, out, _ = run("tune", "m", *BUDGET, "--json")
    report = json.loads(out)
    assert code == 0
    assert report["numbers"]["measurements"]["reused"] > 0
    code, out, _ = run("tune", "m", *BUDGET, "--fresh", "--json")
    assert json.loads(out)["numbers"]["measurements"]["reused"] == 0


def test_a_promise_that_nothing_keeps_is_exit_code_1_and_stores_nothing(run: Run, home: Path) -> None:
    with Keep(Settings(home=home / ".modelkeep")) as keep:
        before = len(keep.registry.journal("m", kind="config"))
    code, out, _ = run("tune", "m", "--p99", "0.001ms", "--concurrency", "2", "--budget", "2s", "--all")
    assert code == 1
    assert "no setting keeps the promise of p99 ≤ 0.001 ms, of " in out
    assert " that were measured\n  the nearest is " in out
    with Keep(Settings(home=home / ".modelkeep")) as keep:
        assert len(keep.registry.journal("m", kind="config")) == before
        assert keep.registry.reports(keep.get("m"))[-1].ok is False


def test_lower_precisions_are_judged_by_accuracy_where_rows_are_given(run: Run) -> None:
    code, out, _ = run("tune", "m", *BUDGET, "--data", "rows.npz", "--max-accuracy-drop", "2pp", "--json")
    assert code == 0
    assert json.loads(out)["numbers"]["promise"]["max_drop"] == pytest.approx(0.02)
    code, _, err = run("tune", "m", "--data", "rows.npz")
    assert code == 2
    assert "belong together" in err


def test_rows_that_cannot_judge_accuracy_are_refused_before_anything_is_measured(run: Run, home: Path) -> None:
    np.savez(home / "unlabelled.npz", x=np.ones((30, 8), np.float32))
    code, _, err = run("tune", "m", *BUDGET, "--data", "unlabelled.npz", "--max-accuracy-drop", "2pp")
    assert code == 2
    assert "unlabelled.npz has no labels, and accuracy is judged by them" in err


def test_doctor_explains(run: Run) -> None:
    code, out, _ = run("doctor", "--explain")
    assert code == 0
    assert f"- {machine.cores()} core" in out
    code, out, _ = run("doctor", "--explain", "--json")
    assert json.loads(out)["advice"] == machine.explain()


def test_serve_says_that_a_version_is_untuned_here(tmp_path: Path, home: Path) -> None:
    with Keep(Settings(home=tmp_path / "home")) as keep:
        keep.add(home / "m.onnx", "n")
    server: Any = subprocess.Popen(
        [sys.executable, "-m", "modelkeep", "serve", "n", "--port", "0"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "MODELKEEP_HOME": str(tmp_path / "home")},
        start_new_session=True,
    )
    try:
        assert "serving n on" in server.stdout.readline()
    finally:
        server.send_signal(signal.SIGTERM)
        _, err = server.communicate(timeout=30)
    assert "n@1 is untuned on this machine; tune it with: modelkeep tune n@1" in err


def test_serve_says_what_it_was_tuned_to_and_takes_no_version(
    run: Run, tuned: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modelkeep.serve import server

    monkeypatch.setattr(server, "serve_registry", lambda *given, **options: None)
    code, _, err = run("serve", "m")
    assert code == 0
    assert "m@1 runs as it was tuned here: " in err
    code, _, err = run("serve", "m@1")
    assert code == 2
    assert "serve takes a model's name and follows its route; serve m" in err


def test_what_the_pairs_do_not_show_is_not_said(capsys: pytest.CaptureFixture[str]) -> None:
    def row(of: str = "", engine: str = "onnxruntime", threads: int = 1) -> dict[str, Any]:
        return {"of": of, "config": {"engine": engine, "precision": None, "threads": threads}}

    numbers: dict[str, Any] = {
        "naive": {**row(), "throughput": 100.0, "p99": 0.01},
        "price": None,
        "measurements": {"made": 1, "reused": 0, "settings": 9},
        "candidates": [row(), row(engine="openvino")],
        "refused": [{**row(engine="openvino", threads=2), "why": "the time was up"}],
        "other": {**row(of="m@5"), "gain": {"ratio": 1.06, "low": 0.4, "high": 1.88, "pairs": 9}},
    }
    tune._say(Report("tune", True, "fast", numbers))
    out = capsys.readouterr().out
    assert "m@5 may do better, which was not shown: 1.06× (0.40 to 1.88, n = 9 pairs) the winner" in out
    assert "left out: openvino in some settings: the time was up" in out
    numbers["other"]["gain"] = {"ratio": 1.5, "low": 1.2, "high": 1.88, "pairs": 9}
    tune._say(Report("tune", True, "fast", numbers))
    assert "m@5 does better: 1.50× (1.20 to 1.88, n = 9 pairs) the winner" in capsys.readouterr().out
