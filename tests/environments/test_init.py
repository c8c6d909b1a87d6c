"""An environment is made once, whole or not at all, and every reason against it is one sentence."""

from __future__ import annotations

import base64
import hashlib
import os
import signal
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from modelkeep import environments
from modelkeep.environments import ENVIRONMENTS, Environment, install
from modelkeep.errors import MissingExtra, NotFound, StorageFull, Unsupported

HERE = sys.version_info[:2]


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    """An environment whose lock pins one wheel of one line, found in a folder by the person's own pip settings."""
    wheel(tmp_path / "wheels")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    lock = tmp_path / "tiny.lock"
    lock.write_text("# one\ntinything==1.0\n")
    made = Environment("tiny", "Tinything", lock, (HERE,), size=1, download=1)
    monkeypatch.setitem(ENVIRONMENTS, "tiny", made)
    return made


def wheel(into: Path) -> None:
    into.mkdir()
    files = {
        "tinything.py": b"ANSWER = 42\n",
        "tinything-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: tinything\nVersion: 1.0\n",
        "tinything-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(into / "tinything-1.0-py3-none-any.whl", "w") as archive:
        record = ""
        for name, content in files.items():
            archive.writestr(name, content)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            record += f"{name},sha256={digest},{len(content)}\n"
        archive.writestr("tinything-1.0.dist-info/RECORD", record + "tinything-1.0.dist-info/RECORD,,\n")


def left(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if not path.name.endswith(".lock")) if root.is_dir() else []


def test_it_is_made_once_told_beforehand_and_removed_whole(tiny: Environment, tmp_path: Path) -> None:
    root, told = tmp_path / "root", list[tuple[str, float | None]]()
    assert environments.find("tiny", root) is None
    assert environments.size("tiny", root) == 0
    python = environments.ensure("tiny", root, lambda text, share: told.append((text, share)))
    found = subprocess.run([python, "-I", "-c", "import tinything; print(tinything.ANSWER)"], capture_output=True)
    assert found.stdout == b"42\n", found.stderr
    assert str(tiny.place(root)) in told[0][0]
    assert "modelkeep doctor --remove tiny" in told[0][0]
    assert [share for _, share in told if share is not None][-1] == 1.0
    assert "ready" in told[-1][0]
    told.clear()
    assert environments.ensure("tiny", root, lambda text, share: told.append((text, share))) == python
    assert told == []
    assert environments.size("tiny", root) > 1000
    assert left(root) == [tiny.place(root).name]
    environments.remove("tiny", root)
    assert left(root) == []
    with pytest.raises(NotFound, match="there is no environment 'tiny'"):
        environments.remove("tiny", root)


def test_a_changed_lock_is_another_environment(tiny: Environment, tmp_path: Path) -> None:
    before = tiny.place(tmp_path)
    tiny.lock.write_text("tinything==1.1\n")
    assert tiny.place(tmp_path) != before


def test_what_pip_says_is_told_and_nothing_is_kept(tiny: Environment, tmp_path: Path) -> None:
    tiny.lock.write_text("tinything==2.0\n")
    with pytest.raises(MissingExtra, match=r"pip fails: .*tinything==2\.0.*; nothing was kept") as error:
        environments.ensure("tiny", tmp_path / "root", lambda *_: None)
    assert "\n" not in str(error.value)
    assert left(tmp_path / "root") == []


CHILD = """
import sys
from dataclasses import replace
from pathlib import Path
from modelkeep import environments
from modelkeep.environments import Environment, install
environments.ENVIRONMENTS["tiny"] = Environment("tiny", "T", Path(sys.argv[1]), (sys.version_info[:2],), 1, 1)
def fake(python, into, lock, tell):
    (into / "bin").mkdir(parents=True)
    print("begun", flush=True)
    sys.stdin.readline()
    (into / "bin" / "python").write_text(sys.argv[3])
install.install = fake
print("made", environments.ensure("tiny", Path(sys.argv[2]), lambda text, share: print("told", text, flush=True)))
"""


def child(tiny: Environment, root: Path, name: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, str(tiny.lock), str(root), name]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def until(process: subprocess.Popen[str], word: str) -> str:
    assert process.stdout is not None
    return next(line for line in process.stdout if word in line)


def test_killed_half_way_it_leaves_nothing_that_looks_ready(tiny: Environment, tmp_path: Path) -> None:
    root = tmp_path / "root"
    with child(tiny, root, "first") as killed:
        until(killed, "begun")
        killed.send_signal(signal.SIGKILL)
    assert len(left(root)) == 1
    assert environments.find("tiny", root) is None
    with child(tiny, root, "second") as next_one:
        assert "second" not in "".join(left(root))
        next_one.communicate("go\n", timeout=60)
    assert left(root) == [tiny.place(root).name]
    assert environments.find("tiny", root).read_text() == "second"  # type: ignore[union-attr]


def test_two_at_once_make_it_once(tiny: Environment, tmp_path: Path) -> None:
    root = tmp_path / "root"
    with child(tiny, root, "first") as first:
        until(first, "begun")
        with child(tiny, root, "second") as second:
            assert "waiting" in until(second, "waiting")
            first.communicate("go\n", timeout=60)
            output, _ = second.communicate("go\n", timeout=60)
    assert "begun" not in output
    assert environments.find("tiny", root).read_text() == "first"  # type: ignore[union-attr]


def test_a_full_disk_is_told_before_anything_is_written(
    tiny: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ENVIRONMENTS, "tiny", replace(tiny, size=10**15))
    with pytest.raises(StorageFull, match=r"needs 1000000\.0 GB and .* GB are free; nothing was kept; free some space"):
        environments.ensure("tiny", tmp_path / "root", lambda *_: None)
    assert left(tmp_path / "root") == []


def test_a_folder_that_cannot_be_made_is_told(tiny: Environment, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageFull, match=r"cannot be made at .*root: .*MODELKEEP_ENVIRONMENTS"):
        environments.ensure("tiny", tmp_path / "file" / "root", lambda *_: None)


def test_a_python_that_the_lock_does_not_know(
    tiny: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ENVIRONMENTS, "tiny", replace(tiny, pythons=((3, 4), (3, 5))))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unsupported, match=r"needs Python 3\.4, 3\.5, and this is .*so that python3\.5"):
        environments.ensure("tiny", tmp_path / "root", lambda *_: None)
    for name, code in (("python3.5", 1), ("python3.4", 0)):
        (tmp_path / name).write_text(f"#!/bin/sh\nexit {code}\n")
        (tmp_path / name).chmod(0o755)
    used = []
    monkeypatch.setattr(install, "install", lambda python, into, lock, tell: used.append(python) or into.mkdir())
    environments.ensure("tiny", tmp_path / "root", lambda *_: None)
    assert used == [tmp_path / "python3.4"]  # 3.5 is a stand-in without its Python


@pytest.mark.parametrize(
    ("output", "kind", "told"),
    [
        ("ERROR: [Errno 28] No space left on device", StorageFull, "No space left on device"),
        (
            "WARNING: NewConnectionError\nERROR: No matching distribution",
            MissingExtra,
            "no package index can be reached",
        ),
        ("The virtual environment was not created: ensurepip is not available", MissingExtra, "python3-venv"),
        ("ERROR: THESE PACKAGES DO NOT MATCH", MissingExtra, "THESE PACKAGES DO NOT MATCH"),
        ("", MissingExtra, "it was stopped"),
    ],
)
def test_each_way_to_fail_has_its_sentence(output: str, kind: type[Exception], told: str, tmp_path: Path) -> None:
    script = tmp_path / "python"
    script.write_text(f"#!/bin/sh\ncat <<'END'\n{output}\nEND\nexit 1\n")
    script.chmod(0o755)
    with pytest.raises(kind) as error:
        install.install(script, tmp_path / "into", tmp_path / "none.lock", lambda *_: None)
    assert told in str(error.value)
    assert "\n" not in str(error.value)
    assert "nothing was kept" in str(error.value)


def test_progress_is_one_line_on_a_terminal_and_none_in_a_pipe(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    environments.on_stderr("a sentence")
    environments.on_stderr("numpy==1", 0.5)
    assert capsys.readouterr().err == "a sentence\n"
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    environments.on_stderr("numpy==1", 0.5)
    environments.on_stderr("unpacked", 1.0)
    assert capsys.readouterr().err == "\r\033[K   50%  numpy==1\r\033[K  100%  unpacked\n"


def test_the_lock_of_tensorflow_pins_every_line() -> None:
    lines = [line for line in ENVIRONMENTS["tensorflow"].lock.read_text().splitlines() if not line.startswith("#")]
    assert len(lines) > 20
    assert all("==" in line for line in lines)
    assert not any(word in line for line in lines for word in ("://", "torch", "libclang"))
