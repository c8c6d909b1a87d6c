"""A real service of two versions behind keys, with traffic, watched by a real Prometheus and Alertmanager."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from modelkeep import Keep
from modelkeep.client import Client
from modelkeep.data.dataset import Dataset
from modelkeep.monitor.prometheus import run, write
from modelkeep.monitor.prometheus.plan import Plan
from modelkeep.serve.protocol.keys import Ring
from modelkeep.settings import Settings

QUICK = {
    "scrape_interval: 10s": "scrape_interval: 1s",
    "interval: 30s": "interval: 1s",
    "group_wait: 10s": "group_wait: 0s",
    "group_interval: 1m": "group_interval: 1s",
}
"""What the test does not wait for; everything else is as it was written."""
NVML = '''
"""A stand-in for NVML: one GPU, on which every process below this one runs."""
import os, pathlib, time, types


class NVMLError(Exception):
    pass


def _children():
    tasks = pathlib.Path(f"/proc/{os.getpid()}/task").iterdir()
    return [int(pid) for task in tasks for pid in (task / "children").read_text().split()]


nvmlInit = lambda: None
nvmlDeviceGetCount = lambda: 1
nvmlDeviceGetHandleByIndex = lambda index: index
nvmlDeviceGetName = lambda handle: "No GPU"
nvmlDeviceGetMemoryInfo = lambda handle: types.SimpleNamespace(total=80_000, used=9_000)
nvmlDeviceGetUtilizationRates = lambda handle: types.SimpleNamespace(gpu=40)
nvmlDeviceGetTotalEnergyConsumption = lambda handle: int(time.time() * 300_000)
nvmlDeviceGetComputeRunningProcesses = lambda handle: [
    types.SimpleNamespace(pid=pid, usedGpuMemory=1_000) for pid in _children()
]
'''
"""The service believes that it has a GPU, so that the panels of one have something to show."""


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture(name="free_port")
def _free_port() -> Callable[[], int]:
    return free_port


@dataclass
class Watched:
    """The service's address and home, Prometheus' address, and what was asked."""

    url: str
    key: str
    settings: Settings
    prometheus: str
    rows: Dataset
    stop: threading.Event = field(default_factory=threading.Event)
    late: threading.Event = field(default_factory=threading.Event)
    """While it is set, requests are sent that come too late."""

    def query(self, expr: str) -> list[dict[str, Any]]:
        """What Prometheus answers to an instant query."""
        found = self._get("query", query=expr)
        return found["result"] if found["resultType"] != "scalar" else [found]

    def values(self, selector: str, label: str) -> list[str]:
        """The values of a label."""
        return self._get(f"label/{label}/values", **{"match[]": selector})

    def _get(self, what: str, **given: str) -> Any:
        url = f"{self.prometheus}/api/v1/{what}?{urllib.parse.urlencode(given)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]

    def send(self) -> None:
        """Traffic until ``stop``: some requests get labels, and while ``late`` is set some come too late."""
        client, at = Client(self.url, key=self.key), 0
        headers = {"authorization": f"Bearer {self.key}", "x-modelkeep-timeout": "0.0000001"}
        tensor = {"name": "pixels", "datatype": "FP32", "shape": [1, 64], "data": [0.0] * 64}
        while not self.stop.wait(0.02):
            index = np.arange(at, at + 4) % len(self.rows)
            reply = client.infer("digits", {"pixels": self.rows.inputs["pixels"][index]})
            assert self.rows.labels is not None
            client.label("digits", {reply.id: self.rows.labels[index].tolist()})
            at += 4
            if self.late.is_set():
                httpx.post(f"{self.url}/v2/models/digits/infer", headers=headers, json={"inputs": [tensor]}, timeout=20)


@pytest.fixture(scope="module")
def watched(
    make_model: Callable[..., Any], digits: tuple[Dataset, Dataset], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    settings = Settings(home=folder / ".modelkeep")
    _registry(settings, make_model(folder / "model").path / "model.onnx", digits[0])
    key = Ring(settings.keys_file).add("prometheus", ("infer", "read", "admin"))
    (folder / "key").write_text(key)
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(_served(folder))
        plan = Plan(
            (url,),
            key_file=str(folder / "key"),
            prometheus=f"127.0.0.1:{free_port()}",
            alertmanager=f"127.0.0.1:{free_port()}",
        )
        for path in write.write(folder / "to", plan):
            _hurry(path)
        up = stack.enter_context(run.Up(folder / "to"))
        found = Watched(url, key, settings, up.urls["prometheus"], digits[1])
        sender = threading.Thread(target=found.send, daemon=True)
        sender.start()
        stack.callback(sender.join)
        stack.callback(found.stop.set)
        yield found


def _registry(settings: Settings, file: Path, rows: Dataset) -> None:
    """digits@1 live, digits@2 its canary with half of the traffic, digits@3 its shadow: the same but for a note."""
    import onnx

    with Keep(settings) as keep:
        for number in (1, 2, 3):
            model = onnx.load(file)
            model.doc_string = f"number {number}"
            onnx.save(model, file)
            keep.add(file, "digits", data=rows)
        route = keep.promote("digits@1")
        keep.registry.set_route(replace(route, canary=2, weight=0.5, shadow=3), why="for a test")


@contextlib.contextmanager
def _served(folder: Path) -> Iterator[str]:
    (folder / "stand-in").mkdir()
    (folder / "stand-in" / "pynvml.py").write_text(NVML)
    child = subprocess.Popen(
        [sys.executable, "-m", "modelkeep", "serve", "digits", "--port", "0", "--cache", "1mb"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=(folder / "serve.log").open("wb"),
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(folder / "stand-in")},
    )
    try:
        assert child.stdout is not None
        said = next((line for line in child.stdout if " on http" in line), "")
        address = re.search(r"http://\S+", said)
        assert address, (folder / "serve.log").read_text()
        yield address[0]
    finally:
        child.send_signal(signal.SIGTERM)
        child.communicate(timeout=30)


def _hurry(path: Path) -> None:
    if path.suffix == ".yml":
        text = path.read_text()
        for slow, quick in QUICK.items():
            text = text.replace(slow, quick)
        path.write_text(text)
