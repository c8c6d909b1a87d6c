"""One rollout of a model at a time: two would judge one canary by two plans, and each would stop the other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from modelkeep.errors import Conflict
from modelkeep.rollout import attended

HOLD = """
import sys, time
from pathlib import Path
from modelkeep.rollout import attended
with attended.alone(Path(sys.argv[1]), "m"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_it_is_attended_while_it_goes_on(tmp_path: Path) -> None:
    assert not attended.attended(tmp_path, "m")
    with attended.alone(tmp_path, "m"):
        assert attended.attended(tmp_path, "m")
        assert not attended.attended(tmp_path, "other")
    assert not attended.attended(tmp_path, "m")


def test_a_second_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attended, "PATIENCE", 0.01)
    refused = pytest.raises(Conflict, match=r"goes on already; .*: modelkeep rollback m$")
    with attended.alone(tmp_path, "m"), refused, attended.alone(tmp_path, "m"):
        pass


def test_a_process_that_is_killed_leaves_it_to_others(tmp_path: Path) -> None:
    holds = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE)
    assert holds.stdout is not None
    with holds:
        assert holds.stdout.readline() == b"held\n"
        assert attended.attended(tmp_path, "m")
        holds.kill()
    assert not attended.attended(tmp_path, "m")


def test_where_nothing_can_be_written_nobody_is_kept_away(tmp_path: Path) -> None:
    (tmp_path / "rollouts").write_text("no folder")
    with attended.alone(tmp_path, "m"):
        assert not attended.attended(tmp_path, "m")
