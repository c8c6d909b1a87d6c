"""API keys: who may ask, look or change, and how often. A file holds their SHA-256 only; a key is shown once.

A key is 32 random bytes, so that a plain hash protects it: there is nothing to guess (OWASP, 'Secrets Management').
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import fcntl
import hashlib
import json
import logging
import os
import re
import secrets
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from modelkeep.errors import BadSettings, Conflict, Damaged, Forbidden, NotFound, Overloaded, Unauthenticated
from modelkeep.settings import Settings

SCOPES = ("infer", "read", "admin")
"""Ask a model and hand in truth; see health, metadata and metrics; change what is served."""
PREFIX = "mk_"
"""So that a scanner of secrets recognises one that was committed."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
LOOK_AGAIN = 1.0
"""Seconds after which the file is looked at again: a revoked key is refused that soon."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Key:
    """What is kept of a key. ``rate`` is in requests a second, a second's worth at once; 0 sets no bound."""

    name: str
    scopes: tuple[str, ...]
    digest: str
    rate: float
    created: float


class Ring:
    """The keys in a file. Written by the verb ``keys``, read by every server."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[Key]:
        """All of them, none where there is no file. Raises BadSettings for a file that is damaged, or that anybody on
        this machine may write to, and so let himself in.
        """
        try:
            if self.path.stat().st_mode & stat.S_IWOTH:
                raise BadSettings(f"everybody may write to {self.path}, and so make keys; first: chmod 600 {self.path}")
            rows = json.loads(self.path.read_text(encoding="utf-8"))["keys"]
            return [Key(**{**row, "scopes": tuple(row["scopes"])}) for row in rows]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise BadSettings(f"the keys in {self.path} cannot be read: {error.strerror}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise BadSettings(f"{self.path} holds no keys that can be read ({error}); mend or remove it") from error

    def add(self, name: str, scopes: Iterable[str], rate: float = 0.0) -> str:
        """A new key, which nobody can show again. Raises BadSettings, Damaged, or Conflict for a name in use."""
        scopes = tuple(dict.fromkeys(scopes))
        if not NAME.fullmatch(name):
            raise BadSettings(f"'{name}' cannot name a key; use letters, digits, '.', '_' and '-', 64 at most")
        if not scopes or not set(scopes) <= set(SCOPES):
            raise BadSettings(
                f"a key needs scopes (--scope), of {', '.join(SCOPES)}; given: {', '.join(scopes) or 'none'}"
            )
        token = PREFIX + secrets.token_urlsafe(32)
        with self._locked():
            there = self.read()
            if any(key.name == name for key in there):
                raise Conflict(f"there is a key '{name}' already; revoke it first: modelkeep keys --revoke {name}")
            self._write([*there, Key(name, scopes, digest(token), rate, time.time())])
        return token

    def revoke(self, name: str) -> None:
        """The key is refused from now on, by running servers within a second. Raises NotFound."""
        with self._locked():
            there = self.read()
            left = [key for key in there if key.name != name]
            if len(left) == len(there):
                raise NotFound(f"there is no key '{name}'; there are: {', '.join(k.name for k in there) or 'none'}")
            self._write(left)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One writer at a time, or of two keys that are added at once one would be lost. Raises Damaged where nothing
        can be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.with_name(f"{self.path.name}.lock").open("w") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                yield
        except OSError as error:
            raise Damaged(
                f"the keys in {self.path} cannot be written: {error.strerror}; they are as they were"
            ) from error

    def _write(self, keys: Iterable[Key]) -> None:
        """In one step, readable by its owner only."""
        fresh = self.path.with_name(f"{self.path.name}.{secrets.token_hex(4)}")
        try:
            with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
                json.dump({"keys": [asdict(key) for key in keys]}, file, indent=2)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self.path)
        except BaseException:  # a full disk, say: the old file stands, and the half-made one goes
            fresh.unlink(missing_ok=True)
            raise


class Gate:
    """Whether a caller may, on every protocol. Open where there is no ring, and with ``until_there`` until it has a
    file, which a running server notices. Belongs to the event loop's thread.
    """

    def __init__(self, ring: Ring | None, *, until_there: bool = False) -> None:
        self._ring = ring
        self._open = ring is None or (until_there and not ring.path.exists())
        self._keys: Mapping[str, Key] = {}
        self._buckets: dict[str, tuple[float, float]] = {}
        self._stamp: object = None
        self._looked = -LOOK_AGAIN
        if ring is not None:
            self._keys = {key.digest: key for key in ring.read()}
            self._stamp = self._stat()

    @property
    def open(self) -> bool:
        """Whether nobody needs a key."""
        if self._open:
            self._look(time.monotonic())
        return self._open

    def find(self, sha256: str) -> Key | None:
        """The key of this digest, for who remembers a caller and not the key; None where it is none, or no more."""
        self._look(time.monotonic())
        return self._keys.get(sha256)

    def admit(self, authorization: str | None, scope: str) -> str:
        """The caller's name, empty where the gate is open.

        ``authorization`` is the header: ``Bearer KEY``, or ``Basic`` with the key as the password, for what can do
        no other. Raises Unauthenticated, Forbidden, and Overloaded above the key's rate.
        """
        if self.open:
            return ""
        now = time.monotonic()
        key = self.find(digest(_token(authorization)))
        if key is None:
            said = "is not known here" if authorization else "is missing"
            raise Unauthenticated(f"the API key {said}; send it as 'Authorization: Bearer KEY'")
        if scope not in key.scopes:
            raise Forbidden(f"key '{key.name}' may {', '.join(key.scopes)}, and this needs scope '{scope}'")
        if key.rate:
            self._take(key, now)
        return key.name

    def _take(self, key: Key, now: float) -> None:
        """One request out of a bucket that fills at the key's rate and holds a second's worth (a token bucket)."""
        size = max(1.0, key.rate)
        left, at = self._buckets.get(key.digest, (size, now))
        left = min(size, left + (now - at) * key.rate)
        if left < 1.0:
            wait = (1.0 - left) / key.rate
            raise Overloaded(f"key '{key.name}' may send {key.rate:g} requests a second; send it again later", wait)
        self._buckets[key.digest] = (left - 1.0, now)

    def _look(self, now: float) -> None:
        if self._ring is None or now - self._looked < LOOK_AGAIN:
            return
        self._looked = now
        stamp = self._stat()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        if self._open:
            self._open = False
            log.warning("there are API keys now: from here on every route asks for one")
        try:
            self._keys = {key.digest: key for key in self._ring.read()}
        except BadSettings as error:
            log.warning("%s; the keys that were read before stay in force", error)

    def _stat(self) -> object:
        with contextlib.suppress(OSError):
            found = self._ring.path.stat() if self._ring else None
            return found and (found.st_mtime_ns, found.st_size, found.st_ino)
        return None


def gate(settings: Settings) -> Gate:
    """Open until there is a file of keys; never where settings name one. Raises BadSettings for one that is damaged."""
    return Gate(Ring(settings.keys_file), until_there=not settings.keys)


def _token(authorization: str | None) -> str:
    kind, _, rest = (authorization or "").partition(" ")
    if kind.lower() == "bearer":
        return rest.strip()
    if kind.lower() == "basic":
        with contextlib.suppress(binascii.Error, UnicodeDecodeError):
            return base64.b64decode(rest, validate=True).decode().partition(":")[2]
    return ""


def digest(token: str) -> str:
    """What is kept of a key: its SHA-256, as hexadecimal digits."""
    # looked up in a dict by the hash of a secret: what the time of a look-up tells says nothing about the secret
    return hashlib.sha256(token.encode()).hexdigest()


def describe(key: Key) -> dict[str, Any]:
    """What a person may see of a key."""
    return {"name": key.name, "scopes": list(key.scopes), "rate": key.rate, "created": key.created}
