"""A process for each model: it answers, its end is explained, and it never outlives us."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelkeep.errors import BadModel, ModelkeepError
from modelkeep.tune import apart
from modelkeep.tune.apart import Apart
from modelkeep.tune.served import Load
from modelkeep.types import Model, ServeConfig

ROWS: list[Any] = [{"x": np.full((1, 4), n, np.float32)} for n in range(3)]
ONE = ServeConfig(threads=1, max_batch=8, in_process=True)


def gone(pid: int) -> bool:
    """Within some seconds."""
    for _ in range(200):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_it_loads_bears_and_ends(tiny: Model) -> None:
    with Apart("tiny@1", tiny, ONE, ROWS) as one:
        opened = one.open()
        assert len(opened.alone) == 3
        assert opened.memory_after > opened.memory_before > 10_000_000
        found = one.load(Load(0.1, concurrency=2))
        assert len(found.measured.latencies) > 10
        assert found.fault == ""
        # it is another process, whose memory is not ours
        assert one._process.pid != os.getpid()
    assert one._process.returncode == -signal.SIGKILL
    one.close()


def test_what_the_engine_says_is_raised_here(tiny: Model, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with Apart("bad@1", tiny.moved(tmp_path), ONE, ROWS) as one, pytest.raises(BadModel, match="not an ONNX model"):
        one.open()


def test_a_process_that_dies_is_explained(tiny: Model) -> None:
    with Apart("tiny@1", tiny, ONE, ROWS) as one:
        one.open()
        os.kill(one._process.pid, signal.SIGKILL)
        with pytest.raises(ModelkeepError, match=r"served tiny@1 ended because it was killed; most likely .* memory"):
            one.load(Load(0.1))


def test_one_that_hangs_is_stopped(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    with Apart("tiny@1", tiny, ONE, ROWS) as one:
        one.open()
        os.kill(one._process.pid, signal.SIGSTOP)
        monkeypatch.setattr(apart, "GRACE_SECONDS", 0.1)
        with pytest.raises(ModelkeepError, match=r"tiny@1 has not come to an end within 0 s, and was stopped"):
            one.load(Load(0.01))
    assert gone(one._process.pid)


PARENT = """
import pickle, sys
from modelkeep.tune.apart import Apart
from modelkeep.tune.served import Load
one = Apart(*pickle.load(sys.stdin.buffer))
one.open()
print(one._process.pid, flush=True)
one.load(Load(600.0))
"""


def test_it_ends_with_us_however_we_end(tiny: Model) -> None:
    import pickle

    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdin is not None
    assert parent.stdout is not None
    try:
        parent.stdin.write(pickle.dumps(("tiny@1", tiny, ONE, ROWS)))
        parent.stdin.flush()
        child = int(parent.stdout.readline())
    finally:
        parent.kill()
        parent.communicate()
    assert gone(child)
