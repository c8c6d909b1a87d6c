"""The console on a port of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from modelkeep.console import server
from modelkeep.errors import BadSettings, PortInUse
from modelkeep.keep import Keep
from modelkeep.serve.protocol.address import listen

Browse = Callable[[str], Any]
Start = Callable[..., str]


@pytest.fixture
def start(home: Path, tmp_path: Path) -> Iterator[Start]:
    """``start(words…)``: `modelkeep console` in a process of its own; returns its address."""
    started: list[subprocess.Popen[str]] = []

    def run(*words: str) -> str:
        process = subprocess.Popen(
            [sys.executable, "-m", "modelkeep", "console", "--port", "0", *words],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "MODELKEEP_HOME": str(home), "PYTHONUNBUFFERED": "1"},
        )
        started.append(process)
        assert process.stdout is not None
        return process.stdout.readline().split()[0]

    yield run
    for process in started:
        process.send_signal(signal.SIGTERM)
        assert (process.wait(20), process.communicate()[1]) == (0, "")


def test_it_shows_the_registry_and_ends_while_a_page_is_open(start: Start, browse: Browse, keep: Keep) -> None:
    url = start()
    browser = browse(url)
    assert "digits" in browser.get("/").text
    assert "From captured traffic." in browser.get("/models/digits").text
    assert browser.submit("/models/digits/versions/2/promote").headers["location"] == "/models/digits?done=promote"
    assert keep.registry.route("digits").live == 2
    with browser.client.stream("GET", "/live?topic=overview:") as stream:
        assert next(stream.iter_lines()) == "event: history"


def test_it_reads_a_running_service(
    start: Start, browse: Browse, serve: Callable[[], Any], tokens: Any, tmp_path: Path
) -> None:
    served = serve()
    (tmp_path / "key").write_text(tokens["look"] + "\n")
    browser = browse(start("--service", served.url, "--key-file", str(tmp_path / "key")))
    assert browser.get("/").status_code == 303, "it is behind the keys of its registry"
    browser.log_in(tokens["look"])
    with browser.client.stream("GET", "/live?topic=model:digits") as stream:
        look = next(line for line in stream.iter_lines() if line.startswith("data: {"))
    assert f"From {served.url}." in look
    assert "cannot be read" not in look


def test_wrong_use_is_said(keep: Keep) -> None:
    from dataclasses import replace

    with listen("127.0.0.1", 0) as taken:
        keep.settings = replace(keep.settings, port=taken.getsockname()[1])
        with pytest.raises(PortInUse):
            server.serve(keep)
    keep.settings = replace(keep.settings, port=0)
    with pytest.raises(BadSettings, match="is no address of a service"):
        server.serve(keep, service="localhost:8080")
    keep.settings = replace(keep.settings, host="0.0.0.0")
    with pytest.raises(BadSettings, match=r"reached from other machines .* keys --add NAME --scope read") as found:
        server.serve(keep)
    assert "--anonymous" not in str(found.value)
