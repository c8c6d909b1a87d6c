"""What wakes somebody, or waits for the morning: every alert besides the burn rates, which objectives.py has.

Each says what is so in a sentence, and what to do. Series that may be absent are no reason to be silent: what nobody
counts any more has an alert of its own.
"""

from __future__ import annotations

from modelkeep.monitor.prometheus.rule import Alert, Group, Record

JOB = "modelkeep"
"""The name of the scrape job."""
MEMORY = "modelkeep:memory_resident:bytes"
"""Recorded, by instance: the server and its workers."""


def groups() -> list[Group]:
    """All of them, by what they look at."""
    return [
        Group("modelkeep-there", _there()),
        Group("modelkeep-work", _work()),
        Group("modelkeep-memory", (_memory(), *_resources())),
        Group("modelkeep-answers", _answers()),
    ]


def _there() -> tuple[Alert, ...]:
    return (
        Alert(
            "ModelkeepDown",
            f'up{{job="{JOB}"}} == 0',
            "page",
            "health",
            "{{ $labels.instance }} does not answer",
            "Prometheus cannot scrape modelkeep at {{ $labels.instance }}: it is down, or its key or certificate is "
            "refused. Look at its log, and at Status > Targets of Prometheus",
            subject="service",
            wait="1m",
        ),
        Alert(
            "ModelkeepAbsent",
            f'absent(up{{job="{JOB}"}})',
            "page",
            "no-data",
            "no modelkeep is scraped",
            f"Prometheus has no target in job {JOB}, so that no other alert can fire. Look at its scrape_configs",
            subject="targets",
            wait="5m",
        ),
        Alert(
            "ModelkeepNothingServed",
            f'(up{{job="{JOB}"}} == 1) unless on (instance) modelkeep_model_info',
            "page",
            "no-data",
            "{{ $labels.instance }} serves no model",
            "The service answers, and no version is in memory. GET /v2/health/ready says why",
            subject="versions",
            wait="5m",
        ),
        Alert(
            "ModelkeepNoTraffic",
            """
            sum by (model) (increase(modelkeep_requests_total{track!="shadow"}[30m])) == 0
            and sum by (model) (increase(modelkeep_requests_total{track!="shadow"}[6h] offset 30m)) > 360
            """,
            "ticket",
            "no-data",
            "nobody asks {{ $labels.model }} any more",
            "No request for 30 minutes, after more than one a minute in the six hours before: is something in front of "
            "the service broken?",
            subject="requests",
            wait="5m",
        ),
    )


def _work() -> tuple[Alert, ...]:
    refused = 'reason!~"key|rate|body_too_large|malformed|not_found"'  # those are mistakes of clients
    return (
        Alert(
            "ModelkeepRejecting",
            f"""
            sum by (instance) (rate(modelkeep_rejections_total{{{refused}}}[10m]))
            / (sum by (instance) (rate(modelkeep_requests_total{{track!="shadow"}}[10m])) > 0) > 0.01
            and sum by (instance) (increase(modelkeep_rejections_total{{{refused}}}[10m])) >= 10
            """,
            "ticket",
            "health",
            "{{ $labels.instance }} turns requests away",
            "{{ $value | humanizePercentage }} of the requests are refused for want of room or time. Tune for the load "
            "(modelkeep tune), give more workers, or raise max_queue_requests",
            subject="rejections",
            wait="10m",
        ),
        Alert(
            "ModelkeepNoWorkers",
            "modelkeep_workers == 0",
            "page",
            "health",
            "{{ $labels.model }}@{{ $labels.version }} has no worker",
            "No worker process of {{ $labels.model }}@{{ $labels.version }} can be started, and its requests get 503. "
            "GET /v2/health/ready says why",
            subject="workers",
            wait="1m",
        ),
        Alert(
            "ModelkeepWorkerDeaths",
            "sum by (model, version) (increase(modelkeep_worker_deaths_total[15m])) > 2",
            "ticket",
            "health",
            "workers of {{ $labels.model }}@{{ $labels.version }} die again and again",
            "{{ $value | humanize }} worker processes ended within 15 minutes. The service's log says how: an input "
            "that the engine does not bear, a run that hangs, or too little memory",
            subject="worker deaths",
        ),
        Alert(
            "ModelkeepCanaryFailing",
            """
            sum by (model) (rate(modelkeep_requests_total{track="canary",outcome=~"error|late"}[10m]))
            / sum by (model) (rate(modelkeep_requests_total{track="canary"}[10m]))
            > 0.02 + 2 * (
              sum by (model) (rate(modelkeep_requests_total{track="live",outcome=~"error|late"}[10m]))
              / sum by (model) (rate(modelkeep_requests_total{track="live"}[10m]))
            )
            and sum by (model) (increase(modelkeep_requests_total{track="canary",outcome=~"error|late"}[10m])) >= 5
            """,
            "ticket",
            "health",
            "the canary of {{ $labels.model }} fails more often than what is live",
            "{{ $value | humanizePercentage }} of the canary's requests fail. Where no rollout is judging it, end it "
            "with: modelkeep rollback {{ $labels.model }}",
            subject="canary",
        ),
    )


def _memory() -> Record:
    return Record(
        MEMORY,
        f"""
        sum by (instance) (process_resident_memory_bytes{{job="{JOB}"}})
        + (sum by (instance) (modelkeep_worker_resident_memory_bytes) or 0 * sum by (instance) (up{{job="{JOB}"}}))
        """,
    )


def _resources() -> tuple[Alert, ...]:
    return (
        Alert(
            "ModelkeepMemoryHigh",
            "1 - min by (instance) (modelkeep_machine_memory_available_bytes / modelkeep_machine_memory_bytes) > 0.9",
            "ticket",
            "health",
            "the machine of {{ $labels.instance }} has little memory left",
            "{{ $value | humanizePercentage }} of its memory is taken; soon the system will end a process. Serve fewer "
            "versions or workers at a time, or an int8 version",
            subject="memory",
            wait="10m",
        ),
        Alert(
            "ModelkeepMemoryLeak",
            f"""
            predict_linear({MEMORY}[6h], 86400) > on (instance) 0.9 * modelkeep_machine_memory_bytes
            and min_over_time({MEMORY}[1h]) > 1.1 * max_over_time({MEMORY}[1h] offset 5h)
            and deriv({MEMORY}[1h]) > 0
            """,
            "ticket",
            "health",
            "the memory of {{ $labels.instance }} grows and grows",
            "At the pace of the last six hours it will need {{ $value | humanize1024 }}B in a day, more than the "
            "machine has. Restart the service in a quiet hour, and look which worker grows ('modelkeep: machine')",
            subject="memory leak",
            wait="30m",
        ),
        Alert(
            "ModelkeepDiskFull",
            "modelkeep_home_free_bytes / modelkeep_home_size_bytes < 0.05",
            "ticket",
            "health",
            "the disk of {{ $labels.instance }} is almost full",
            "{{ $value | humanizePercentage }} of the disk that holds the registry is free; no version can be added, "
            "and no traffic be kept, once nothing is",
            subject="disk",
            wait="10m",
        ),
        Alert(
            "ModelkeepMonitorDropping",
            "sum by (instance, sink) (increase(modelkeep_monitor_dropped_total[30m])) > 0",
            "ticket",
            "health",
            "{{ $labels.instance }} loses samples",
            "{{ $value | humanize }} samples of {{ $labels.sink }} were left out in 30 minutes: the disk is slow or "
            "full, or there is too little CPU. Answers are not touched, and what monitor says rests on fewer requests",
            subject="samples",
            wait="30m",
        ),
    )


def _answers() -> tuple[Alert, ...]:
    return (
        Alert(
            "ModelkeepOutputInvalid",
            """
            sum by (model, version) (rate(modelkeep_output_invalid_total[10m]))
            / sum by (model, version) (rate(modelkeep_batch_size_sum[10m])) > 0.001
            and sum by (model, version) (increase(modelkeep_output_invalid_total[10m])) >= 5
            """,
            "page",
            "quality",
            "{{ $labels.model }}@{{ $labels.version }} answers NaN or infinity",
            "{{ $value | humanizePercentage }} of its rows hold NaN or infinity. Bring the version before back with: "
            "modelkeep rollback {{ $labels.model }}",
            subject="invalid outputs",
        ),
        Alert(
            "ModelkeepDrift",
            """
            max by (model, version, subject) (modelkeep_drift_distance_ratio) and (
              max by (model, version, subject) (modelkeep_drift_log_evidence)
              >= max by (model, version, subject) (modelkeep_drift_log_threshold)
            )
            """,
            "ticket",
            "drift",
            "the {{ $labels.subject }} of {{ $labels.model }}@{{ $labels.version }} drift",
            "{{ $value | humanizePercentage }} of the {{ $labels.subject }} moved, and the evidence that it is more "
            "than is tolerated suffices. Which features: modelkeep monitor {{ $labels.model }}@{{ $labels.version }}",
            ours=True,
        ),
        _found("ModelkeepQuality", '="quality"', "the answers of {} are worse than promised"),
        _found("ModelkeepFinding", '!~"drift|quality"', "monitor found something about {}"),
        Alert(
            "ModelkeepMonitorSilent",
            "sum by (instance) (increase(modelkeep_monitor_looks_total[15m])) == 0",
            "ticket",
            "no-data",
            "{{ $labels.instance }} is not looked at any more",
            "Its watcher has not ended a look for 15 minutes, so that drift and quality would go unnoticed. The "
            "service's log says what is wrong",
            subject="monitor",
            wait="5m",
        ),
    )


def _found(name: str, kind: str, summary: str) -> Alert:
    """What monitor finds now, of some kinds."""
    return Alert(
        name,
        f"max by (model, version, kind) (modelkeep_findings{{kind{kind}}}) > 0",
        "ticket",
        "",
        summary.format("{{ $labels.model }}@{{ $labels.version }}"),
        "A finding of kind {{ $labels.kind }}. What it rests on: modelkeep journal {{ $labels.model }}",
        ours=True,
    )
