"""A folder that Prometheus, Alertmanager and Grafana can use as it stands."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from urllib.parse import urlsplit

from modelkeep.errors import BadSettings, Conflict
from modelkeep.monitor.alerts import BY
from modelkeep.monitor.prometheus import alerts, objectives, plan, rule
from modelkeep.monitor.prometheus.plan import Plan

DASHBOARDS = "dashboards"
"""The folder of this package that scripts/dashboards writes, and that of Grafana's provisioning."""
HOOK = "/monitor/alerts"
"""The service's route that Alertmanager tells."""
SCRAPE = "10s"
WRITTEN = ".written.json"
"""What was written last, so that what a person changed since is told from what is of another plan, or release."""


def write(folder: Path, plan_: Plan, *, force: bool = False) -> list[Path]:
    """Write the files, and say which. Raises Conflict where another file of that name would be lost, unless ``force``:
    what was written here before, for another plan, is none.

    Raises BadSettings for a folder that cannot be written.
    """
    folder = folder.absolute()
    texts, before = files(plan_, folder), _written(folder)
    wanted = {folder / name: text for name, text in texts.items()}
    lost = [str(folder / name) for name, text in texts.items() if _other(folder / name, text, before.get(name))]
    if lost and not force:
        raise Conflict(f"these files are there and were changed: {', '.join(lost)}; overwrite them with --force")
    try:
        for path, text in wanted.items():
            _put(path, text)
        _put(folder / WRITTEN, json.dumps({name: _digest(text) for name, text in texts.items()}, indent=2) + "\n")
    except OSError as error:
        raise BadSettings(f"{folder} cannot be written ({error.strerror}); give another folder") from error
    return list(wanted)


def _put(path: Path, text: str) -> None:
    """Whole or not at all: half of it, on a full disk, would be taken for a file that a person changed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.new")
    try:
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def files(given: Plan, folder: Path) -> Mapping[str, str]:
    """Text by name. ``folder`` is where Grafana will look for the dashboards."""
    found = {
        "prometheus.yml": _prometheus(given),
        "rules/modelkeep.yml": rule.to_yaml([*objectives.groups(given), *alerts.groups()]),
        "alertmanager.yml": _alertmanager(given),
        "grafana/provisioning/datasources/modelkeep.yml": _datasource(given),
        "grafana/provisioning/dashboards/modelkeep.yml": _provider(folder / "grafana" / DASHBOARDS),
        plan.FILE: given.to_json(),
    }
    for file in sorted((resources.files(__package__) / DASHBOARDS).iterdir(), key=lambda file: file.name):
        found[f"grafana/{DASHBOARDS}/{file.name}"] = file.read_text(encoding="utf-8")
    return found


def _other(path: Path, text: str, before: str | None) -> bool:
    if not path.is_file():
        return path.exists()
    there = path.read_text(encoding="utf-8", errors="replace")
    return there != text and _digest(there) != before


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _written(folder: Path) -> Mapping[str, str]:
    """The digests of what was written here, by name; empty where that is not known."""
    try:
        found = json.loads((folder / WRITTEN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _access(given: Plan, indent: str) -> str:
    """What a client of the service needs: its key, and the certificate to trust."""
    lines = []
    if given.key_file:
        file = json.dumps(str(Path(given.key_file).absolute()))
        lines += ["authorization:", "  type: Bearer", f"  credentials_file: {file}"]
    if given.ca_file:
        lines += ["tls_config:", f"  ca_file: {json.dumps(str(Path(given.ca_file).absolute()))}"]
    return "".join(f"{indent}{line}\n" for line in lines)


def _prometheus(given: Plan) -> str:
    targets = json.dumps([urlsplit(target).netloc for target in given.targets])
    return f"""\
# Written by: modelkeep monitor setup. Start Prometheus with --storage.tsdb.retention.time=32d or more:
# error budgets are for {objectives.PERIOD} days, and it keeps 15 unless it is told to keep more.
global:
  scrape_interval: {SCRAPE}
  evaluation_interval: {rule.INTERVAL}s
rule_files:
  - rules/modelkeep.yml
alerting:
  alertmanagers:
    - static_configs:
        - targets: [{json.dumps(given.alertmanager)}]
scrape_configs:
  - job_name: {alerts.JOB}
    scheme: {urlsplit(given.targets[0]).scheme}
{_access(given, "    ")}\
    static_configs:
      - targets: {targets}
"""


def _alertmanager(given: Plan) -> str:
    access = _access(given, "          ")
    return f"""\
# Written by: modelkeep monitor setup.
route:
  receiver: people
  group_by: [alertname, model, version]
  group_wait: 10s
  group_interval: 1m
  repeat_interval: 4h
  routes:
    # What modelkeep found itself is in its journal already; everything else it is told.
    - receiver: modelkeep
      matchers: ['origin!="modelkeep"']
      continue: true
    - receiver: people
receivers:
  # Add here how people are told: email_configs, slack_configs, pagerduty_configs, …
  # (prometheus.io/docs/alerting/latest/configuration). severity is page or ticket.
  - name: people
  - name: modelkeep
    webhook_configs:
      - url: {json.dumps(given.targets[0] + HOOK)}
        send_resolved: true
{f"        http_config:{chr(10)}{access}" if access else ""}\
inhibit_rules:
  # Who is woken needs no ticket of the same.
  - source_matchers: ['severity="page"']
    target_matchers: ['severity="ticket"']
    equal: [model, subject]
  # What the service tells itself (serve --alertmanager) need not be told by a rule too.
  - source_matchers: ['origin="modelkeep"', 'by="{BY}"']
    target_matchers: ['origin="modelkeep"', 'by=""']
    equal: [model, version, kind]
"""


def _datasource(given: Plan) -> str:
    return f"""\
# Written by: modelkeep monitor setup.
apiVersion: 1
datasources:
  - name: modelkeep
    uid: modelkeep
    type: prometheus
    access: proxy
    url: {json.dumps(f"http://{given.prometheus}")}
    jsonData:
      timeInterval: {SCRAPE}
"""


def _provider(folder: Path) -> str:
    return f"""\
# Written by: modelkeep monitor setup.
apiVersion: 1
providers:
  - name: modelkeep
    folder: modelkeep
    type: file
    allowUiUpdates: true
    options:
      path: {json.dumps(str(folder))}
"""
