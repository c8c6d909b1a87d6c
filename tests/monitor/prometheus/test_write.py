"""The folder that setup writes: complete, accepted by Prometheus' own check, never written over what was changed."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from modelkeep.errors import BadSettings, Conflict
from modelkeep.monitor.prometheus import write
from modelkeep.monitor.prometheus.plan import Plan


@pytest.fixture
def key(tmp_path: Path) -> Path:
    file = tmp_path / "a key"
    file.write_text("mk_secret")
    return file


def test_everything_is_there_and_is_yaml_or_json(tmp_path: Path) -> None:
    written = write.write(tmp_path / "to", Plan())
    names = {str(path.relative_to(tmp_path / "to")) for path in written}
    assert names >= {"prometheus.yml", "alertmanager.yml", "rules/modelkeep.yml", "setup.json"}
    assert len([name for name in names if name.startswith("grafana/dashboards/")]) == 5
    for path in written:
        assert (json.loads if path.suffix == ".json" else yaml.safe_load)(path.read_text())
    provider = yaml.safe_load((tmp_path / "to/grafana/provisioning/dashboards/modelkeep.yml").read_text())
    assert sorted(Path(provider["providers"][0]["options"]["path"]).glob("*.json"))


def test_keys_and_certificates_are_named_and_never_copied(tmp_path: Path, key: Path) -> None:
    targets = ("https://a:1", "https://b:2")
    folder = tmp_path / "to"
    write.write(folder, Plan(targets, key_file=str(key), ca_file=str(key), alertmanager="127.0.0.1:1"))
    prometheus = yaml.safe_load((folder / "prometheus.yml").read_text())
    [job] = prometheus["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["a:1", "b:2"]}]
    access = {
        "authorization": {"type": "Bearer", "credentials_file": str(key)},
        "tls_config": {"ca_file": str(key)},
    }
    assert job["scheme"] == "https"
    assert {name: job[name] for name in access} == access
    assert prometheus["alerting"]["alertmanagers"] == [{"static_configs": [{"targets": ["127.0.0.1:1"]}]}]
    hook = yaml.safe_load((folder / "alertmanager.yml").read_text())["receivers"][1]["webhook_configs"][0]
    assert (hook["url"], hook["http_config"]) == ("https://a:1/monitor/alerts", access)
    assert not any("mk_secret" in path.read_text() for path in folder.rglob("*") if path.is_file())


def test_a_file_that_was_changed_is_not_lost(tmp_path: Path) -> None:
    write.write(tmp_path, Plan())
    write.write(tmp_path, Plan())  # as it stands, it may be written again
    (mine := tmp_path / "alertmanager.yml").write_text("mine")
    with pytest.raises(Conflict, match=r"alertmanager\.yml; overwrite them with --force"):
        write.write(tmp_path, Plan())
    assert mine.read_text() == "mine"
    write.write(tmp_path, Plan(), force=True)
    assert mine.read_text() != "mine"


def test_what_nobody_changed_is_written_anew_for_another_plan(tmp_path: Path) -> None:
    """It was said to be changed, and --force for the sake of a target cost a person their receivers."""
    write.write(tmp_path, Plan())
    (mine := tmp_path / "alertmanager.yml").write_text("mine")
    other = Plan(("http://127.0.0.1:1",))
    with pytest.raises(Conflict) as refused:
        write.write(tmp_path, other)
    assert str(refused.value).count(".yml") == 1
    mine.unlink()
    write.write(tmp_path, other)
    assert "127.0.0.1:1" in (tmp_path / "prometheus.yml").read_text()
    assert Plan.from_json((tmp_path / "setup.json").read_text()) == other


@pytest.mark.parametrize("known", ["", "[]", "{"])
def test_where_it_is_not_known_what_was_written_nothing_is_lost(tmp_path: Path, known: str) -> None:
    write.write(tmp_path, Plan())
    (tmp_path / write.WRITTEN).write_text(known)
    with pytest.raises(Conflict, match=r"prometheus\.yml"):
        write.write(tmp_path, Plan(("http://127.0.0.1:1",)))


def test_a_folder_that_cannot_be_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadSettings, match=r"cannot be written \(Not a directory\); give another folder"):
        write.write(tmp_path / "file" / "below", Plan())


def test_a_full_disk_leaves_no_half_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, text: str, **_: str) -> int:
        self.write_bytes(text[:9].encode())
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        with pytest.raises(BadSettings, match="No space left on device"):
            write.write(tmp_path, Plan())
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert write.write(tmp_path, Plan())


@pytest.mark.prometheus
@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")
@pytest.mark.parametrize("secured", [False, True])
def test_prometheus_and_alertmanager_accept_them(tmp_path: Path, key: Path, secured: bool) -> None:
    plan = Plan(("https://a:1",), key_file=str(key)) if secured else Plan()
    write.write(tmp_path, plan)
    assert "SUCCESS" in check("promtool", "check", "config", str(tmp_path / "prometheus.yml"))
    assert "SUCCESS" in check(
        "promtool", "check", "rules", "--lint=all", "--lint-fatal", str(tmp_path / "rules/modelkeep.yml")
    )
    if shutil.which("amtool"):
        assert "SUCCESS" in check("amtool", "check-config", str(tmp_path / "alertmanager.yml"))


def check(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
