"""Measuring what a registry holds: in which setting, who takes part in a search, what is known already, and where the
result is written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelkeep.errors import Busy, Damaged, Wrong
from modelkeep.tune import benchmark, machine, plots
from modelkeep.tune.kept import Kept
from modelkeep.types import Ref, Report, Version

if TYPE_CHECKING:
    from modelkeep.registry import Registry
    from modelkeep.tune.search import Tune


def tune(
    registry: Registry,
    version: Version,
    search: Tune,
    *,
    fresh: bool = False,
    progress: Callable[..., None] | None = None,
    who: str = "person",
) -> Report:
    """Search, and store the settings for this machine where they keep the promise; the report in any case.

    Versions that ``optimize`` made from this one take part; one that wins is named, and its settings are stored, but it
    does not take this one's place. What was measured here before is not measured again, unless ``fresh``.
    """
    others = {other.ref: other for other in cheaper(registry, version)}
    kept = Kept(
        registry,
        version.name,
        machine=machine.fingerprint(*{one.model.format for one in (version, *others.values())}),
        concurrency=search.concurrency,
        digests={"": version.digest, **{ref: other.digest for ref, other in others.items()}},
        who=who,
    )
    try:
        found = search.run(
            registry.checkout(version),
            others={ref: registry.checkout(other) for ref, other in others.items()},
            known=[] if fresh else kept.rounds(),
            remember=kept.remember,
            progress=progress,
        )
    finally:
        kept.write()
    if not found.report.ok:
        registry.add_report(version, found.report, who=who)
        return found.report
    best = {version.ref: (version, found.config, found.report)}
    best |= {ref: (others[ref], config, report) for ref, (config, report) in found.others.items()}
    for one, config, report in best.values():
        registry.set_config(one, machine.fingerprint(one.model.format), config, report, who=who)
    return found.report


def cheaper(registry: Registry, version: Version) -> list[Version]:
    """The versions that optimize made from this one and found to be good enough, with the same signature."""

    def descends(other: Version) -> bool:
        while other.parent is not None and other.parent != version.number:
            other = registry.get(Ref(version.name, other.parent))
        return other.parent is not None

    return [
        other
        for other in registry.versions(version.name)
        if any(report.kind == "optimize" and report.ok for report in other.reports)
        and other.model.signature == version.model.signature
        and descends(other)
    ]


def subject(registry: Registry, version: Version, setting: Mapping[str, Any]) -> benchmark.Subject:
    """What bench measures of a version: its model, in the setting tuned for it here changed by ``setting``."""
    tuned = registry.config(version, machine.fingerprint(version.model.format))
    model = registry.checkout(version)
    return benchmark.Subject(version.ref, model, benchmark.setting(model, tuned, setting))


def kept(registry: Registry, version: Version, report: Report, who: str = "person") -> Report:
    """The report, which is now the version's; where the registry cannot be written to, it says so."""
    try:
        registry.add_report(version, report, who=who)
    except (Damaged, Busy) as error:  # minutes went into measuring: what came of it is told all the same
        return _saying(report, f"this is not kept with {version.ref}: {error}")
    return report


def saved(report: Report, folder: Path) -> tuple[Report, list[Path]]:
    """The report and its files in a folder that nobody asked for; where it cannot be written to, it says so."""
    try:
        return report, plots.save(report, folder)
    except (OSError, Wrong) as error:
        return _saying(report, f"there is no file of this: {error}"), []


def _saying(report: Report, sentence: str) -> Report:
    return replace(report, numbers={**report.numbers, "sentences": [*report.numbers["sentences"], sentence]})
