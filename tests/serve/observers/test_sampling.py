"""A server that samples its traffic: what is in the files, and that no trouble of theirs reaches an answer."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from modelkeep.data import sample, sample_files
from modelkeep.data.masks import Masks
from modelkeep.errors import BadSettings, MissingExtra
from modelkeep.serve.observers import sampling
from modelkeep.serve.plane.router import STICKY
from modelkeep.serve.server import Running
from modelkeep.settings import Settings

pytest.importorskip("pyarrow")
Serve = Callable[..., tuple[httpx.Client, Running]]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(sample, "CPU", 1e9)  # or, on a slow machine, it would take fewer than are asked
    return Settings(home=tmp_path / "home", sample=str(tmp_path / "sample"), sample_share=1.0)


@pytest.fixture
def serve(fakes: SimpleNamespace) -> Iterator[Serve]:
    with contextlib.ExitStack() as stack:

        def begin(settings: Settings, traffic: Path | None = None) -> tuple[httpx.Client, Running]:
            running = Running({"m": fakes.Fake(add=1.0)}, settings=settings, traffic=traffic)
            url = stack.enter_context(running)
            return stack.enter_context(httpx.Client(base_url=url, timeout=20)), running

        yield begin


def ask(client: httpx.Client, value: float = 1.0, **head: Any) -> int:
    tensor = {"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [value]}
    headers = {STICKY: "ann"}
    return client.post("/v2/models/m/infer", json={"inputs": [tensor], **head}, headers=headers).status_code


def test_requests_and_replies_are_in_the_files_once_it_has_ended(
    serve: Serve, settings: Settings, tmp_path: Path
) -> None:
    client, running = serve(settings, tmp_path / "traffic.db")
    assert ask(client, 5.0, id="mine", parameters={"t": 1}) == 200
    running.stop()
    (found,) = sample.read(tmp_path / "sample")
    assert (found.id, found.model, found.version, found.outcome) == ("mine", "m", 1, "ok")
    assert found.parameters == {"t": 1}, "who asked is not kept"
    assert found.inputs is not None
    assert found.outputs is not None
    assert (found.inputs["x"].tolist(), found.outputs["y"].tolist()) == ([[5.0]], [[6.0]])


def test_masked_fields_are_not(serve: Serve, settings: Settings, tmp_path: Path) -> None:
    client, running = serve(replace(settings, sample_mask="output.*, hash:request.id, parameter.t"))
    assert ask(client, 5.0, id="mine", parameters={"t": 1}) == 200
    running.stop()
    (found,) = sample.read(tmp_path / "sample")
    assert found.outputs is None
    assert found.parameters == {}
    assert len(found.id) == 32
    assert (settings.home / "sample.key").exists()


def test_a_mask_that_fits_nothing_served_is_refused_at_the_start(serve: Serve, settings: Settings) -> None:
    said = "sample_mask emial fits nothing that is served: there is input.x, output.y; a parameter is masked as"
    with pytest.raises(BadSettings, match=said):
        serve(replace(settings, sample_mask="x, emial"))


def test_fields_of_a_model_that_is_not_loaded_may_have_any_name(serve: Serve, settings: Settings) -> None:
    _, running = serve(settings)
    sampling.check(running.plane, Masks("x"))
    running.plane.expect("later")
    sampling.check(running.plane, Masks("email"))


def test_a_stuck_disk_costs_no_answer_and_is_counted(
    serve: Serve, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck, go_on = threading.Event(), threading.Event()

    def hold(*_: Any) -> None:
        stuck.set()
        go_on.wait(20)

    monkeypatch.setattr(sample_files, "store", hold)
    monkeypatch.setattr(sample, "FILE_ROWS", 1)
    monkeypatch.setattr(sample, "WAITING_ROWS", 5)
    client, _ = serve(settings)
    assert ask(client) == 200
    assert stuck.wait(20)
    assert [ask(client) for _ in range(20)] == [200] * 20
    text = client.get("/metrics").text
    go_on.set()
    assert 'modelkeep_monitor_dropped_total{sink="sample"} 15.0' in text
    assert "modelkeep_sample_share_ratio 1.0" in text


def test_the_share_follows_the_settings(serve: Serve, settings: Settings) -> None:
    _, running = serve(settings)
    running.service.reread = lambda: replace(settings, sample_share=0.25)
    running.call(running.service.again())
    assert running.plane.metrics.value("modelkeep_sample_share_ratio") == 0.25


def test_it_says_at_the_start_what_is_missing(
    serve: Serve, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadSettings, match="masks no field"):
        serve(replace(settings, sample_mask="two words"))
    (tmp_path / "file").write_text("")
    with pytest.raises(BadSettings, match="give another with --sample"):
        serve(replace(settings, sample=str(tmp_path / "file" / "sample")))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match=r"modelkeep\[sample\]"):
        serve(settings)
