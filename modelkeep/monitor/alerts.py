"""Tells a finding: a line on stdout, a POST to a webhook and to Alertmanager where there are such. Trouble with telling
never raises.
"""

from __future__ import annotations

import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException
from typing import TYPE_CHECKING, Any, TextIO
from urllib.parse import urlsplit

from modelkeep.errors import BadSettings

if TYPE_CHECKING:
    from modelkeep.types import Finding

TIMEOUT = 3.0
LASTS = 300.0
"""Seconds that Alertmanager takes a finding to go on for, unless it is told of it again or that it is over."""
ORIGIN = "modelkeep"
"""The label ``origin`` of our alerts: what comes back from Alertmanager with it is no news to modelkeep."""


class Alerts:
    """Where findings are told. ``webhook`` is an http or https URL that takes a JSON document, ``alertmanager`` that of
    an Alertmanager (its API v2 is used); BadSettings for anything else.

    ``told`` and ``failed`` count; a failure is also a line on ``stream``.
    """

    def __init__(
        self, webhook: str | None = None, *, alertmanager: str | None = None, stream: TextIO | None = None
    ) -> None:
        for what, url in (("webhook", webhook), ("Alertmanager", alertmanager)):
            if url is not None and (urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc):
                raise BadSettings(f"the {what} '{url}' is no http:// or https:// address")
        self.webhook, self.alertmanager = webhook, alertmanager
        self._stream = stream
        self.told = self.failed = 0

    def tell(self, ref: str, finding: Finding) -> bool:
        """Tell one finding of a version; whether it reached everybody. Takes 3 s each at most, and never raises."""
        self._line(f"{finding.kind} {ref} {finding.subject}: {finding.why}")
        self.told += 1
        document = {"model": ref, **finding.to_json()}
        heard = self.webhook is None or self._post("webhook", self.webhook, document)
        return self.still(ref, [finding]) and heard

    def still(self, ref: str, findings: Sequence[Finding]) -> bool:
        """These go on: what Alertmanager must hear every few minutes (LASTS). The others are told once only."""
        return self._alert([_alert(ref, finding, LASTS) for finding in findings])

    def over(self, ref: str, finding: Finding) -> bool:
        """It is found no more: a line, and Alertmanager resolves it."""
        self._line(f"{finding.kind} {ref} {finding.subject}: over")
        return self._alert([_alert(ref, finding, 0.0)])

    def _alert(self, alerts: list[dict[str, Any]]) -> bool:
        if self.alertmanager is None or not alerts:
            return True
        return self._post("Alertmanager", self.alertmanager.rstrip("/") + "/api/v2/alerts", alerts)

    def _line(self, text: str) -> None:
        print(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {text}", file=self._stream or sys.stdout, flush=True)

    def _post(self, what: str, url: str, document: Any) -> bool:
        body = json.dumps(document, default=str).encode()
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT):
                return True
        except (urllib.error.URLError, OSError, HTTPException, ValueError) as error:
            self.failed += 1
            self._line(f"the {what} {urlsplit(url).netloc} was not told: {error or repr(error)}")
            return False


def _alert(ref: str, finding: Finding, lasts: float) -> dict[str, Any]:
    """An alert of Alertmanager's API v2. Its labels are what it is known by, so they hold nothing that changes."""
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
        },
        "annotations": {"summary": f"{finding.kind} of {finding.subject}, {ref}", "description": finding.why},
        "startsAt": _iso(min(finding.since or now, now)),
        "endsAt": _iso(now + lasts),
    }


def _iso(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + f".{int(at % 1 * 1000):03d}Z"
