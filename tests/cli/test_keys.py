"""modelkeep keys, as a person reads it."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelkeep.cli import main


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main(["keys", *words])
    return int(ended.value.code or 0), capsys.readouterr().out


def test_with_the_last_key_gone_nobody_is_let_in_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "the service asks for none" in call(capsys)[1]
    assert call(capsys, "--add", "web", "--scope", "infer")[1].startswith("mk_")
    code, out = call(capsys, "--revoke", "web")
    assert code == 0
    assert "no keys are left, so the service refuses everybody" in out
    assert str(tmp_path / ".modelkeep" / "keys.json") in out
