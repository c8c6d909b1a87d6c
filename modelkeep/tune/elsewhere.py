"""Settings hold where they were measured: what is said of a version tuned here, on another machine, or nowhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from modelkeep.errors import ModelkeepError
from modelkeep.tune.results import label

if TYPE_CHECKING:
    from modelkeep.registry import Registry
    from modelkeep.types import Version

KIND = "untuned"
"""The journal's word for it."""


def tuned(registry: Registry, version: Version, machine: str, options: Mapping[str, Any] | None = None) -> str:
    """A sentence with the setting, its precision first of all, where one was tuned for this fingerprint; else empty.

    ``options`` are fields that a person set otherwise.
    """
    config = registry.config(version, machine)
    if config is None:
        return ""
    wanted = replace(config, **(options or {}))
    but = ", ".join(name.replace("_", " ") for name in options or {} if getattr(wanted, name) != getattr(config, name))
    return f"{version.ref} runs as it was tuned here{f', but for {but}' if but else ''}: {label(wanted)}"


def untuned(registry: Registry, version: Version, machine: str, who: str = "serve") -> str:
    """A sentence where nothing was tuned for this fingerprint; empty where it was. The journal is told once."""
    if registry.config(version, machine) is not None:
        return ""
    elsewhere = registry.machines(version)
    count = len(elsewhere)
    told = f" (it was tuned on {count} other machine{'s' if count != 1 else ''}, or before an upgrade)" if count else ""
    why = f"{version.ref} is untuned on this machine{told}; tune it with: modelkeep tune {version.ref}"
    data = {"number": version.number, "machine": machine, "elsewhere": elsewhere}
    try:
        before = registry.journal(version.name, kind=KIND)
        if not any((e.data.get("number"), e.data.get("machine")) == (version.number, machine) for e in before):
            registry.note(version.name, KIND, why, data, who)
    except ModelkeepError:  # a journal that cannot be written must not stop the server
        pass
    return why
