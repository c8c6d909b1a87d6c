"""Who looks at the console, and what they may: a cookie where the service asks for keys, a token in every form.

A browser cannot send a key by itself, so a person hands it in once, and a cookie stands for it: HttpOnly, so that no
script reads it; SameSite=Strict, so that no other site's page sends it. A form carries a token that only a page of
this console could know (OWASP, 'Cross-Site Request Forgery Prevention': the signed double-submit cookie). Without
keys, the name that the browser asked for must be this machine's, or another site could pose as it (DNS rebinding).
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection
from starlette.responses import Response

from modelkeep.errors import Forbidden, Unauthenticated
from modelkeep.serve.protocol.keys import Gate, digest

COOKIE = "modelkeep_console"
IDLE, LONGEST = 3600.0, 12 * 3600.0
"""Seconds without a look, and from the log-in, after which a person logs in again."""
MOST = 256
"""Sessions at a time; the one that was idle for longest goes first."""
LOCAL = ("localhost", "localhost.localdomain", "testserver")


@dataclass
class Session:
    """A person who handed a key in; only the key's digest is remembered. Times are on time.monotonic()'s clock."""

    digest: str
    began: float
    seen: float


@dataclass(frozen=True)
class Caller:
    """Who asks. ``key`` is the name of their key, empty where none is needed."""

    key: str
    may_change: bool

    @property
    def who(self) -> str:
        """What the journal says of what they do."""
        return f"console:{self.key}" if self.key else "console"


class Access:
    """The sessions of one console. Belongs to the event loop's thread, as its Gate does."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self._secret = secrets.token_bytes(32)
        self._sessions: OrderedDict[str, Session] = OrderedDict()

    def check_host(self, http: HTTPConnection) -> None:
        """Raises Forbidden where there are no keys and the host's name may be another site's."""
        host = urlsplit(f"//{http.headers.get('host', '')}").hostname or ""
        if self.gate.open and host not in LOCAL and not _is_address(host):
            raise Forbidden(
                f"this console asks for no key, so it answers to this machine's address only, not to '{host[:100]}'; "
                "open it as localhost, or make a key: modelkeep keys --add NAME --scope read --scope admin"
            )

    def caller(self, http: HTTPConnection) -> Caller:
        """Who asks. Raises Unauthenticated where nobody is logged in, and Forbidden for a key that may not look."""
        if self.gate.open:
            return Caller("", True)
        cookie = http.cookies.get(name_of(http), "")
        now, session = time.monotonic(), self._sessions.get(cookie)
        if session is None or now - session.seen > IDLE or now - session.began > LONGEST:
            self._sessions.pop(cookie, None)
            raise Unauthenticated("log in with an API key")
        key = self.gate.find(session.digest)
        if key is None:
            del self._sessions[cookie]
            raise Unauthenticated("the key that you logged in with was revoked; log in with another one")
        if "read" not in key.scopes:
            raise Forbidden(f"key '{key.name}' may {', '.join(key.scopes)}, and to look needs scope 'read'")
        session.seen = now
        self._sessions.move_to_end(cookie)
        return Caller(key.name, "admin" in key.scopes)

    def log_in(self, http: HTTPConnection, key: str) -> str:
        """The cookie of a new session. Raises Unauthenticated, Forbidden, Overloaded."""
        if not self.gate.open and self.gate.find(digest(key.strip())) is None:
            raise Unauthenticated("this key is not known here")
        self.gate.admit(f"Bearer {key.strip()}", "read")
        self.log_out(http)
        now, cookie = time.monotonic(), secrets.token_urlsafe(32)
        while len(self._sessions) >= MOST:
            self._sessions.popitem(last=False)
        self._sessions[cookie] = Session(digest(key.strip()), now, now)
        return cookie

    def log_out(self, http: HTTPConnection) -> None:
        """The session ends; it is harmless where there is none."""
        self._sessions.pop(http.cookies.get(name_of(http), ""), None)

    def visitor(self, http: HTTPConnection) -> tuple[str, str]:
        """A cookie for who has none yet, and the token that belongs to it: a page with a form gives both."""
        cookie = http.cookies.get(name_of(http)) or secrets.token_urlsafe(32)
        return cookie, self._token(cookie)

    def check_form(self, http: HTTPConnection, token: str) -> None:
        """Raises Forbidden for a form that no page of this console sent."""
        cookie = http.cookies.get(name_of(http), "")
        origin = http.headers.get("origin")
        elsewhere = origin is not None and urlsplit(origin).netloc != http.headers.get("host", "")
        if http.headers.get("sec-fetch-site", "same-origin") != "same-origin" or elsewhere:
            raise Forbidden("the form came from another site, so nothing was done")
        if not cookie or not hmac.compare_digest(self._token(cookie), token):
            raise Forbidden("the page is older than the session or the server, so nothing was done; load it again")

    def _token(self, cookie: str) -> str:
        return hmac.new(self._secret, cookie.encode(), hashlib.sha256).hexdigest()


def name_of(http: HTTPConnection) -> str:
    """Cookies are shared by all ports of a host, so each server's has a name of its own."""
    port = (http.scope.get("server") or ("", 0))[1]
    return f"{COOKIE}_{port}"


def set_cookie(response: Response, http: HTTPConnection, value: str) -> None:
    """Until the browser is closed; over TLS only where this came over TLS."""
    path = http.scope.get("root_path", "") or "/"
    secure = http.url.scheme == "https"
    response.set_cookie(name_of(http), value, path=path, secure=secure, httponly=True, samesite="strict")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
