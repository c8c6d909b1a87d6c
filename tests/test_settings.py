"""Settings: defaults, then modelkeep.toml, then the environment; each mistake is named."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from modelkeep import settings
from modelkeep.errors import BadSettings
from modelkeep.settings import Settings


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    (tmp_path / "modelkeep.toml").write_text('port = 9000\nhost = "0.0.0.0"\nhome = "kept"\nrequest_timeout = 5\n')
    return tmp_path


def test_without_anything_the_defaults_hold(tmp_path: Path) -> None:
    assert settings.read(tmp_path, {}) == Settings()


def test_the_file_wins_over_the_defaults(toml: Path) -> None:
    found = settings.read(toml, {})
    assert (found.port, found.host, found.home) == (9000, "0.0.0.0", Path("kept"))
    assert found.request_timeout == 5.0
    assert isinstance(found.request_timeout, float)
    assert found.capture_rows == Settings().capture_rows


def test_the_environment_wins_over_the_file(toml: Path) -> None:
    found = settings.read(toml, {"MODELKEEP_PORT": "9001", "MODELKEEP_CAPTURE_SHARE": "0.25", "PATH": "/bin"})
    assert (found.port, found.host, found.capture_share) == (9001, "0.0.0.0", 0.25)


def test_the_working_folder_and_the_real_environment_are_read(toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(toml)
    monkeypatch.setenv("MODELKEEP_PORT", "9002")
    found = settings.read()
    assert (found.port, found.host) == (9002, "0.0.0.0")


def test_benchmark_data_is_no_setting(tmp_path: Path) -> None:
    assert settings.read(tmp_path, {"MODELKEEP_DATA": "/somewhere"}) == Settings()


def test_a_file_that_is_not_toml(tmp_path: Path) -> None:
    (tmp_path / "modelkeep.toml").write_text("port = ")
    with pytest.raises(BadSettings, match=r"modelkeep\.toml is not TOML"):
        settings.read(tmp_path, {})
    (tmp_path / "modelkeep.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(BadSettings, match=r"modelkeep\.toml is not TOML"):
        settings.read(tmp_path, {})


def test_an_unknown_key_is_named_with_those_that_there_are(tmp_path: Path) -> None:
    (tmp_path / "modelkeep.toml").write_text("prot = 1")
    with pytest.raises(
        BadSettings, match=r"modelkeep\.toml sets 'prot', which is no setting; there are: home, environments, store"
    ):
        settings.read(tmp_path, {})
    with pytest.raises(BadSettings, match="the environment sets 'prot', which is no setting"):
        settings.read(tmp_path / "elsewhere", {"MODELKEEP_PROT": "1"})


@pytest.mark.parametrize("value", ["many", "", "8080.5"])
def test_a_value_of_another_kind_is_named(tmp_path: Path, value: str) -> None:
    with pytest.raises(BadSettings, match=f"the environment sets 'port' to '{value}', which is not of kind int"):
        settings.read(tmp_path, {"MODELKEEP_PORT": value})


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("max_queue_requests = -5", "sets 'max_queue_requests' to -5; give a number above 0"),
        ("max_connections = 0", "sets 'max_connections' to 0; give a number above 0"),
        ("request_timeout = 0", "sets 'request_timeout' to 0; give a number above 0"),
        ("request_timeout = nan", "sets 'request_timeout' to nan; give a number above 0"),
        ("head_timeout = inf", "sets 'head_timeout' to inf; give a number above 0"),
        ("cache_bytes = -1", "sets 'cache_bytes' to -1; give a number from 0 on"),
        ("capture_share = 1.5", "sets 'capture_share' to 1.5; give a number from 0 to 1"),
        ("port = 65536", "sets 'port' to 65536; give a number from 0 to 65535"),
        ("port = 8080.5", "sets 'port' to 8080.5, which is not of kind int"),
        ("port = true", "sets 'port' to True, which is not of kind int"),
    ],
)
def test_a_number_that_means_nothing_is_refused(tmp_path: Path, said: str, told: str) -> None:
    (tmp_path / "modelkeep.toml").write_text(said)
    with pytest.raises(BadSettings, match=f"modelkeep.toml {told}$"):
        settings.read(tmp_path, {})


def test_numbers_at_their_ends_are_taken(tmp_path: Path) -> None:
    (tmp_path / "modelkeep.toml").write_text(
        "cache_bytes = 0\ncapture_share = 1\nport = 0\nmonitor_every = 0\nslo = 0\n"
    )
    assert settings.read(tmp_path, {}).capture_share == 1.0


def test_names_that_may_move_are_parted_by_commas_that_are_none_of_theirs(tmp_path: Path) -> None:
    found = settings.read(tmp_path, {"MODELKEEP_IGNORE": " time, x[0,1],id,", "MODELKEEP_SLO": "0.9"})
    assert found.promised == {"slo": 0.9, "ignore": ("time", "x[0,1]", "id")}
    assert settings.read(tmp_path, {}).promised == {}


def test_a_path_of_another_kind_is_named(tmp_path: Path) -> None:
    (tmp_path / "modelkeep.toml").write_text("home = 3")
    with pytest.raises(BadSettings, match="sets 'home' to 3, which is not of kind Path"):
        settings.read(tmp_path, {})


def test_the_store_lies_inside_home_unless_told_otherwise(tmp_path: Path) -> None:
    assert Settings(home=tmp_path).store_url == str(tmp_path / "store")
    assert Settings(home=tmp_path, store="s3://bucket/models").store_url == "s3://bucket/models"


def test_a_relative_home_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Settings().store_url == str(tmp_path / ".modelkeep" / "store")


def test_settings_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Settings().port = 1  # type: ignore[misc]
