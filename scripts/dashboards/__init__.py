"""The dashboards that ``modelkeep monitor setup`` gives out: one file for each, and how they are built."""

from __future__ import annotations

from pathlib import Path

from scripts.dashboards import answers, grafana, machine, quality, rollout, service

PAGES = (service.SERVICE, answers.ANSWERS, quality.QUALITY, rollout.ROLLOUT, machine.MACHINE)


def write(into: Path) -> None:
    """Write all of them into a folder, as JSON for Grafana 11.6 and newer."""
    into.mkdir(parents=True, exist_ok=True)
    for page in PAGES:
        (into / f"{page.name}.json").write_text(grafana.text(page), encoding="utf-8")
        print(into / f"{page.name}.json")
