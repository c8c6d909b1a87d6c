"""Every alert fires when it must and is silent when it must, in Prometheus' own evaluation (promtool test rules)."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from modelkeep.monitor.prometheus import alerts, objectives, rule
from modelkeep.monitor.prometheus.plan import Plan
from modelkeep.monitor.prometheus.rule import Alert, Group

pytestmark = [
    pytest.mark.prometheus,
    pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)"),
]
GROUPS = [*objectives.groups(Plan()), *alerts.groups()]
UP = 'up{job="modelkeep",instance="a:1"}'
V1 = 'model="m",version="1"'


def requests(outcome: str, track: str = "live", version: int = 1) -> str:
    return f'modelkeep_requests_total{{model="m",version="{version}",track="{track}",outcome="{outcome}"}}'


def slow(share: float, minutes: int) -> dict[str, str]:
    """1,000 answers a minute, of which this share takes longer than half a second."""
    of = f'{{{V1},track="live"'
    return {
        f"modelkeep_request_duration_seconds_count{of}}}": f"0+1000x{minutes}",
        f'modelkeep_request_duration_seconds_bucket{of},le="0.5"}}': f"0+{1000 * (1 - share):g}x{minutes}",
    }


def failing(share: float, minutes: int, rate: float = 1000) -> dict[str, str]:
    """So many requests a minute, of which this share fails."""
    return {
        requests("ok"): f"0+{rate * (1 - share):g}x{minutes}",
        requests("error"): f"0+{rate * share:g}x{minutes}",
    }


def failing_at_last(share: float, good: int, minutes: int) -> dict[str, str]:
    """1,000 requests a minute, of which none fails for a while, and then this share."""
    return {
        requests("ok"): f"0+1000x{good} {1000 * good}+{1000 * (1 - share):g}x{minutes}",
        requests("error"): f"0x{good} 0+{1000 * share:g}x{minutes}",
    }


@dataclass(frozen=True)
class Case:
    """Series by name, one sample a minute, and how many alerts fire at a minute. ``seconds`` are between evaluations:
    more than in truth where a day is looked at, and a second of the test counts.
    """

    alert: str
    what: str
    at: int
    series: Mapping[str, str]
    fires: int = 1
    seconds: int = rule.INTERVAL


MEMORY = 'process_resident_memory_bytes{job="modelkeep",instance="a:1"}'
MACHINE = 'modelkeep_machine_memory_bytes{instance="a:1"}'
SIZE, FREE = 'modelkeep_home_size_bytes{instance="a:1"}', 'modelkeep_home_free_bytes{instance="a:1"}'
INVALID, ROWS = f"modelkeep_output_invalid_total{{{V1}}}", f"modelkeep_batch_size_sum{{{V1}}}"
DISTANCE = f'modelkeep_drift_distance_ratio{{{V1},subject="inputs"}}'
EVIDENCE, THRESHOLD = (DISTANCE.replace("distance_ratio", f"log_{what}") for what in ("evidence", "threshold"))
LOOKS = 'modelkeep_monitor_looks_total{instance="a:1"}'
MISTAKEN = 'modelkeep_rejections_total{instance="a:1",reason="malformed"}'
REFUSED = 'modelkeep_rejections_total{instance="a:1",reason="queue_full"}'
ASKED = 'modelkeep_requests_total{instance="a:1",model="m",version="1",track="live",outcome="ok"}'


def found(kind: str) -> str:
    return f'modelkeep_findings{{{V1},kind="{kind}"}}'


def burns(alert: str, make: Any) -> list[Case]:
    """A page where a budget of a month goes within two days or five, a ticket where it goes within ten."""
    page, ticket = f"{alert}Page", f"{alert}Ticket"
    budget = 0.01 if make is slow else 0.001
    return [
        Case(page, "16 times too fast for an hour", 65, make(16 * budget, 70), seconds=300),
        Case(page, "8 times too fast for six hours", 365, make(8 * budget, 370), seconds=300),
        Case(page, "as many as may fail", 365, make(budget, 370), 0, seconds=300),
        Case(ticket, "4 times too fast for a day", 1445, make(4 * budget, 1450), seconds=300),
        Case(ticket, "half of what may fail", 1445, make(budget / 2, 1450), 0, seconds=300),
    ]


CASES = [
    Case("ModelkeepDown", "two minutes", 5, {UP: "1 1 0x10"}),
    Case("ModelkeepDown", "one scrape that failed", 5, {UP: "1 1 0 1x10"}, 0),
    Case("ModelkeepAbsent", "no target", 10, {"up{job='other'}": "1x20"}),
    Case("ModelkeepAbsent", "a target that is down", 10, {UP: "0x20"}, 0),
    Case("ModelkeepNothingServed", "up, and empty", 10, {UP: "1x20"}),
    Case(
        "ModelkeepNothingServed", "a model", 10, {UP: "1x20", f'modelkeep_model_info{{{V1},instance="a:1"}}': "1x20"}, 0
    ),
    Case("ModelkeepNoTraffic", "silence after two a minute", 540, {requests("ok"): "0+2x480 960x60"}, seconds=300),
    Case("ModelkeepNoTraffic", "it goes on", 540, {requests("ok"): "0+2x540"}, 0, 300),
    Case("ModelkeepNoTraffic", "few were asked before", 540, {requests("ok"): "0+0.1x480 48x60"}, 0, 300),
    Case("ModelkeepRejecting", "two of a hundred", 40, {REFUSED: "0+2x60", ASKED: "0+100x60"}),
    Case("ModelkeepRejecting", "a client that sends no JSON", 40, {MISTAKEN: "0+9x60", ASKED: "0+100x60"}, 0),
    Case("ModelkeepRejecting", "one of a thousand", 40, {REFUSED: "0+1x60", ASKED: "0+1000x60"}, 0),
    Case("ModelkeepRejecting", "one now and then, of few", 40, {REFUSED: "0+0.1x60", ASKED: "0+1x60"}, 0),
    Case("ModelkeepNoWorkers", "none", 5, {f"modelkeep_workers{{{V1}}}": "2 0x20"}),
    Case("ModelkeepNoWorkers", "one is replaced", 5, {f"modelkeep_workers{{{V1}}}": "2 1x20"}, 0),
    Case("ModelkeepWorkerDeaths", "four", 15, {f'modelkeep_worker_deaths_total{{{V1},kind="crash"}}': "0 1 2 3 4x20"}),
    Case("ModelkeepWorkerDeaths", "one", 15, {f'modelkeep_worker_deaths_total{{{V1},kind="crash"}}': "0 1x20"}, 0),
    Case(
        "ModelkeepCanaryFailing",
        "one of six, where live has one of a hundred",
        20,
        {
            requests("ok"): "0+99x30",
            requests("error"): "0+1x30",
            requests("ok", "canary", 2): "0+10x30",
            requests("error", "canary", 2): "0+2x30",
        },
    ),
    Case(
        "ModelkeepCanaryFailing",
        "as often as live",
        20,
        {
            requests("ok"): "0+90x30",
            requests("error"): "0+10x30",
            requests("ok", "canary", 2): "0+9x30",
            requests("error", "canary", 2): "0+1x30",
        },
        0,
    ),
    Case(
        "ModelkeepMemoryHigh",
        "5 % left",
        20,
        {MACHINE: "100x30", MACHINE.replace("_memory_", "_memory_available_"): "5x30"},
    ),
    Case(
        "ModelkeepMemoryHigh",
        "half is left",
        20,
        {MACHINE: "100x30", MACHINE.replace("_memory_", "_memory_available_"): "50x30"},
        0,
    ),
    Case(
        "ModelkeepMemoryLeak",
        "300 MB an hour of 8 GB",
        520,
        {UP: "1x600", MEMORY: "1e9+5e6x600", MACHINE: "8e9x600"},
        seconds=300,
    ),
    Case(
        "ModelkeepMemoryLeak",
        "in a worker",
        520,
        {
            UP: "1x600",
            MEMORY: "1e9x600",
            f'modelkeep_worker_resident_memory_bytes{{{V1},instance="a:1"}}': "1e9+5e6x600",
            MACHINE: "8e9x600",
        },
        seconds=300,
    ),
    Case(
        "ModelkeepMemoryLeak",
        "a version more, then even",
        520,
        {UP: "1x600", MEMORY: "1e9x240 4e9x360", MACHINE: "8e9x600"},
        0,
        300,
    ),
    Case(
        "ModelkeepMemoryLeak",
        "too slow to matter",
        520,
        {UP: "1x600", MEMORY: "1e9+1e5x600", MACHINE: "8e9x600"},
        0,
        300,
    ),
    Case("ModelkeepDiskFull", "3 %", 20, {SIZE: "100x30", FREE: "3x30"}),
    Case(
        "ModelkeepDiskFull",
        "30 %",
        20,
        {SIZE: "100x30", FREE: "30x30"},
        0,
    ),
    Case(
        "ModelkeepMonitorDropping",
        "for an hour",
        65,
        {'modelkeep_monitor_dropped_total{instance="a:1",sink="profiles"}': "0+1x90"},
    ),
    Case(
        "ModelkeepMonitorDropping",
        "once",
        65,
        {'modelkeep_monitor_dropped_total{instance="a:1",sink="profiles"}': "0 1x90"},
        0,
    ),
    Case("ModelkeepOutputInvalid", "one row of a hundred", 15, {INVALID: "0+1x20", ROWS: "0+100x20"}),
    Case("ModelkeepOutputInvalid", "a single row", 15, {INVALID: "0x10 1x10", ROWS: "0+100x20"}, 0),
    Case("ModelkeepDrift", "found", 10, {DISTANCE: "0.3x20", EVIDENCE: "20x20", THRESHOLD: "17.5x20"}),
    Case("ModelkeepDrift", "no evidence yet", 10, {DISTANCE: "0.3x20", EVIDENCE: "3x20", THRESHOLD: "17.5x20"}, 0),
    Case("ModelkeepQuality", "found", 10, {found("quality"): "0 2x20"}),
    Case("ModelkeepQuality", "something else was found", 10, {found("quality"): "0x20", found("drift"): "1x20"}, 0),
    Case("ModelkeepFinding", "no data", 10, {found("no-data"): "0 1x20"}),
    Case("ModelkeepFinding", "drift has an alert of its own", 10, {found("drift"): "0 1x20"}, 0),
    Case("ModelkeepMonitorSilent", "no look any more", 40, {LOOKS: "0+12x10 120x40"}),
    Case("ModelkeepMonitorSilent", "two looks a minute", 40, {LOOKS: "0+2x50"}, 0),
    *burns("ModelkeepAvailabilityBurn", failing),
    Case(
        "ModelkeepAvailabilityBurnPage",
        "8 times too fast, for a quarter of an hour",
        380,
        failing_at_last(0.008, 365, 20),
        0,
        seconds=300,
    ),
    Case(
        "ModelkeepAvailabilityBurnPage",
        "it stopped forty minutes ago",
        100,
        {requests("ok"): "0+950x60 57000+1000x50", requests("error"): "0+50x60 3000x50"},
        0,
        seconds=300,
    ),
    Case("ModelkeepAvailabilityBurnPage", "all fail, at four a minute", 5, failing(1.0, 10, rate=4)),
    Case(
        "ModelkeepAvailabilityBurnPage",
        "one of few",
        32,
        {requests("ok"): "0+0.1x70", requests("error"): "0x30 1x40"},
        0,
    ),
    Case(
        "ModelkeepAvailabilityBurnTicket",
        "three of few",
        100,
        {requests("ok"): "0+0.1x110", requests("error"): "0x40 1x20 2x20 3x30"},
        0,
    ),
    Case(
        "ModelkeepAvailabilityBurnTicket",
        "six of few",
        100,
        {requests("ok"): "0+0.1x110", requests("error"): "0x40 2x20 4x20 6x30"},
    ),
    *burns("ModelkeepLatencyBurn", slow),
]


def test_every_alert_is_seen_firing_and_silent() -> None:
    all_ = {one.alert for group in GROUPS for one in group.rules if isinstance(one, Alert)}
    assert all_ == {case.alert for case in CASES if case.fires} == {case.alert for case in CASES if not case.fires}


def groups_of(alert: str) -> list[Group]:
    """The group of an alert, and for a burn rate those that it reads: the fewer, the sooner promtool is done."""
    mine = [group for group in GROUPS if any(isinstance(one, Alert) and one.alert == alert for one in group.rules)]
    read = [group for group in GROUPS if f"{group.name}-alerts" == mine[0].name]
    return [*read, *mine]


@pytest.mark.parametrize(("alert", "seconds"), sorted({(case.alert, case.seconds) for case in CASES}))
def test_it_fires_when_it_must_and_only_then(alert: str, seconds: int, tmp_path: Path) -> None:
    (tmp_path / "rules.yml").write_text(rule.to_yaml(groups_of(alert)))
    said = next(one for group in GROUPS for one in group.rules if isinstance(one, Alert) and one.alert == alert)
    named = re.findall(r"\$labels\.(\w+)", said.summary + said.description)  # what its sentences name must be there
    labels = ",".join([f'alertname="{alert}"', 'alertstate="firing"', *(f'{name}!=""' for name in set(named))])
    firing = f"count(ALERTS{{{labels}}}) or vector(0)"
    tests = [
        {
            "name": case.what,
            "interval": "1m",
            "input_series": [{"series": name, "values": values} for name, values in case.series.items()],
            "promql_expr_test": [
                {
                    "expr": firing,
                    "eval_time": f"{case.at}m",
                    "exp_samples": [{"labels": "{}", "value": case.fires}],
                }
            ],
        }
        for case in CASES
        if (case.alert, case.seconds) == (alert, seconds)
    ]
    promtool(tmp_path, tests, seconds)


def promtool(folder: Path, tests: list[dict[str, Any]], seconds: int = rule.INTERVAL) -> None:
    """JSON is YAML, so that no test needs a library for it."""
    document = {"rule_files": ["rules.yml"], "evaluation_interval": f"{seconds}s", "tests": tests}
    (folder / "tests.yml").write_text(json.dumps(document))
    done = subprocess.run(
        ["promtool", "test", "rules", "tests.yml"], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_budget_is_what_a_person_would_count(tmp_path: Path) -> None:
    """Of 1,000 requests a minute 0.05 % fail: half of the budget, over any window; and a quiet night counts little."""
    (tmp_path / "rules.yml").write_text(rule.to_yaml(objectives.groups(Plan())[:1]))
    mine = 'sloth_id="modelkeep-availability"'
    expected = {
        f"round(1e6 * slo:sli_error:ratio_rate1h{{{mine}}})": 500,
        f"round(slo:period_error_budget_remaining:ratio{{{mine}}}, 0.01)": 0.5,
        f"round(slo:current_burn_rate:ratio{{{mine}}}, 0.01)": 0.5,
    }
    labels = '{model="m", sloth_id="modelkeep-availability", sloth_service="modelkeep", sloth_slo="availability"%s}'
    tests = [
        {
            "interval": "1m",
            "input_series": [{"series": s, "values": v} for s, v in failing(0.0005, 130).items()],
            "promql_expr_test": [
                {
                    "expr": f"sum without (sloth_window) ({expr})",
                    "eval_time": "2h",
                    "exp_samples": [{"labels": labels % "", "value": value}],
                }
                for expr, value in expected.items()
            ],
        },
        {
            "name": "no traffic is no ratio",
            "interval": "1m",
            "input_series": [{"series": requests("ok"), "values": "5x130"}],
            "promql_expr_test": [
                {"expr": f"slo:sli_error:ratio_rate5m{{{mine}}}", "eval_time": "2h", "exp_samples": []}
            ],
        },
        {
            "name": "a busy hour at 1 % and a quiet one at none",
            "interval": "1m",
            "input_series": [
                {"series": requests("ok"), "values": "0+990x60 59400+10x70"},
                {"series": requests("error"), "values": "0+10x60 600x70"},
            ],
            "promql_expr_test": [
                {
                    "expr": f"sum(slo:sli_error:ratio_rate30d{{{mine}}}) > bool 0.009",
                    "eval_time": "2h",
                    "exp_samples": [{"labels": "{}", "value": 1}],
                }
            ],
        },
    ]
    promtool(tmp_path, tests, 300)
