"""Where a verb's words go when nobody reads them, there is no room for them, or they are stopped half-way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = "import sys; from modelkeep import cli; sys.argv[0] = 'modelkeep'; {before}; cli.script()"


def command(*words: str, before: str = "pass") -> list[str]:
    return [sys.executable, "-c", SCRIPT.format(before=before), *words]


def unread(folder: Path, *words: str, before: str = "pass") -> tuple[int, str]:
    """Exit code and stderr of a verb whose stdout is a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            command(*words, before=before), stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60, cwd=folder
        )
    finally:
        os.close(writer)
    return done.returncode, done.stderr


VERDICT = (
    "from modelkeep.cli import journal, output; "
    "said = lambda *_: [output.say('a'), output.table('t', ['x'], [['y']]), output.dump([])]; "
    "journal.journal.callback = lambda **_: said() and {code}"
)


@pytest.mark.parametrize("code", [0, 1])
def test_a_pipe_that_nobody_reads_leaves_the_verdict_as_it_is(code: int, tmp_path: Path) -> None:
    assert unread(tmp_path, "journal", before=VERDICT.format(code=code)) == (code, "")


@pytest.mark.parametrize("words", [["list"], ["journal", "--json"], ["doctor"], ["show", "gone", "--json"]])
def test_a_pipe_that_nobody_reads_is_no_traceback(words: list[str], tmp_path: Path) -> None:
    code, err = unread(tmp_path, *words)
    assert code == (2 if "gone" in words else 0)
    assert "Traceback" not in err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("words", [["journal", "--json"], ["list"], ["show", "gone", "--json"]])
def test_a_stdout_without_room_is_one_sentence(words: list[str], tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command(*words), stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, cwd=tmp_path, check=False
        )
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("modelkeep: ")]
    assert "No space left on device" in line or "no model is called 'gone'" in line
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_streams_that_were_closed_are_done_without(closed: str, tmp_path: Path) -> None:
    before = VERDICT.format(code=0) + f"; sys.{closed} = None"
    done = subprocess.run(command("journal", before=before), capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert (done.stdout == "") is (closed == "stdout")


def test_a_verb_that_is_stopped_ends_at_once(tmp_path: Path) -> None:
    """An orderly end would wait for what other threads do, and native libraries would tell of all they still hold."""
    before = (
        "import atexit, os, signal, threading; from modelkeep.cli import journal; "
        "atexit.register(print, 'an orderly end'); "
        f"journal.journal.callback = lambda **_: os.kill(os.getpid(), {int(signal.SIGINT)})"
    )
    done = subprocess.run(command("journal", before=before), capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == 130
    assert (done.stdout, done.stderr.strip()) == ("", "modelkeep: stopped")
