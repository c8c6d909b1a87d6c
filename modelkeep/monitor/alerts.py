"""Tells a finding: a line on stdout, a POST to a webhook and to Alertmanager where there are such. Trouble with telling
never raises.
"""

from __future__ import annotations

import json
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from typing import TYPE_CHECKING, Any, TextIO
from urllib.parse import urlsplit

from modelkeep.errors import BadSettings

if TYPE_CHECKING:
    from modelkeep.types import Finding

TIMEOUT = 3.0
TAKEN, MOVED = range(200, 300), range(300, 400)
LATER = (0, 408, 429, *MOVED)
"""Statuses that say nothing against the document: it may be sent again, as after 5xx."""
HEARD = 1000
"""Documents that are not sent again even where the journal could not be told that they were answered."""
SETTLES = 60.0
"""Seconds that Alertmanager holds on to what is over: by then the rules of Prometheus, which look at a gauge (scraped
each 10 s, judged each 30 s), have seen it too, and do not tell of it as news.
"""
ORIGIN = "modelkeep"
"""The label ``origin`` of our alerts: what comes back from Alertmanager with it is no news to modelkeep."""

BY = "service"
"""The label ``by`` of what the service tells itself: while it does, Alertmanager mutes what rules say of the same kind.
"""


class Alerts:
    """Where findings are told. ``webhook`` is an http or https URL that takes a JSON document, ``alertmanager`` that of
    an Alertmanager (its API v2 is used); BadSettings for anything else.

    ``failed`` counts; a failure is also a line on ``stream``, the first of several like it.
    """

    def __init__(
        self, webhook: str | None = None, *, alertmanager: str | None = None, stream: TextIO | None = None
    ) -> None:
        for what, url in (("webhook", webhook), ("Alertmanager", alertmanager)):
            if url is not None and (urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc):
                raise BadSettings(f"the {what} '{url}' is no http:// or https:// address")
        self.webhook, self.alertmanager = webhook, alertmanager
        self._stream = stream
        self.failed = 0
        self._heard: dict[int, bool] = {}
        """The newest documents that the webhook has answered, and whether it took them."""
        self._sent: dict[str, _Sent] = {}
        """The last request, by who was asked."""
        self._trouble: dict[str, str] = {}
        """What went wrong last, by whom it was to be told; empty where nothing did."""

    def tell(self, ref: str, finding: Finding) -> bool:
        """A line for one finding of a version, and an alert; whether Alertmanager took it. Takes 3 s at most."""
        self._line(f"{finding.kind} {ref} {finding.subject}: {finding.why}")
        return self.still(ref, [finding])

    def still(self, ref: str, findings: Sequence[Finding]) -> bool:
        """These go on: what Alertmanager must hear every few minutes (its ``resolve_timeout``, 5 unless set). The
        others are told once only."""
        return self._alert([_alert(ref, finding) for finding in findings])

    def over(self, ref: str, finding: Finding) -> bool:
        """It is found no more: a line, and Alertmanager resolves it after SETTLES."""
        self._line(f"{finding.kind} {ref} {finding.subject}: over")
        return self._alert([_alert(ref, finding) | {"endsAt": _iso(time.time() + SETTLES)}])

    def hook(self, number: int, document: Mapping[str, Any]) -> bool | None:
        """Whether the webhook took a document, None where it is to be sent again; one that was answered never is."""
        if self.webhook is not None and number not in self._heard:
            status = self._post("webhook", self.webhook, document)
            if status in LATER or status >= 500:
                return None
            self._heard[number] = status in TAKEN
            if len(self._heard) > HEARD:
                del self._heard[next(iter(self._heard))]
        return self._heard.get(number)

    def _alert(self, alerts: list[dict[str, Any]]) -> bool:
        if self.alertmanager is None or not alerts:
            return True
        return self._post("Alertmanager", self.alertmanager.rstrip("/") + "/api/v2/alerts", alerts) in TAKEN

    def _line(self, text: str) -> None:
        print(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {text}", file=self._stream or sys.stdout, flush=True)

    def _post(self, what: str, url: str, document: Any) -> int:
        """The status of the answer; 0 where none came. Whoever keeps us waiting still is not asked meanwhile."""
        before = self._sent.get(what)
        if before is None or not before.is_alive():
            body = json.dumps(document, default=str).encode()
            sent = self._sent[what] = _Sent(urllib.request.Request(url, body, {"Content-Type": "application/json"}))
            status, error = sent.answer()
        else:
            status, error = before.late
        if not error:
            self._trouble.pop(what, None)
            return status
        self.failed += 1
        where = urlsplit(url).netloc.rpartition("@")[2]  # no password
        trouble = f"the {what} {where} was not told: {error}"
        if trouble != self._trouble.get(what):
            self._line(trouble)
        self._trouble[what] = trouble
        return status


class _Sent(threading.Thread):
    """One request, in a thread of its own: a timeout of urllib is for each part of an answer, so that one which comes
    byte by byte would hold the look, and all who wait for it, for as long as it likes."""

    late = 0, f"no answer came in {TIMEOUT:g} s"

    def __init__(self, request: urllib.request.Request) -> None:
        super().__init__(name="alerts", daemon=True)
        self._request, self._answer = request, self.late
        self.start()

    def answer(self) -> tuple[int, str]:
        """The status, 0 where none came, and what went wrong. Takes TIMEOUT at most."""
        self.join(TIMEOUT)
        return self._answer

    def run(self) -> None:
        try:
            with urllib.request.build_opener(_Stay).open(self._request, timeout=TIMEOUT) as answer:
                self._answer = int(answer.status), ""
        except urllib.error.HTTPError as error:
            hint = " (give the address that it redirects to)" if error.code in MOVED else ""
            self._answer = error.code, f"{error}{hint}"
        except (OSError, HTTPException, ValueError) as error:
            silent = isinstance(getattr(error, "reason", error), TimeoutError)
            self._answer = self.late if silent else (0, str(error) or repr(error))


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: a POST would become a GET, whose answer says nothing of what was posted."""

    def redirect_request(self, *_: Any) -> None:
        """None, so that the redirect is an HTTPError."""


def _alert(ref: str, finding: Finding) -> dict[str, Any]:
    """An alert of Alertmanager's API v2. Its labels are what it is known by, so they hold nothing that changes. Its end
    is not said: of two ends that are still to come Alertmanager takes the later, and would be deaf to an earlier one.
    """
    now = time.time()
    model, _, version = ref.rpartition("@")
    return {
        "labels": {
            "alertname": "Modelkeep" + "".join(word.capitalize() for word in finding.kind.split("-")),
            "model": model,
            "version": version,
            "kind": finding.kind,
            "subject": finding.subject,
            "severity": "page" if finding.kind in ("health", "no-data") else "ticket",
            "origin": ORIGIN,
            "by": BY,
        },
        "annotations": {"summary": f"{finding.kind} of {finding.subject}, {ref}", "description": finding.why},
        "startsAt": _iso(min(finding.since or now, now)),
    }


def _iso(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + f".{int(at % 1 * 1000):03d}Z"
