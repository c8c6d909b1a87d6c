"""Rules of Prometheus as values, and as the YAML that Prometheus reads (prometheus.io/docs, 'Recording rules')."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

INTERVAL = 30
"""Seconds between two evaluations of a group. Counts that are summed over recorded rates depend on it."""


@dataclass(frozen=True)
class Record:
    """An expression that is evaluated again and again, and kept under a name of its own."""

    record: str
    expr: str
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Alert:
    """An expression that must give nothing. ``severity`` is ``page`` (wake somebody) or ``ticket`` (in work hours).

    ``kind`` and ``subject`` are those of the Finding that it becomes (types.Finding). ``ours`` says that it comes of a
    Finding in the first place, so that it must not become one again.
    """

    alert: str
    expr: str
    severity: str
    kind: str
    summary: str
    description: str
    subject: str = ""
    wait: str = ""
    ours: bool = False

    @property
    def labels(self) -> dict[str, str]:
        """What Alertmanager routes by; a label that is not given here comes from the series."""
        given = {"severity": self.severity, "kind": self.kind, "subject": self.subject}
        return {name: value for name, value in given.items() if value} | ({"origin": "modelkeep"} if self.ours else {})


Rule = Record | Alert


@dataclass(frozen=True)
class Group:
    """Rules that are evaluated one after the other, so that each may use those before it."""

    name: str
    rules: tuple[Rule, ...]


def to_yaml(groups: Iterable[Group]) -> str:
    """A file for ``rule_files``. Every text is quoted as JSON, which YAML reads as it stands."""
    lines = ["groups:"]
    for group in groups:
        lines += [f"  - name: {json.dumps(group.name)}", f"    interval: {INTERVAL}s", "    rules:"]
        for rule in group.rules:
            lines += _of_record(rule) if isinstance(rule, Record) else _of_alert(rule)
    return "\n".join(lines) + "\n"


def _of_record(rule: Record) -> list[str]:
    return [f"      - record: {rule.record}", *_expr(rule.expr), *_map("labels", rule.labels)]


def _of_alert(rule: Alert) -> list[str]:
    wait = [f"        for: {rule.wait}"] if rule.wait else []
    told = {"summary": rule.summary, "description": rule.description}
    head = [f"      - alert: {rule.alert}", *_expr(rule.expr), *wait]
    return [*head, *_map("labels", rule.labels), *_map("annotations", told)]


def _expr(text: str) -> list[str]:
    return ["        expr: |-", *textwrap.indent(textwrap.dedent(text).strip("\n"), " " * 10).splitlines()]


def _map(name: str, pairs: Mapping[str, str]) -> list[str]:
    rows = [f"          {key}: {json.dumps(value, ensure_ascii=False)}" for key, value in pairs.items()]
    return [f"        {name}:", *rows] if rows else []
