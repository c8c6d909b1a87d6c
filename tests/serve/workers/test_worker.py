"""The worker process itself: what it says, and that it never outlives who started it."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from modelkeep.errors import BadInput, ModelkeepError, Overloaded
from modelkeep.serve.workers import process as processes
from modelkeep.serve.workers.process import Process, raised
from modelkeep.serve.workers.worker import model_from, model_to, told
from modelkeep.types import Bounds, Model, ServeConfig, Signature, TensorSpec
from tests.waiting import alive, until

MakeModel = Callable[..., Model]
NATIVE_HANG = 13.0  # as in tricky.py


@pytest.fixture
def process(tricky: MakeModel) -> Iterator[Process]:
    process = Process("tricky")
    yield process
    process.close()
    process.close()


def ask(process: Process, *values: float) -> Any:
    process.ask("m@1", {"x": [np.array([[v]], np.float32) for v in values]}, [1] * len(values))
    while (answer := process.answer()) is None:
        pass
    return answer


def test_it_loads_warms_up_and_answers(process: Process, tricky: MakeModel) -> None:
    assert process.prepare() > 0
    paces = process.load(tricky(add=1.0), ServeConfig(engine="tricky", max_batch=4))
    assert [rows for rows, _ in paces] == [1, 4]
    parts, seconds = ask(process, 1.0, 2.0)
    assert seconds > 0
    assert [(p.start, p.stop, p.outputs["y"].tolist()) for p in parts] == [(0, 2, [[2], [3]])]
    assert parts[0].seen.rows == 2


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="another C library than glibc")
def test_what_loading_has_freed_is_given_back(tricky: MakeModel) -> None:
    sizes = []
    for options in ({}, {"frees": True}):
        process = Process("tricky")
        process.load(tricky(**options), ServeConfig(engine="tricky"))
        sizes.append(int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
        process.close()
    assert sizes[1] - sizes[0] < 20_000_000  # of 60


def test_what_a_load_imports_is_told_so_that_a_spare_has_it_ready(
    process: Process, tricky: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, config = tricky(imports="colorsys"), ServeConfig(engine="tricky")
    process.load(model, config)
    assert "colorsys" in process.modules
    assert process.seconds == process.prepare(), "one module more is not worth a spare"
    monkeypatch.setattr(processes, "MANY", 0)
    spare = Process("tricky", [*process.modules, "no_such_module"])
    imported = spare.prepare()
    spare.load(model, config)
    assert "colorsys" not in spare.modules[len(process.modules) + 1 :], "it was there"
    assert spare.seconds >= imported
    spare.close()


def test_signals_that_mean_the_server_do_not_end_it(process: Process, tricky: MakeModel) -> None:
    process.load(tricky(), ServeConfig(engine="tricky"))
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(process.pid, number)
    assert ask(process, 1.0)[0][0].outputs["y"].tolist() == [[1]]
    assert process.running
    assert os.getpgid(process.pid) != os.getpgid(0)  # Ctrl-C in a terminal does not reach it at all


def test_it_imports_only_what_its_engine_needs(tmp_path: Path) -> None:
    code = "import modelkeep.serve.workers.worker, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"torch", "onnxruntime", "openvino", "starlette", "uvicorn", "sqlalchemy", "prometheus_client", "asyncio"}
    assert heavy.isdisjoint(loaded)


def test_errors_keep_their_kind() -> None:
    for error in (BadInput("no such token"), ModelkeepError("it failed"), Overloaded("too much")):
        back = raised(told(error))
        assert (type(back), str(back)) == (type(error), str(error))
    back = raised(told(ValueError("odd")))
    assert (type(back), str(back)) == (ModelkeepError, "ValueError: odd")


def test_a_model_is_told_as_it_is(tricky: MakeModel) -> None:
    model = tricky(add=1.0, names=["a"])
    assert model_from(model_to(model)) == model


def test_bounds_of_free_dimensions_reach_a_worker(process: Process, tricky: MakeModel) -> None:
    """As those of every Hugging Face model with positions, and of a network that pools."""
    free = TensorSpec("x", "float32", (None, None), ("batch", "width"))
    model = tricky(of=Signature((free,), (replace(free, name="y"),), {"width": Bounds(1, 8)}), add=1.0)
    process.load(model, ServeConfig(engine="tricky"))
    assert ask(process, 1.0)[0][0].outputs["y"].tolist() == [[2]]
    assert model_from(json.loads(orjson.dumps(model_to(model)))) == model


@pytest.mark.parametrize("how", ["closed", "killed"])
def test_what_a_model_has_started_ends_with_its_worker(
    process: Process, tricky: MakeModel, tmp_path: Path, how: str
) -> None:
    file = tmp_path / "child"
    process.load(tricky(child=str(file)), ServeConfig(engine="tricky"))
    child = int(file.read_text())
    assert alive(child)
    if how == "killed":
        os.kill(process.pid, signal.SIGKILL)
        assert process.end() == "was ended by SIGKILL"
    else:
        process.close()
    until(lambda: not alive(child))


def test_where_memory_runs_out_it_goes_before_the_server(process: Process, tricky: MakeModel) -> None:
    file = Path(f"/proc/{process.pid}/oom_score_adj")
    if not file.exists():
        pytest.skip("only Linux has it")
    process.prepare()
    assert int(file.read_text()) > int(Path("/proc/self/oom_score_adj").read_text())


PARENT = """
import sys
from modelkeep.model import engines
from modelkeep.serve.workers.process import Process
from modelkeep.serve.workers.worker import model_from
from modelkeep.types import ServeConfig
import json, numpy, time
engines.ENGINES["tricky"] = engines.Engine("tricky:load", ("tricky",), "numpy")
idle, hung, importing = Process("tricky"), Process("tricky"), Process("tricky")
model = model_from(json.loads(sys.argv[1]))
for process in (idle, hung):
    process.load(model, ServeConfig(engine="tricky"))
hung.ask("m@1", {"x": [numpy.array([[13.0]], numpy.float32)]}, [1])
time.sleep(0.1)
print(idle.pid, hung.pid, importing.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_who_kills_the_server_kills_its_workers(tricky: MakeModel, tmp_path: Path, number: signal.Signals) -> None:
    """Even one that hangs in native code, with the interpreter's lock held, and what a model has started."""
    child = tmp_path / "child"
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PARENT), json.dumps(model_to(tricky(child=str(child))))],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 3
    pids.append(int(child.read_text()))
    assert all(map(alive, pids))
    parent.send_signal(number)
    parent.wait()
    until(lambda: not any(map(alive, pids)))
    parent.stdout.close()
