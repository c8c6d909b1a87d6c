"""Prometheus and Alertmanager as processes of ours: started on loopback, watched, and ended with us."""

from __future__ import annotations

import contextlib
import ctypes
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from http.client import HTTPException
from pathlib import Path
from types import TracebackType

from modelkeep.errors import BadSettings, Damaged, NotFound, PortInUse
from modelkeep.monitor.prometheus import plan
from modelkeep.monitor.prometheus.plan import Plan

PROGRAMS = {"prometheus": ("prometheus",), "alertmanager": ("prometheus-alertmanager", "alertmanager")}
"""By what it is: the names of its program; Debian's first."""
INSTALL = (
    "on Debian and Ubuntu: apt-get install prometheus prometheus-alertmanager (RUNLEVEL=1 before it keeps them from "
    "being started as services); elsewhere: prometheus.io/download"
)
RETENTION = "32d"
"""Error budgets are for 30 days."""
READY = 30.0
"""Seconds that a program may take until it answers."""
GRACE = 10.0
"""Seconds that it may take to end by itself."""
PR_SET_PDEATHSIG = 1


class Up:
    """Both programs on the files of a folder that ``write`` wrote: ``with Up(folder) as up: up.wait()``.

    Raises NotFound where a program or the folder is missing, PortInUse, and Damaged with the end of its log where one
    does not start.
    """

    def __init__(self, folder: Path) -> None:
        file = folder / plan.FILE
        if not file.is_file():
            raise NotFound(f"{folder} was not written by modelkeep; first: modelkeep monitor setup {folder}")
        self.folder, self.plan = folder.absolute(), Plan.from_json(file.read_text(encoding="utf-8"))
        self.urls = {name: f"http://{getattr(self.plan, name)}" for name in PROGRAMS}
        self._programs = {name: find(name) for name in PROGRAMS}
        for name in PROGRAMS:
            _free(getattr(self.plan, name), name)
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Up:
        try:
            for name in PROGRAMS:
                self._start(name)
            for name in PROGRAMS:
                self._await(name)
        except BaseException:  # a signal too: nothing may be left running; it is raised again
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def wait(self, pause: Callable[[float], object] = time.sleep) -> None:
        """Until one of them ends, which raises Damaged; or until a signal ends the wait."""
        while True:
            self._check()
            pause(0.5)

    def close(self) -> None:
        """End both, by asking first. Calling it twice is harmless."""
        for process in self._running.values():
            process.terminate()
        until = time.monotonic() + GRACE
        for process in self._running.values():
            try:
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def log(self, name: str) -> Path:
        """What it says."""
        return self.folder / "data" / f"{name}.log"

    def _start(self, name: str) -> None:
        data = self.folder / "data" / name
        try:
            data.mkdir(parents=True, exist_ok=True)
            log = self.log(name).open("wb")
        except OSError as error:
            raise BadSettings(f"{self.folder} cannot be written ({error.strerror}); give another folder") from error
        with log:
            self._running[name] = subprocess.Popen(
                [self._programs[name], *self._flags(name, data)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                process_group=0,  # Ctrl-C reaches only us, and we end them in order
                preexec_fn=_die_with_us if sys.platform == "linux" else None,
            )

    def _flags(self, name: str, data: Path) -> list[str]:
        address = getattr(self.plan, name)
        if name == "alertmanager":
            return [
                "--config.file=alertmanager.yml",
                f"--storage.path={data}",
                f"--web.listen-address={address}",
                "--cluster.listen-address=",  # or it would listen for others on all addresses
            ]
        return [
            "--config.file=prometheus.yml",
            f"--storage.tsdb.path={data}",
            f"--storage.tsdb.retention.time={RETENTION}",
            f"--web.listen-address={address}",
        ]

    def _await(self, name: str) -> None:
        until = time.monotonic() + READY
        while not _answers(f"{self.urls[name]}/-/ready"):
            self._check()
            if time.monotonic() > until:
                raise Damaged(f"{name} does not answer after {READY:g} s; its log: {self.log(name)}")
            time.sleep(0.05)

    def _check(self) -> None:
        """Raises Damaged where one has ended."""
        for name, process in self._running.items():
            if (code := process.poll()) is None:
                continue
            said = self.log(name).read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]
            raise Damaged(f"{name} ended with code {code}: {' | '.join(said) or 'it said nothing'}")


def find(name: str) -> str:
    """The path of one of PROGRAMS. Raises NotFound that says how it is installed."""
    for program in PROGRAMS[name]:
        if path := shutil.which(program):
            return path
    raise NotFound(f"{name} is not installed; {INSTALL}")


def _free(address: str, name: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(where)
    except OSError as error:
        raise PortInUse(
            f"{name} cannot listen on {address} ({error.strerror}); set up another address: modelkeep monitor setup "
            f"DIR --{name} 127.0.0.1:PORT"
        ) from None


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2.0) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError, HTTPException):
        return False


def _die_with_us() -> None:
    """Linux tells the program to end where we are killed ourselves (prctl(2), PR_SET_PDEATHSIG)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def links(up: Up) -> Sequence[tuple[str, str]]:
    """What a person opens in a browser."""
    return (
        ("Prometheus", up.urls["prometheus"]),
        ("its alerts", f"{up.urls['prometheus']}/alerts"),
        ("Alertmanager", up.urls["alertmanager"]),
    )
