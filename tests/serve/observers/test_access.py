"""The access log: a line for every request with its id, bounded in bytes, and never in the way of an answer."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest

from modelkeep.errors import BadSettings
from modelkeep.serve.observers import access
from modelkeep.serve.observers.access import AccessLog
from modelkeep.serve.plane.plane import Told
from modelkeep.serve.server import Running
from modelkeep.settings import Settings
from modelkeep.types import Request
from tests import waiting

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def told(number: int = 0, **changes: Any) -> Told:
    given: dict[str, Any] = {"at": 1.0, "version": 2, "track": "live", "outcome": "ok", "seconds": 0.5}
    given |= {"timings": {"queue": 0.1, "compute": 0.2}, "why": ""} | changes
    return Told(Request(f"id-{number}", "m", {"x": np.zeros((1, 3))}), **given)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.read_text().splitlines()]


def test_a_line_for_every_request_whatever_came_of_it(tmp_path: Path, fakes: SimpleNamespace) -> None:
    path = tmp_path / "logs" / "access.jsonl"
    with (
        Running({"m": fakes.Fake()}, settings=Settings(access_log=str(path))) as url,
        httpx.Client(base_url=url, timeout=20) as client,
    ):
        for value, datatype in ((1.0, "FP32"), (fakes.POISON, "FP32"), (1, "INT64")):
            tensor = {"name": "x", "shape": [1, 2], "datatype": datatype, "data": [value] * 2}
            body = {"id": f"of {value:g} {datatype}", "inputs": [tensor]}
            client.post("/v2/models/m/infer", json=body, headers={"traceparent": TRACE})
    found = {row["id"]: row for row in lines(path)}
    assert [row["outcome"] for row in found.values()] == ["ok", "error", "bad_input"]
    ok, failed = found["of 1 FP32"], found["of 666 FP32"]
    assert (ok["model"], ok["version"], ok["track"], ok["shapes"], ok["trace"]) == (
        "m",
        1,
        "live",
        {"x": [1, 2]},
        TRACE,
    )
    assert 0 < ok["compute"] <= ok["seconds"]
    assert "error" not in ok
    assert "poison" in failed["error"]
    assert "data" not in json.dumps(list(found.values()))


def test_it_begins_anew_when_it_is_full_and_keeps_few(tmp_path: Path) -> None:
    log = AccessLog(str(tmp_path / "a.jsonl"), max_bytes=2000)
    for number in range(200):
        log(told(number))
    log.close()
    files = sorted(p.name for p in tmp_path.iterdir())
    assert files == ["a.jsonl", "a.jsonl.1", "a.jsonl.2", "a.jsonl.3"]
    assert all(p.stat().st_size <= 2000 for p in tmp_path.iterdir())
    assert lines(tmp_path / "a.jsonl")[-1]["id"] == "id-199"
    assert log.dropped == 0


@pytest.mark.parametrize("how", ["moved", "removed"])
def test_a_file_that_somebody_takes_away_is_begun_anew(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As logrotate does. All that followed went into the file that nobody sees any more."""
    monkeypatch.setattr(access, "LOOK_AGAIN", 0.0)
    path = tmp_path / "a.jsonl"
    log = AccessLog(str(path), max_bytes=10**6)
    log(told(1))
    waiting.until(lambda: path.read_text().count("\n") == 1)
    if how == "moved":
        path.rename(tmp_path / "a.jsonl-20261201")
    else:
        path.unlink()
    log(told(2))
    log.close()
    assert [line["id"] for line in lines(path)] == ["id-2"]
    assert log.dropped == 0


def test_a_stuck_disk_costs_lines_and_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "WAITING", 5)
    log = AccessLog(str(tmp_path / "a.jsonl"), max_bytes=10**6)
    stuck, entered = threading.Event(), threading.Event()

    def handle(record: Any) -> None:
        entered.set()
        assert stuck.wait(20)

    monkeypatch.setattr(log._handler, "handle", handle)
    log(told())
    assert entered.wait(20)
    for number in range(20):
        log(told(number))
    assert log.dropped == 15
    stuck.set()
    log.close()


def test_a_full_disk_is_counted_and_says_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = AccessLog("/dev/full", max_bytes=0)
    for number in range(3):
        log(told(number))
    log.close()
    assert log.dropped >= 3
    assert capsys.readouterr().err == ""


def test_a_file_that_cannot_be_written_is_told_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadSettings, match="give another file"):
        AccessLog(str(tmp_path / "file" / "a.jsonl"), 1000)
