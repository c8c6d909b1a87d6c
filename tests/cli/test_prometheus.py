"""monitor setup and monitor up, as a person types them; and that monitor REF is still there beside them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modelkeep.cli import main


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["modelkeep", "monitor", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


Capture = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch


def test_setup_writes_and_says_what_is_next(capsys: Capture, monkeypatch: Patch) -> None:
    code, out, _ = call(capsys, monkeypatch, "setup", "to", "--p99", "50ms", "--availability", "99.5%")
    assert code == 0
    assert out.endswith("start Prometheus and Alertmanager on them with: modelkeep monitor up to\n")
    assert Path("to/prometheus.yml").is_file()
    assert 'le="0.05"' in Path("to/rules/modelkeep.yml").read_text()
    assert "vector(0.995)" in Path("to/rules/modelkeep.yml").read_text()


def test_setup_scrapes_the_service_of_the_settings(capsys: Capture, monkeypatch: Patch) -> None:
    Path("modelkeep.toml").write_text('host = "0.0.0.0"\nport = 9999\ntls_cert = "cert.pem"\n')
    code, out, _ = call(capsys, monkeypatch, "setup", "to", "--json")
    assert code == 0
    written = json.loads(out)["files"]
    assert all(Path(file).is_file() for file in written)
    assert json.loads(Path("to/setup.json").read_text())["targets"] == ["https://127.0.0.1:9999"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("setup", "to", "--p99", "60ms"), 2, "answers within 0.06 s cannot be counted; give one of these times"),
        (("setup", "to", "--target", "localhost"), 2, "'localhost' is no address of a service"),
        (("setup", "to", "--key-file", "gone"), 2, "there is no file gone"),
        (("setup",), 2, "Missing argument 'FOLDER'"),
        (("up", "to"), 2, "to was not written by modelkeep; first: modelkeep monitor setup to"),
        (("digits@1",), 2, "no model is called 'digits'"),
        (("setup@live",), 2, "no model is called 'setup'"),
        ((), 2, "Missing argument 'REF'"),
    ],
)
def test_wrong_use_is_one_sentence(
    capsys: Capture, monkeypatch: Patch, words: tuple[str, ...], code: int, said: str
) -> None:
    got, out, err = call(capsys, monkeypatch, *words)
    assert (got, out) == (code, "")
    assert said in err
    assert "Traceback" not in err


def test_up_without_the_programs_says_how_to_get_them(capsys: Capture, monkeypatch: Patch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    code, out, err = call(capsys, monkeypatch, "up")
    assert (code, out) == (2, "")
    assert "apt-get install prometheus prometheus-alertmanager" in err
    assert Path(".modelkeep/monitoring/prometheus.yml").is_file()  # it was set up all the same


def test_a_changed_file_is_kept_unless_forced(capsys: Capture, monkeypatch: Patch) -> None:
    call(capsys, monkeypatch, "setup", "to")
    Path("to/alertmanager.yml").write_text("mine")
    code, _, err = call(capsys, monkeypatch, "setup", "to")
    assert code == 1
    assert "overwrite them with --force" in err
    assert call(capsys, monkeypatch, "setup", "to", "--force")[0] == 0


def test_help_tells_of_the_options_and_of_the_verbs(capsys: Capture, monkeypatch: Patch) -> None:
    code, out, _ = call(capsys, monkeypatch, "--help")
    assert code == 0
    assert "--tolerance" in out
    assert "monitor setup" in out
    assert "Usage: modelkeep monitor setup" in call(capsys, monkeypatch, "setup", "--help")[1]
