"""What a running server can be told: fields of a ServeConfig over the admin route, bounds of Settings by SIGHUP."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from modelkeep.errors import BadInput, Unsupported, brief
from modelkeep.settings import Settings
from modelkeep.types import ServeConfig

BOUNDS = (
    "max_queue_requests",
    "max_queue_bytes",
    "max_body_bytes",
    "max_head_bytes",
    "max_connections",
    "max_streams",
    "request_timeout",
    "head_timeout",
    "capture_share",
    "capture_rate",
    "sample_share",
    "cache_bytes",
)
"""Fields of Settings that take effect while the server runs; the others need a start."""


@dataclass(frozen=True)
class _Kind:
    """What a field may be: ``told`` says it to a person."""

    told: str
    allows: Callable[[Any], bool]


def _count(most: int, *, free: bool = False) -> _Kind:
    told = f"a whole number from 1 to {most}" + (", or null" if free else "")
    return _Kind(told, lambda v: (free and v is None) or (type(v) is int and 1 <= v <= most))


def _seconds(least: str, allows: Callable[[float], bool], *, free: bool = False) -> _Kind:
    told = f"a number of seconds, {least}" + (", or null" if free else "")
    return _Kind(told, lambda v: (free and v is None) or (type(v) in (int, float) and v < 86_400 and allows(v)))


def _text(*, free: bool = False) -> _Kind:
    return _Kind("text" + (", or null" if free else ""), lambda v: (free and v is None) or (type(v) is str and v != ""))


KINDS: Mapping[str, _Kind] = {
    "engine": _text(),
    "device": _text(),
    "precision": _text(free=True),
    "threads": _count(1024, free=True),
    "workers": _count(256),
    "max_batch": _count(65_536),
    "max_wait": _seconds("0 or more", lambda v: v >= 0),
    "in_process": _Kind("true or false", lambda v: type(v) is bool),
    "run_timeout": _seconds("more than 0", lambda v: v > 0),
    "p99": _seconds("more than 0", lambda v: v > 0, free=True),
}
"""Of every field of ServeConfig, by name."""


def changes(given: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a ServeConfig as they came from outside, checked. Raises BadInput, Unsupported."""
    for name, value in given.items():
        kind = KINDS.get(name)
        if kind is None:
            if name in {f.name for f in fields(Settings)}:
                raise Unsupported(f"'{name}' belongs to the server and not to a model; {_how(name)}")
            raise BadInput(f"'{name}' is no setting of a model; there are: {', '.join(KINDS)}")
        if not kind.allows(value):
            raise BadInput(f"'{name}' is {brief(value)}; give {kind.told}")
    # JSON knows one kind of number; a config that is equal must be so in its kinds too, or it would be loaded again
    floats = {f.name for f in fields(ServeConfig) if "float" in str(f.type)}
    return {n: float(v) if n in floats and v is not None else v for n, v in given.items()}


def _how(name: str) -> str:
    if name in BOUNDS:
        return "set it in modelkeep.toml and send the server SIGHUP"
    return "it is set at the start only, so restart the server with it"


def fixed(now: Settings, fresh: Settings) -> list[str]:
    """The settings that differ and would need a start."""
    return [f.name for f in fields(Settings) if f.name not in BOUNDS and getattr(now, f.name) != getattr(fresh, f.name)]


def bounds(settings: Settings) -> dict[str, Any]:
    """Those of ``settings`` that take effect at once, by name."""
    return {name: getattr(settings, name) for name in BOUNDS}
