"""Tells a finding: a line on stdout, and a POST to a webhook where there is one. Trouble with telling never raises."""

from __future__ import annotations

import json
import sys
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import TYPE_CHECKING, TextIO
from urllib.parse import urlsplit

from modelkeep.errors import BadSettings

if TYPE_CHECKING:
    from modelkeep.types import Finding

TIMEOUT = 3.0


class Alerts:
    """Where findings are told. ``webhook`` is an http or https URL that takes a JSON document; BadSettings otherwise.

    ``told`` and ``failed`` count; a failure is also a line on ``stream``.
    """

    def __init__(self, webhook: str | None = None, *, stream: TextIO | None = None) -> None:
        if webhook is not None and (urlsplit(webhook).scheme not in ("http", "https") or not urlsplit(webhook).netloc):
            raise BadSettings(f"the webhook '{webhook}' is no http:// or https:// address")
        self.webhook = webhook
        self._stream = stream
        self.told = self.failed = 0

    def tell(self, ref: str, finding: Finding) -> bool:
        """Tell one finding of a version; whether it reached everybody. Takes 3 s at most, and never raises."""
        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        self._line(f"{now} {finding.kind} {ref} {finding.subject}: {finding.why}")
        self.told += 1
        if self.webhook is None:
            return True
        trouble = self._post(json.dumps({"model": ref, **finding.to_json()}, default=str).encode())
        if trouble:
            self.failed += 1
            self._line(f"{now} the webhook {urlsplit(self.webhook).netloc} was not told: {trouble}")
        return not trouble

    def _line(self, text: str) -> None:
        print(text, file=self._stream or sys.stdout, flush=True)

    def _post(self, body: bytes) -> str:
        """What went wrong; empty where nothing did."""
        assert self.webhook is not None
        request = urllib.request.Request(self.webhook, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT):
                return ""
        except (urllib.error.URLError, OSError, HTTPException, ValueError) as error:
            return str(error) or repr(error)
