"""A verb, called as a person types it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from modelkeep.cli import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Exit code, stdout and stderr of a verb in the folder that the fixture ``home`` of the test's module makes."""

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["modelkeep", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    monkeypatch.chdir(home)
    return call
