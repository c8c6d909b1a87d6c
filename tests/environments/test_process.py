"""Arrays cross whole, errors cross as sentences, and no process outlives whoever started it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from modelkeep.environments import process as processes
from modelkeep.environments.process import Process
from modelkeep.errors import BadInput, NotReady, TooLate, Unsupported
from tests.waiting import alive, until

PROBE = """
import os, sys, time
from modelkeep.errors import BadInput
def echo(arrays=None, **told):
    return told, arrays or {}
def fail(kind):
    raise {"ours": BadInput("say this"), "theirs": KeyError("first\\nsecond")}[kind]
def die(code):
    print("chatter on stdout", flush=True)
    os._exit(code)
def sleep(seconds):
    time.sleep(seconds)
    return None, {}
def about():
    return {"path": sys.path, "environ": sorted(os.environ), "pid": os.getpid()}, {}
"""


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Process]:
    """A process of this Python that has modelkeep's files and, beside them, probe.py."""
    package = tmp_path / "modelkeep"
    shutil.copytree(processes.PACKAGE / "environments", package / "environments")
    for name in ("__init__.py", "errors.py", "types.py"):
        shutil.copyfile(processes.PACKAGE / name, package / name)
    (package / "environments" / "probe.py").write_text(PROBE)
    monkeypatch.setattr(processes, "PACKAGE", package)
    with contextlib.closing(Process(Path(sys.executable), {"OWN": "1"})) as made:
        yield made


ARRAYS = {
    "floats": np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32),
    "turned": np.arange(12, dtype=np.int64).reshape(3, 4).T,
    "none": np.zeros((0, 5), np.float16),
    "scalar": np.array(True),
    "text": np.array([["a", "ä\n"], ["", "c"]], dtype=object),
    "big": np.zeros((1000, 1000), np.float64),
}


def test_arrays_and_json_come_back_as_they_went(asked: Process) -> None:
    told, arrays = asked.call("probe:echo", {"a": [1, None, "ä"]}, ARRAYS, seconds=60)
    assert told == {"a": [1, None, "ä"]}
    assert list(arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        assert np.array_equal(arrays[name], array)
        assert arrays[name].flags.writeable  # the caller's to keep


def test_a_name_more_than_there_are_arrays_is_no_surprise(asked: Process) -> None:
    assert asked.call("probe:echo", {}, seconds=60) == ({}, {})


def test_errors_cross_as_one_sentence_and_the_process_goes_on(asked: Process) -> None:
    with pytest.raises(BadInput, match=r"^say this$"):
        asked.call("probe:fail", {"kind": "ours"}, seconds=60)
    with pytest.raises(Unsupported, match="KeyError: 'first") as error:
        asked.call("probe:fail", {"kind": "theirs"}, seconds=60)
    assert "\n" not in str(error.value)
    pid = asked.pid
    assert asked.call("probe:about", {}, seconds=60)[0]["pid"] == pid


def test_it_sees_nothing_of_what_is_installed_beside_modelkeep(asked: Process, tmp_path: Path) -> None:
    told, _ = asked.call("probe:about", {}, seconds=60)
    assert str(tmp_path) not in told["path"]
    assert "OWN" in told["environ"]
    assert set(told["environ"]) <= {"OWN", "PATH", "HOME", "TMPDIR", "LANG", "LC_CTYPE", "ORT_DISABLE_TELEMETRY"}


def test_one_that_dies_is_told_with_its_last_words_and_replaced(asked: Process) -> None:
    with pytest.raises(NotReady, match="ended with code 3; its last words: chatter on stdout"):
        asked.call("probe:die", {"code": 3}, seconds=60)
    assert asked.call("probe:echo", {"again": True}, seconds=60)[0] == {"again": True}
    assert asked.pid is not None
    os.kill(asked.pid, signal.SIGKILL)
    with pytest.raises(NotReady, match="was ended by SIGKILL, perhaps for lack of memory"):
        asked.call("probe:echo", {}, seconds=60)


def test_one_that_takes_too_long_is_ended(asked: Process) -> None:
    asked.call("probe:echo", {}, seconds=60)
    pid = asked.pid
    with pytest.raises(TooLate, match=r"did not answer within 0\.2 s, and was ended"):
        asked.call("probe:sleep", {"seconds": 600}, seconds=0.2)
    assert pid is not None
    until(lambda: not alive(pid), 60)


def test_threads_take_turns(asked: Process) -> None:
    found: dict[int, object] = {}

    def ask(number: int) -> None:
        found[number] = asked.call("probe:echo", {"number": number}, seconds=60)[0]

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {n: {"number": n} for n in range(8)}


def test_closing_twice_is_harmless(asked: Process) -> None:
    asked.call("probe:echo", {}, seconds=60)
    pid = asked.pid
    asked.close()
    asked.close()
    assert asked.pid is None
    assert pid is not None
    until(lambda: not alive(pid), 60)


PARENT = """
import sys, time
from pathlib import Path
from modelkeep.environments import process
process.PACKAGE = Path(sys.argv[1])
made = process.Process(Path(sys.executable), {})
made.call("probe:echo", {}, seconds=60)
print(made.pid, flush=True)
made.call("probe:sleep", {"seconds": 600}, seconds=600)
"""


@pytest.mark.usefixtures("asked")
def test_it_dies_with_its_parent_even_while_busy() -> None:
    command = [sys.executable, "-c", PARENT, str(processes.PACKAGE)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
    until(lambda: not alive(pid), 60)
