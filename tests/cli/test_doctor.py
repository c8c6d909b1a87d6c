"""doctor --make and --remove, which are for the environments."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from modelkeep import environments
from modelkeep.cli.doctor import doctor
from modelkeep.errors import NotFound
from modelkeep.tune import machine


def test_an_environment_is_made_and_removed_on_demand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELKEEP_ENVIRONMENTS", str(tmp_path / "there"))
    monkeypatch.setattr(
        environments.install, "install", lambda python, into, lock, tell: (into / "bin").mkdir(parents=True)
    )
    made = CliRunner().invoke(doctor, ["--make", "tensorflow"])
    assert made.exit_code == 0, made.output
    place = environments.ENVIRONMENTS["tensorflow"].place(tmp_path / "there")
    assert place.is_dir()
    assert str(place) in made.stderr
    assert CliRunner().invoke(doctor, ["--remove", "tensorflow"]).exit_code == 0
    assert not place.exists()
    assert isinstance(CliRunner().invoke(doctor, ["--remove", "tensorflow"]).exception, NotFound)


def test_memory_has_its_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_memory_gib", lambda: 23.5)
    said = CliRunner().invoke(doctor, []).output.splitlines()
    assert "memory           23.5 GiB" in said


def test_an_unknown_environment_is_told_with_those_that_there_are() -> None:
    refused = CliRunner().invoke(doctor, ["--make", "caffe"])
    assert refused.exit_code == 2
    assert "there is no environment 'caffe'; there are: tensorflow" in refused.output
