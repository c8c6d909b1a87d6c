"""A server at work: what it answers is gathered, and whatever happens to the gathering changes no answer."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from modelkeep.data import profiles
from modelkeep.data.bins import Bins
from modelkeep.data.features import Columns
from modelkeep.data.profiles import ProfileLog
from modelkeep.model.baseline import Baseline, Subject
from modelkeep.serve.server import Running
from modelkeep.settings import Settings
from modelkeep.types import Signature, TensorSpec

SIGNATURE = Signature((TensorSpec("x", "float32", (None, 2)),), (TensorSpec("y", "float32", (None, 3)),))


def known() -> Baseline:
    """Of 400 rows, normally distributed."""
    rng = np.random.default_rng(0)
    made = []
    for specs, name, size in ((SIGNATURE.inputs, "x", 2), (SIGNATURE.outputs, "y", 3)):
        rows = {name: rng.normal(size=(400, size)).astype(np.float32)}
        columns = Columns.of(specs, rows, answers=name == "y")
        made.append(Subject(columns, Bins.of(columns.read(rows), columns.edges)))
    return Baseline(*made)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "profiles.db"


@pytest.fixture
def served(fakes: Any, path: Path) -> Callable[..., Any]:
    def served(**options: Any) -> Any:
        one = fakes.Odd(lambda x: {"y": np.tile(np.float32([0, 5, 0]), (len(x), 1))}, of=SIGNATURE)
        options = {"profiles": path, "find": lambda name, number: known(), **options}
        return Running({"digits": one}, **options)

    return served


def ask(client: httpx.Client, n: int) -> list[int]:
    body = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [0.5, -0.5]}]}
    return [client.post("/v2/models/digits/infer", json=body).status_code for _ in range(n)]


def test_answers_are_counted_until_the_end(served: Any, path: Path) -> None:
    running = served()
    with running as url, httpx.Client(base_url=url, timeout=20) as client:
        assert ask(client, 40) == [200] * 40
        text = client.get("/metrics").text
    assert 'modelkeep_monitor_dropped_total{sink="features"} 0.0' in text
    assert 'modelkeep_monitor_dropped_total{sink="profiles"} 0.0' in text
    assert text.count("TYPE modelkeep_monitor_dropped_total") == 1
    found = profiles.read(path, "digits", 1)
    assert sum(c.n for c in found if c.subject == "inputs") == 40
    assert sum(c.n for c in found if c.subject == "answers") == 40
    assert sum(b.n for b in profiles.buckets(path, "digits", 1, "answers")) == 40


def test_it_can_be_left_out(served: Any, path: Path) -> None:
    with served(settings=Settings(collect=False)) as url, httpx.Client(base_url=url, timeout=20) as client:
        assert ask(client, 3) == [200] * 3
    assert not path.exists()


def test_a_stuck_file_costs_counts_and_no_answer(served: Any, path: Path, monkeypatch: Any) -> None:
    """Another process holds the file's lock for as long as the server runs."""
    monkeypatch.setattr(profiles, "WAITING", 2)
    monkeypatch.setattr("modelkeep.serve.observers.profiled.CHUNK_SECONDS", 0.0)
    running = served()
    with running as url, httpx.Client(base_url=url, timeout=20) as client:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            for _ in range(8):
                assert ask(client, 16) == [200] * 16
                assert running.plane.collector.flush()
            assert running.plane.collector.profiles.dropped > 0
            other.execute("ROLLBACK")
        assert 'modelkeep_monitor_dropped_total{sink="profiles"} 0.0' not in client.get("/metrics").text
    kept = sum(c.n for c in profiles.read(path, "digits", 1))
    assert kept + running.plane.collector.profiles.dropped == 2 * 8 * 16


def test_a_full_disk_costs_counts_and_no_answer(
    served: Any, path: Path, monkeypatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(ProfileLog, "_write", full)
    running = served()
    with running as url, httpx.Client(base_url=url, timeout=20) as client:
        assert ask(client, 20) == [200] * 20
    assert running.plane.collector.profiles.dropped == 40
    assert sum("counts of features are lost" in said for said in caplog.messages) == 1


def test_a_reader_that_is_killed_disturbs_nobody(served: Any, path: Path) -> None:
    code = (
        "import sqlite3, sys, time; d = sqlite3.connect(sys.argv[1]); d.execute('BEGIN'); "
        "d.execute('SELECT COUNT(*) FROM chunks').fetchone(); print('reading', flush=True); time.sleep(60)"
    )
    with served() as url, httpx.Client(base_url=url, timeout=20) as client:
        assert ask(client, 20) == [200] * 20
        reader = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
        assert reader.stdout is not None
        assert reader.stdout.readline() == b"reading\n"
        assert ask(client, 20) == [200] * 20
        reader.kill()
        reader.wait()
        reader.stdout.close()
        assert ask(client, 20) == [200] * 20
    assert sum(c.n for c in profiles.read(path, "digits", 1) if c.subject == "inputs") == 60


def test_a_model_takes_twenty_megabytes_at_most(tmp_path: Path) -> None:
    """As many features as are looked at, 20,000 requests of MNIST's size that wait, and sketches that are full."""
    code = (Path(__file__).parent / "collect_memory.py").read_text()
    found = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert 0 < float(found.stdout) < 20
