"""A whole look: captured traffic of a real model in, findings and numbers out."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadSettings
from modelkeep.model import baseline
from modelkeep.monitor import captured
from modelkeep.monitor.look import check
from modelkeep.types import Model, TensorSpec, Version
from tests.monitor.look.found import Send, kinds


def test_no_traffic_is_said(version: Version, model: Model, home: Path, path: Path) -> None:
    checked = check(version, model, home)
    assert kinds(checked) == [("no-data", "traffic")]
    assert checked.n == 0
    assert "no-data of traffic: no request was captured yet" in checked.describe()
    assert not path.exists()


def test_quiet_traffic_has_no_finding(
    version: Version, model: Model, home: Path, send: Send, held_out: Callable[[int], Any]
) -> None:
    send(held_out(1500)[0])
    checked = check(version, model, home)
    assert checked.findings == ()
    assert checked.n == 1500
    assert checked.since == 1e6
    assert checked.numbers["inputs"]["n"] == 1488
    assert checked.numbers["inputs"]["features"] == 16
    assert checked.numbers["answers"]["features"] == 3
    assert checked.describe().startswith("digits@1, 1,500 requests captured: nothing found\n  inputs: of 16 features")


def test_a_changed_world_is_found_in_inputs_and_answers(
    version: Version, model: Model, home: Path, send: Send, held_out: Callable[[int], Any], changed: Any
) -> None:
    send(held_out(1000)[0])
    assert check(version, model, home).findings == ()
    send(changed(held_out(500)[0]))
    checked = check(version, model, home)
    assert kinds(checked) == [("drift", "inputs"), ("drift", "answers"), ("quality", "estimated accuracy")]
    for found in checked.findings[:2]:
        assert found.since is not None
        assert 1e6 + 9.5 <= found.since <= 1e6 + 12.5
    assert json.loads(json.dumps(asdict(checked)))["n"] == 1500


def test_a_larger_tolerance_bears_more(
    version: Version, model: Model, home: Path, send: Send, held_out: Callable[[int], Any], changed: Any
) -> None:
    send(changed(held_out(400)[0]))
    assert check(version, model, home).findings
    assert check(version, model, home, tolerance=0.9).findings == ()


def test_what_is_ignored_may_move_and_a_name_that_nothing_has_is_said(
    version: Version, model: Model, home: Path, send: Send, held_out: Callable[[int], Any], changed: Any
) -> None:
    send(changed(held_out(400)[0]))
    known = check(version, model, home)
    moved = [one["feature"] for one in known.numbers["answers"]["most_moved"]]
    assert ("drift", "answers") in kinds(known)
    checked = check(version, model, home, ignore=(*moved, "clock"))
    assert ("drift", "inputs") in kinds(checked)
    assert "answers" not in checked.numbers
    assert any(
        note.startswith("no feature is called clock, which was to be ignored; there is") for note in checked.notes
    )
    everything = check(version, model, home, ignore=(*moved, *_features(version, model, home)))
    assert "drift is not judged: all features are ignored" in everything.notes
    assert "drift" not in {kind for kind, _ in kinds(everything)}


def _features(version: Version, model: Model, home: Path) -> list[str]:
    known = baseline.find(model, home, version.digest)
    assert known is not None
    return known.inputs.columns.names


def test_looking_often_or_once_comes_to_the_same(
    version: Version, model: Model, home: Path, send: Send, held_out: Callable[[int], Any], changed: Any
) -> None:
    for at in range(12):
        pixels = held_out(37)[0]
        send(changed(pixels) if at > 8 else pixels)
        often = check(version, model, home)
    once = check(replace(version, digest="another process"), model, home)
    assert often == once
    assert often.findings


def test_the_version_alone_is_looked_at(
    version: Version, model: Model, home: Path, send: Send, held_out: Callable[[int], Any], changed: Any
) -> None:
    send(held_out(200)[0])
    send(changed(held_out(200)[0]), version=2)
    send(changed(held_out(200)[0]), model="other")
    send(changed(held_out(200)[0]), track="shadow")
    send(held_out(100)[0], track="canary")
    checked = check(version, model, home)
    assert checked.findings == ()
    assert checked.n == 300


def test_a_file_that_was_made_anew_is_read_from_its_start(
    version: Version, model: Model, home: Path, path: Path, send: Send, held_out: Callable[[int], Any]
) -> None:
    send(held_out(100)[0])
    assert check(version, model, home).n == 100
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    send(held_out(30)[0])
    assert check(version, model, home).n == 30


def test_a_run_covers_the_newest_requests_only(
    version: Version,
    model: Model,
    home: Path,
    send: Send,
    held_out: Callable[[int], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(captured, "RUN", 100)
    seen = []
    for _ in range(7):
        send(held_out(50)[0])
        seen.append(check(version, model, home).n)
    assert seen == [50, 100, 150, 200, 150, 200, 150]


def test_requests_of_another_form_are_counted_not_fatal(
    version: Version, model: Model, home: Path, send: Send, held_out: Callable[[int], Any]
) -> None:
    send(held_out(32)[0])
    send(held_out(5)[0], inputs={"other": np.zeros((1, 3))})
    checked = check(version, model, home)
    assert checked.notes == ("5 requests did not have the form of the reference rows",)


def test_a_mean_error_that_is_promised_of_classes_is_said_to_judge_nothing(
    version: Version, model: Model, home: Path, send: Send, held_out: Callable[[int], Any]
) -> None:
    send(held_out(32)[0])
    (note,) = check(version, model, home, max_error=3.0).notes
    assert note.startswith("the promised mean error judges nothing: the answers are classes")
    assert check(version, model, home).notes == ()


def test_without_reference_rows_drift_is_not_judged_and_that_is_said(
    make_model: Callable[..., Model], version: Version, home: Path, send: Send, held_out: Any, tmp_path: Path
) -> None:
    bare = make_model(tmp_path / "bare", reference=None)
    send(held_out(50)[0])
    checked = check(replace(version, digest="bare"), bare, home)
    assert checked.findings == ()
    assert checked.notes == ("drift is not judged: the version keeps no reference rows; add it with --data",)
    assert "drift is not judged" in checked.describe()
    with pytest.raises(BadSettings, match="there is nothing to slice by: the version keeps no reference rows"):
        check(replace(version, digest="bare"), bare, home, slices=("age",))


def test_inputs_beyond_the_features_that_are_looked_at_are_said(
    version: Version, model: Model, home: Path, send: Send, held_out: Callable[[int], Any]
) -> None:
    send(held_out(32)[0])
    more = tuple(TensorSpec(name, "float32", (None, 1)) for name in ("age", "height"))
    wide = replace(model, signature=replace(model.signature, inputs=(*model.signature.inputs, *more)))
    known = baseline.build(model)
    assert known is not None
    baseline.write(known, home / "baselines" / "wide.npz")
    checked = check(replace(version, digest="wide"), wide, home)
    assert checked.notes == (
        "drift is not judged of 2 inputs, such as 'age': 64 features of the inputs are looked at, those that come "
        "first",
    )


def test_too_few_reference_rows_are_none(
    make_model: Callable[..., Model], tmp_path: Path, digits: tuple[Dataset, Dataset]
) -> None:
    assert baseline.build(make_model(tmp_path / "few", reference=digits[0].head(20))) is None


def test_failures_and_slowness(
    version: Version, model: Model, home: Path, send: Send, held_out: Callable[[int], Any]
) -> None:
    send(held_out(500)[0])
    send(held_out(800)[0], outcome="error", outputs=None, seconds=2.0)
    checked = check(version, model, home, p99=0.5)
    assert kinds(checked) == [("health", "errors"), ("health", "latency")]
    assert checked.numbers["health"]["failed"] == 800


def test_a_damaged_file_is_refused_by_name(version: Version, model: Model, home: Path, path: Path) -> None:
    from modelkeep.errors import BadData

    path.write_text("no database " * 500)
    with pytest.raises(BadData, match=r"traffic\.db is not a file of captured traffic"):
        check(version, model, home)


def test_reading_disturbs_no_writer(
    version: Version, model: Model, home: Path, path: Path, send: Send, held_out: Callable[[int], Any]
) -> None:
    """A server may hold the write lock for as long as it likes."""
    send(held_out(50)[0])
    writer = sqlite3.connect(path)
    writer.execute("BEGIN IMMEDIATE")
    assert check(version, model, home).n == 50
    writer.rollback()
    writer.close()
