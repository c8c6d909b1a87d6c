"""Prometheus and Alertmanager as our processes: what is missing is said; none is left running, whatever ends us."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from modelkeep.errors import Damaged, NotFound, PortInUse
from modelkeep.monitor.prometheus import run, write
from modelkeep.monitor.prometheus.plan import Plan
from tests.waiting import alive, until

MISSING = [name for name, names in run.PROGRAMS.items() if not any(map(shutil.which, names))]
real = [
    pytest.mark.prometheus,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} ({run.INSTALL})"),
]


def port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    plan = Plan(prometheus=f"127.0.0.1:{port()}", alertmanager=f"127.0.0.1:{port()}")
    write.write(tmp_path / "to", plan)
    return tmp_path / "to"


@pytest.fixture
def pretend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Both programs are this shell script."""

    def make(script: str) -> None:
        (tmp_path / "bin").mkdir()
        for names in run.PROGRAMS.values():
            (program := tmp_path / "bin" / names[0]).write_text(f"#!/bin/sh\n{script}\n")
            program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}/bin{os.pathsep}/usr/bin")

    return make


def test_a_folder_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="first: modelkeep monitor setup"):
        run.Up(tmp_path)


def test_what_is_not_installed_is_said_with_how_to_install_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(NotFound, match="prometheus is not installed; on Debian and Ubuntu: apt-get install prometheus"):
        run.Up(folder)


def test_a_port_that_is_taken_is_said(folder: Path, pretend: Callable[[str], None]) -> None:
    pretend("sleep 60")
    plan = Plan.from_json((folder / "setup.json").read_text())
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", int(plan.alertmanager.rpartition(":")[2])))
        sock.listen()
        with pytest.raises(PortInUse, match=r"alertmanager cannot listen on .* --alertmanager 127\.0\.0\.1:PORT"):
            run.Up(folder)


def test_one_that_does_not_start_says_why_and_takes_the_other_with_it(
    folder: Path, pretend: Callable[[str], None], tmp_path: Path
) -> None:
    pretend(f'case "$0" in *alertmanager) echo "no such flag"; exit 3;; esac; echo $$ > {tmp_path}/pid; exec sleep 60')
    with pytest.raises(Damaged, match="alertmanager ended with code 3: no such flag"), run.Up(folder):
        pass
    if (tmp_path / "pid").exists():  # unless it was ended before it could say so
        assert not alive(int((tmp_path / "pid").read_text()))


def test_one_that_does_not_want_to_end_is_ended(
    folder: Path, pretend: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend("trap '' TERM; echo here; while :; do sleep 0.1; done")
    monkeypatch.setattr(run, "GRACE", 0.2)
    monkeypatch.setattr(run, "READY", 0.5)
    up = run.Up(folder)
    with pytest.raises(Damaged, match=r"prometheus does not answer after 0\.5 s"), up:
        pass
    assert all(process.poll() is not None for process in up._running.values())


class TestReal:
    pytestmark = real

    def test_both_answer_on_loopback_and_end_with_us(self, folder: Path) -> None:
        with run.Up(folder) as up:
            pids = [process.pid for process in up._running.values()]
            for name, path in (("prometheus", "api/v1/rules"), ("alertmanager", "api/v2/status")):
                with urllib.request.urlopen(f"{up.urls[name]}/{path}", timeout=10) as answer:
                    assert json.load(answer)
            assert listening(pids) == {getattr(up.plan, name) for name in run.PROGRAMS}
            os.kill(pids[0], signal.SIGKILL)
            with pytest.raises(Damaged, match="prometheus ended with code -9"):
                up.wait()
        assert not any(map(alive, pids))

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
    def test_the_verb_leaves_none_behind(self, folder: Path, number: signal.Signals) -> None:
        verb = subprocess.Popen(
            [sys.executable, "-m", "modelkeep", "monitor", "up", str(folder), "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert verb.stdout is not None
        while (line := verb.stdout.readline()) and line != "}\n":
            pass
        assert line, verb.stderr and verb.stderr.read()
        pids = children(verb.pid)
        assert len(pids) == 2
        verb.send_signal(number)
        _, said = verb.communicate(timeout=120)
        assert "Traceback" not in said
        assert verb.returncode == (-9 if number == signal.SIGKILL else 130)
        until(lambda: not any(map(alive, pids)))


def listening(pids: list[int]) -> set[str]:
    """Every address that these processes listen on, be it one that nobody asked for."""
    files = [file for pid in pids for file in Path(f"/proc/{pid}/fd").iterdir()]
    mine = {os.readlink(file).removeprefix("socket:[").rstrip("]") for file in files}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            address, port = fields[1].split(":")
            if fields[3] == "0A" and fields[9] in mine:  # LISTEN
                host = socket.inet_ntoa(bytes.fromhex(address)[::-1]) if table == "tcp" else address
                found.add(f"{host}:{int(port, 16)}")
    return found


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
