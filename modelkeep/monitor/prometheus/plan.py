"""What ``monitor setup`` is told: which services are scraped, what was promised, where the two programs listen."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from modelkeep.errors import BadSettings
from modelkeep.metrics import SECONDS

FILE = "setup.json"
"""Where a folder keeps the Plan that it was written from."""


@dataclass(frozen=True)
class Plan:
    """``targets`` are the services' URLs; the first is told of alerts. ``key_file`` holds an API key of them, which may
    ``read`` and, to tell alerts, ``admin``; ``ca_file`` the certificate that signed theirs.

    ``availability`` is the share of requests that may not fail, over 30 days; ``p99`` seconds, within which 99 % of the
    answers come: a bound of the histogram (metrics.SECONDS), for no other can be counted. ``prometheus`` and
    ``alertmanager`` are HOST:PORT, where they listen. Raises BadSettings.
    """

    targets: tuple[str, ...] = ("http://127.0.0.1:8080",)
    availability: float = 0.999
    p99: float = 0.5
    key_file: str = ""
    ca_file: str = ""
    prometheus: str = "127.0.0.1:9090"
    alertmanager: str = "127.0.0.1:9093"

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", tuple(target.rstrip("/") for target in self.targets))
        if not self.targets:
            raise BadSettings("there is no service to watch; give one with --target http://127.0.0.1:8080")
        for target in self.targets:
            _check_url(target)
        if len({urlsplit(target).scheme for target in self.targets}) > 1:
            raise BadSettings("some targets are http and some https; set up one folder for each")
        if not 0 < self.availability < 1:
            raise BadSettings(f"an availability of {self.availability!r} leaves no budget; give a share such as 99.9%")
        if self.p99 not in SECONDS:
            bounds = ", ".join(f"{bound:g}s" for bound in SECONDS)
            raise BadSettings(f"answers within {self.p99:g} s cannot be counted; give one of these times: {bounds}")
        for address in (self.prometheus, self.alertmanager):
            host, _, port = address.rpartition(":")
            if not host or not port.isdigit() or not 0 < int(port) < 65536:
                raise BadSettings(f"'{address}' is not HOST:PORT, such as 127.0.0.1:9090")
        for file in (self.key_file, self.ca_file):
            if file and not Path(file).is_file():
                raise BadSettings(f"there is no file {file}")

    def to_json(self) -> str:
        """A form that ``from_json`` reads back."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The Plan that ``to_json`` wrote. Raises BadSettings for anything else."""
        try:
            given: Mapping[str, Any] = json.loads(text)
            return cls(**{**given, "targets": tuple(given["targets"])})
        except (ValueError, TypeError, KeyError) as error:
            known = ", ".join(f.name for f in fields(cls))
            raise BadSettings(f"this is no plan of monitor setup ({error}); it has {known}") from error


def _check_url(target: str) -> None:
    parts = urlsplit(target)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.path or parts.query:
        raise BadSettings(f"'{target}' is no address of a service; give it as http://HOST:PORT")
