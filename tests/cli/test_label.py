"""modelkeep label, as a person reads it and as a machine does."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from modelkeep.cli import main
from modelkeep.data.traffic import Exchange, TrafficLog
from modelkeep.keep import Keep
from modelkeep.model import folder
from modelkeep.settings import Settings
from modelkeep.types import Model, Signature, TensorSpec


@pytest.fixture(autouse=True)
def answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry with digits@1, which answered a, b, c and d a minute ago."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(b"1")
    signature = Signature((TensorSpec("x", "float32", (None, 4)),), (TensorSpec("y", "float32", (None, 3)),))
    folder.write(Model(tmp_path / "model", "onnx", signature, ("weights",)))
    with Keep(Settings()) as keep:
        keep.registry.add("digits", tmp_path / "model", made_by="hand", who="test")
        log = TrafficLog(keep.traffic)
    for name in "abcd":
        log.offer(Exchange(name, time.time() - 60, "digits", 1, "live", "ok", 0.01))
    log.close()


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main(["label", *words])
    return int(ended.value.code or 0), capsys.readouterr().out


def test_what_became_of_them_and_how_late_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "truth.csv").write_text("id,label\na,1\nb,2\nb,3\nnobody,4\n")
    code, out = call(capsys, "digits", "truth.csv")
    assert code == 0
    assert out.splitlines()[:4] == [
        "3 labels: 3 new, 0 changed, 0 known already",
        "1 row with an id that comes again further down, where the label counts",
        "2 met a captured request",
        "1 met none (nobody): never asked here, not captured (above capture_rate a share is), or gone since",
    ]
    assert "2 of 4 captured answers since 20" in out
    assert "got a label: 50.0%" in out
    assert "labels come 60" in out
    (tmp_path / "truth.csv").write_text("id,label\na,1\nb,2\n")
    assert "2 labels: 0 new, 1 changed, 1 known already" in call(capsys, "digits", "truth.csv")[1]


def test_for_a_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "truth").write_text('{"id": "a", "label": [1]}\n{"id": "x", "label": 2}\n')
    code, out = call(capsys, "digits", "truth", "--json")
    found = json.loads(out)
    assert code == 0
    assert {key: found[key] for key in ("labels", "new", "changed", "matched", "unmatched", "repeated")} == {
        "labels": 2,
        "new": 2,
        "changed": 0,
        "matched": 1,
        "unmatched": 1,
        "repeated": 0,
    }
    assert found["lag"]["coverage"] == 0.25
    assert 55 < found["lag"]["median"] < 120


def test_without_a_file_it_says_how_things_are(capsys: pytest.CaptureFixture[str]) -> None:
    code, out = call(capsys, "digits")
    assert code == 0
    assert out.startswith("0 of 4 captured answers since 20")
    assert "labels come" not in out
    assert "new" not in json.loads(call(capsys, "digits", "--json")[1])


def test_a_name_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "nobody")[0] == 2
