"""list, show, journal and score: what a person is told of what there is."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from modelkeep.cli.output import place, say_reports
from modelkeep.data.traffic import Exchange, TrafficLog
from modelkeep.keep import Keep
from modelkeep.settings import Settings
from modelkeep.types import Report, Route
from tests.cli.conftest import Run

MOUNT = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && cd "$1" && shift && exec "$@"'
"""Of the folder, as on a read-only disk: root may write wherever chmod forbids it."""
VERBS = """
import sys
from modelkeep.cli import main
for line in sys.stdin:
    try:
        main(line.split())
    except SystemExit as end:
        print(line.split()[0], "ended with", end.code, file=sys.stderr)
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """digits@1, @2 and @3: 1 was live before 2, which is now. Each says which of three numbers is the largest."""
    import onnx
    from onnx import TensorProto, helper

    shape = [None, 3]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "m", values[:1], values[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "m.onnx")
    np.savez(tmp_path / "rows.npz", x=np.eye(3, dtype=np.float32), labels=np.array([0, 1, 0]))
    with Keep(Settings(home=tmp_path / ".modelkeep")) as keep:
        for number in (1, 2, 3):
            keep.add(tmp_path / "m.onnx", "digits")
            if number < 3:
                keep.promote(f"digits@{number}")
    return tmp_path


def test_what_a_version_is_in_its_route() -> None:
    route = Route("m", live=4, canary=5, weight=0.1, shadow=6, previous=4)
    assert [place(route, n) for n in (3, 4, 5, 6)] == ["", "live, previous", "canary 10%", "shadow"]


def test_show_tells_the_route_too(run: Run) -> None:
    assert run("show", "digits")[1].startswith("digits@2  onnx  live  sha256 ")
    assert run("show", "digits@1")[1].startswith("digits@1  onnx  previous  sha256 ")
    assert run("show", "digits@3")[1].startswith("digits@3  onnx  sha256 ")


def test_a_version_where_a_model_belongs_is_told(run: Run) -> None:
    for verb in ("list", "journal", "label", "rollback"):
        code, _, err = run(verb, "digits@2")
        assert code == 2, verb
        assert "'digits@2' names one version, and a model's name belongs here: digits" in err, verb
    assert "no model is called 'letters@2'; there are: digits" in run("list", "letters@2")[2]


def test_a_read_only_disk_can_be_looked_at(home: Path) -> None:
    mounted = ["unshare", "--mount", "--map-root-user", "sh", "-c", MOUNT, "sh", str(home)]
    if not shutil.which("unshare") or subprocess.run([*mounted, "true"], capture_output=True).returncode:
        pytest.skip("this system lets nobody mount a folder read-only")
    with Keep(Settings(home=home / ".modelkeep")) as keep:
        log = TrafficLog(keep.traffic)
    log.offer(Exchange("r", time.time() - 60, "digits", 2, "live", "ok", 0.3))
    log.close()
    looks = ["list", "show digits@3", "journal --last 1", "score digits --data rows.npz", "monitor digits --silence 1s"]
    verbs = [*looks, "promote digits@3"]
    command = [*mounted, sys.executable, "-c", VERBS]
    given = "\n".join([*verbs, "add digits m.onnx"])
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=60)
    said = done.stderr.splitlines()
    assert said[:4] == [f"{verb} ended with 0" for verb in ("list", "show", "journal", "score")]
    assert said[4] == "monitor ended with 1", "for what it found"
    assert "registry.db can only be read here, and nothing was stored; get the right to write to it" in said[5]
    assert "nothing can be made in " in said[7]
    assert "(Read-only file system), and nothing was stored" in said[7]
    assert [said[6], said[8]] == ["promote ended with 1", "add ended with 1"]
    for told in ("digits@2 │ live", "digits@3  onnx  sha256", "digits@3 was made by", "accuracy", "where 1 s may pass"):
        assert told in done.stdout
    assert "  this look is not kept in the journal: " in done.stdout


class TestJournal:
    def test_an_unknown_model_is_refused(self, run: Run) -> None:
        code, out, err = run("journal", "letters")
        assert (code, out) == (2, "")
        assert "no model is called 'letters'; there are: digits" in err

    def test_who_is_no_model_may_have_entries(self, run: Run, home: Path) -> None:
        with Keep(Settings(home=home / ".modelkeep")) as keep:
            keep.registry.note("service", "finding", "it is down", {})
        assert "it is down" in run("journal", "service")[1]

    def test_no_entry_is_said(self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        said = "the journal has no entry of kind 'foo'; there are: add, route\n"
        assert run("journal", "digits", "--kind", "foo")[:2] == (0, said)
        assert run("journal", "--kind", "foo", "--json")[:2] == (0, "[]\n")
        monkeypatch.setenv("MODELKEEP_HOME", str(tmp_path / "new"))
        assert run("journal")[:2] == (0, "nothing has happened yet\n")


class TestScore:
    def test_a_promise_that_is_kept(self, run: Run) -> None:
        code, out, _ = run("score", "digits", "--data", "rows.npz", "--min", "60%")
        assert code == 0
        assert out.endswith("; keeps the 0.6000 that was promised\n")

    def test_one_that_is_broken(self, run: Run) -> None:
        code, out, _ = run("score", "digits", "--data", "rows.npz", "--min", "95%")
        assert code == 1
        assert out.endswith("; below the 0.9500 that was promised\n")
        code, out, _ = run("score", "digits", "--data", "rows.npz", "--min", "95%", "--json")
        assert (code, json.loads(out)["ok"]) == (1, False)

    def test_none(self, run: Run) -> None:
        code, out, _ = run("score", "digits", "--data", "rows.npz", "--json")
        assert (code, json.loads(out)["ok"]) == (0, None)


def test_colours_are_left_out_where_asked(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("click.utils.should_strip_ansi", lambda *_: False)  # as at a terminal
    monkeypatch.delenv("NO_COLOR", raising=False)
    say_reports([Report("score", True, "fine", {})])
    assert "\x1b[32mok" in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    say_reports([Report("score", True, "fine", {})])
    assert capsys.readouterr().out == "  ok  score: fine\n"
