"""modelkeep monitor REF, as a person reads it, as a machine does, and as a page."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelkeep.cli import main
from modelkeep.cli.monitor import _show
from modelkeep.data.traffic import Exchange, TrafficLog
from modelkeep.errors import Damaged
from modelkeep.keep import Keep
from modelkeep.model import folder
from modelkeep.monitor.look import Checked
from modelkeep.registry import Registry
from modelkeep.settings import Settings
from modelkeep.types import Finding, Model, Signature, TensorSpec

TOLD = ("--webhook", "http://127.0.0.1:9/")


@pytest.fixture(autouse=True)
def answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry with digits@1, which was asked 200 times a minute ago."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(b"1")
    signature = Signature((TensorSpec("x", "float32", (None, 4)),), (TensorSpec("y", "float32", (None, 3)),))
    folder.write(Model(tmp_path / "model", "onnx", signature, ("weights",)))
    with Keep(Settings()) as keep:
        keep.registry.add("digits", tmp_path / "model", made_by="hand", who="test")
        log = TrafficLog(keep.traffic, rate=1e9)
    for at in range(200):
        inputs = {"x": np.zeros((1, 4), np.float32)}
        log.offer(Exchange(f"r{at}", time.time() - 60 + at / 10, "digits", 1, "live", "ok", 0.3, inputs))
    log.close()


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["monitor", "digits@1", *words])
    return int(ended.value.code or 0), *capsys.readouterr()


def test_nothing_found_is_0(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys)
    assert code == 0
    assert out.startswith("digits@1, 200 requests captured: nothing found\n")
    assert "drift is not judged: the version keeps no reference rows" in out


def test_what_the_service_found_by_other_limits_is_told_too(capsys: pytest.CaptureFixture[str]) -> None:
    with Keep(Settings(), who="monitor") as service:
        assert [f.subject for f in service.monitor("digits@1", silence=1.0).findings] == ["traffic"]
    code, out, _ = call(capsys)
    assert code == 0, "by the limits of this look"
    assert "no-data of traffic is still open, as monitor found" in out
    assert "where 1 s may pass" in out
    (note,) = [note for note in json.loads(call(capsys, "--json")[1])["notes"] if "still open" in note]
    assert note in out

    code, out, _ = call(capsys, "--silence", "1s")
    assert code == 1
    assert "still open" not in out, "it is found anew"
    with Keep(Settings(), who="monitor") as service:
        service.monitor("digits@1", silence=1e9)
    call(capsys, "--silence", "1000h")
    assert "still open" in call(capsys)[1], "whose limits were others"


def test_one_request_is_no_more_than_one(capsys: pytest.CaptureFixture[str]) -> None:
    once = Checked("digits@1", 1, None, ())
    assert once.describe() == "digits@1, 1 request captured: nothing found"
    _show(once)
    _show(replace(once, findings=(Finding("health", "errors", "it failed", {}),)))
    assert "1 requests" not in (out := capsys.readouterr().out)
    assert out.count("digits@1, 1 request") == 2


def test_findings_are_a_table_and_1(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "--p99", "100ms")
    assert code == 1
    assert "latency" in out
    assert "what was found" in out
    assert "of the answers took longer than 0.1 s" in " ".join(out.split())


@pytest.mark.parametrize(("words", "told"), [((), "this look is not kept in the journal: "), (TOLD, ", nor told: ")])
def test_what_was_found_is_told_where_it_cannot_be_kept(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], told: str
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise Damaged("the registry can only be read here")

    monkeypatch.setattr(Registry, "note_unless", refuse)
    code, out, err = call(capsys, "--p99", "100ms", *words)
    assert (code, err) == (1, "")
    assert "of the answers took longer than 0.1 s" in " ".join(out.split())
    assert out.endswith(f"{told}the registry can only be read here\n")


@pytest.mark.parametrize("file", ["traffic.db", "profiles.db", "pulses.db", "registry.db"])
def test_damage_is_1_wherever_it_is(capsys: pytest.CaptureFixture[str], file: str) -> None:
    Path(".modelkeep", file).write_bytes(b"no database " * 500)
    code, out, err = call(capsys)
    assert (code, out) == (1, "")
    assert f"{file} is not a " in err


def test_a_machine_gets_json(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "--p99", "100ms", "--json")
    assert code == 1
    told = json.loads(out)
    assert [f["subject"] for f in told["findings"]] == ["latency"]
    assert told["numbers"]["health"]["p99"] == pytest.approx(0.3)
    assert told["plots"] == {}


def test_a_page_is_one_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = call(capsys, "--p99", "100ms", "--html", "page.html")
    assert code == 1
    assert "latency" in out
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    assert "of the answers took longer than 0.1 s" in text
    assert "<svg" in text


def test_a_page_that_cannot_be_written_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "--html", "gone/page.html")
    assert code == 2
    assert "the page cannot be written to gone/page.html: No such file or directory" in err


def test_silence_and_a_service_level(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "--silence", "10s", "--slo", "99.9%")
    assert code == 1
    assert "no request has come for" in " ".join(out.split())
    assert "of the error budget is left" in out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--alertmanager", "nowhere"), "the Alertmanager 'nowhere' is no http:// or https:// address"),
        (("--slo", "100%"), "slo is 1.0; give a share from 0 up to, but not, 1"),
        (("--max-error", "0"), "0.0 is not in the range x>0"),
        (("--silence", "0"), "it must be more than 0"),
    ],
)
def test_wrong_use_is_one_sentence(capsys: pytest.CaptureFixture[str], words: tuple[str, str], says: str) -> None:
    code, _, err = call(capsys, *words)
    assert code == 2
    assert says in err
