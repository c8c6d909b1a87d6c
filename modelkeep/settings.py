"""modelkeep.toml and MODELKEEP_* → one frozen Settings.

The order, later wins: the defaults here, ``modelkeep.toml`` in the working folder, the environment.
"""

from __future__ import annotations

import math
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from modelkeep.errors import BadSettings

MOST = {"port": 65535, "grpc_port": 65535} | dict.fromkeys(("slo", "min_accuracy", "capture_share", "sample_share"), 1)
ABOVE_ZERO = frozenset(
    (
        *("max_queue_requests", "max_queue_bytes", "max_body_bytes", "max_head_bytes", "max_connections"),
        "max_streams",
        *("request_timeout", "head_timeout"),
    )
)
"""Numbers without which no request would be answered; all others begin at 0."""
OF_DEVELOPERS = ("MODELKEEP_DATA", "MODELKEEP_TEST_TENSORFLOW")
"""Variables of benchmarks and tests, which are no settings of the product."""
BETWEEN_NAMES = re.compile(r",(?![^\[]*\])")
"""A comma, but not that of x[0,1]."""


@dataclass(frozen=True)
class Settings:
    """What a person may set for all verbs at once. Sizes are bytes, times are seconds.

    ``home`` holds the registry; ``environments`` the libraries that cannot live beside the others; ``store`` the
    artifacts (a folder or any fsspec URL; by default inside home). ``grpc_port`` 0 means no gRPC. ``keys`` is the file
    of API keys, by default inside home; where it is there, every route asks for one. ``anonymous`` lets a server
    without keys listen beyond this machine. ``tls_cert`` and ``tls_key`` are PEM files. ``access_log`` is a file
    (``-``: stderr), which begins anew at ``access_log_bytes``; ``traces`` an OTLP/HTTP URL, or ``console``.
    ``cache_bytes`` is room for answers that were given before; 0 runs every request. Traffic that monitor, rollout and
    update read is kept of ``capture_rate`` requests a second at most on each track, with inputs and outputs of a
    ``capture_share`` (of large ones fewer, see traffic.SPAN). ``sample`` is a folder for parquet files of a
    ``sample_share`` of the requests, with the fields of ``sample_mask`` masked (data.masks); none is kept where it is
    empty. ``collect`` is whether features of requests and answers are counted for monitor; ``ignore`` names those that
    may move, parted by commas.
    """

    home: Path = Path(".modelkeep")
    environments: Path = field(default_factory=lambda: _cache() / "modelkeep" / "environments")
    store: str = ""
    database: str = ""
    host: str = "127.0.0.1"
    port: int = 8080
    grpc_port: int = 0
    keys: str = ""
    anonymous: bool = False
    tls_cert: str = ""
    tls_key: str = ""
    access_log: str = ""
    access_log_bytes: int = 64 * 1024**2
    traces: str = ""
    cache_bytes: int = 0
    max_queue_requests: int = 1024
    max_queue_bytes: int = 256 * 1024**2
    max_body_bytes: int = 64 * 1024**2
    max_head_bytes: int = 32 * 1024
    max_connections: int = 4096
    max_streams: int = 64
    request_timeout: float = 30.0
    head_timeout: float = 10.0
    collect: bool = True
    monitor_every: float = 5.0
    webhook: str = ""
    alertmanager: str = ""
    slo: float = 0.0
    min_accuracy: float = 0.0
    silence: float = 0.0
    ignore: str = ""
    capture_share: float = 1.0
    capture_rate: float = 250.0
    capture_rows: int = 50_000
    capture_bytes: int = 512 * 1024**2
    sample: str = ""
    sample_share: float = 0.1
    sample_bytes: int = 1024**3
    sample_age: float = 7 * 86_400.0
    sample_mask: str = ""

    @property
    def store_url(self) -> str:
        """Where artifacts lie; a folder inside home unless ``store`` says otherwise."""
        return self.store or str(self.home.absolute() / "store")

    @property
    def sample_key(self) -> Path:
        """What masked fields are hashed with; not beside the samples, which are to be shown to others."""
        return self.home.absolute() / "sample.key"

    @property
    def promised(self) -> dict[str, Any]:
        """What monitor holds every version to."""
        ignored = tuple(name.strip() for name in BETWEEN_NAMES.split(self.ignore) if name.strip())
        given = {name: getattr(self, name) for name in ("slo", "min_accuracy", "silence")} | {"ignore": ignored}
        return {name: value for name, value in given.items() if value}

    @property
    def keys_file(self) -> Path:
        """Where API keys are kept; inside home unless ``keys`` says otherwise."""
        return Path(self.keys) if self.keys else self.home.absolute() / "keys.json"


def read(folder: Path | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """The Settings in force. Raises BadSettings that names the file or variable, the key and its kind."""
    folder = Path.cwd() if folder is None else folder
    environ = os.environ if environ is None else environ
    settings = Settings()
    file = folder / "modelkeep.toml"
    if file.is_file():
        try:
            table = tomllib.loads(file.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise BadSettings(f"{file} is not TOML: {error}") from error
        settings = _with(settings, table, str(file))
    prefix = "MODELKEEP_"
    given = {
        key.removeprefix(prefix).lower(): value
        for key, value in environ.items()
        if key.startswith(prefix) and key not in OF_DEVELOPERS
    }
    return _with(settings, given, "the environment")


def _cache() -> Path:
    """Where this person's programs keep what they can make again (XDG Base Directory Specification)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())


def _with(settings: Settings, given: Mapping[str, Any], source: str) -> Settings:
    known = {f.name: type(getattr(settings, f.name)) for f in fields(Settings)}
    changes: dict[str, Any] = {}
    for key, value in given.items():
        if key not in known:
            raise BadSettings(f"{source} sets '{key}', which is no setting; there are: {', '.join(known)}")
        kind: type[Any] = Path if issubclass(known[key], Path) else known[key]
        try:
            changes[key] = _truth(value) if kind is bool else _whole(value) if kind is int else kind(value)
        except (TypeError, ValueError) as error:
            raise BadSettings(f"{source} sets '{key}' to {value!r}, which is not of kind {kind.__name__}") from error
        if kind in (int, float) and (told := _range(key, changes[key])):
            raise BadSettings(f"{source} sets '{key}' to {value!r}; give {told}")
    return replace(settings, **changes)


def _range(key: str, number: float) -> str:
    """What the number has to be; empty where it is that. NaN never is, and nothing is without end."""
    most = MOST.get(key)
    least_fits = number > 0 if key in ABOVE_ZERO else number >= 0
    if least_fits and number < math.inf and (most is None or number <= most):
        return ""
    least = "a number above 0" if key in ABOVE_ZERO else "a number from 0 on"
    return least if most is None else f"a number from 0 to {most}"


def _whole(value: Any) -> int:
    """``int(8080.5)`` is 8080 in Python, and ``int(True)`` 1, which no person means either."""
    if isinstance(value, bool | float):
        raise ValueError(value)
    return int(value)


def _truth(value: Any) -> bool:
    """``bool("false")`` is True in Python, which no person means."""
    known = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    if (word := str(value).lower()) not in known:
        raise ValueError(value)
    return known[word]
