"""Rules as the YAML that Prometheus reads."""

from __future__ import annotations

import yaml

from modelkeep.monitor.prometheus.rule import Alert, Group, Record, to_yaml

GROUPS = [
    Group("first", (Record("a:b:c", 'sum by (model) (x{le="0.5"})', {"slo": "a: b # c"}), Record("d", "vector(1)"))),
    Group(
        "second",
        (
            Alert(
                "Bad", "\n    x > 1\n      and y\n", "page", "health", "it's {{ $labels.a }}", 'a "b" – c', "s", "5m"
            ),
            Alert("News", "z", "ticket", "", "s", "d", ours=True),
        ),
    ),
]


def test_what_is_written_is_what_was_meant() -> None:
    first, second = yaml.safe_load(to_yaml(GROUPS))["groups"]
    assert (first["name"], first["interval"]) == ("first", "30s")
    assert first["rules"] == [
        {"record": "a:b:c", "expr": 'sum by (model) (x{le="0.5"})', "labels": {"slo": "a: b # c"}},
        {"record": "d", "expr": "vector(1)"},
    ]
    assert second["rules"] == [
        {
            "alert": "Bad",
            "expr": "x > 1\n  and y",
            "for": "5m",
            "labels": {"severity": "page", "kind": "health", "subject": "s"},
            "annotations": {"summary": "it's {{ $labels.a }}", "description": 'a "b" – c'},
        },
        {
            "alert": "News",
            "expr": "z",
            "labels": {"severity": "ticket", "origin": "modelkeep"},
            "annotations": {"summary": "s", "description": "d"},
        },
    ]
