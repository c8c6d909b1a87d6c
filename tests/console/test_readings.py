"""Counters to rates and quantiles: of a service's own metrics, of another's page, and of captured traffic."""

from __future__ import annotations

import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, HTTPServer
from math import inf
from pathlib import Path
from threading import Thread

import pytest

from modelkeep.console import readings
from modelkeep.console.readings import Captured, Reading, Scraped, Served, between, quantile
from modelkeep.data.traffic import Exchange, TrafficLog
from modelkeep.errors import BadSettings, NotReady, Unauthenticated
from modelkeep.metrics import Metrics


def filled(metrics: Metrics, n: int, *, seconds: float = 0.003, track: str = "live", outcome: str = "ok") -> None:
    series = metrics.track("digits", 1, track)
    for _ in range(n):
        series.record(outcome, seconds)


def test_between_two_readings_of_a_service() -> None:
    metrics = Metrics()
    filled(metrics, 5)
    source = Served(metrics)
    before = source.read()
    filled(metrics, 98)
    filled(metrics, 2, seconds=0.3)
    filled(metrics, 10, track="canary", seconds=0.03)
    filled(metrics, 4, outcome="error")
    filled(metrics, 7, track="shadow", outcome="error")
    metrics.version("digits", 1).answered("seven", 30)
    after = source.read()
    after.at = before.at + 2.0
    point = between(before, after, "digits")
    assert point.rates == {"live": 50.0, "canary": 5.0, "shadow": 0.0}
    assert point.failed == 2.0, "a shadow's failure reaches nobody"
    assert 0.002 < point.p50["live"] <= 0.005
    assert 0.02 < point.p99["canary"] <= 0.05
    assert point.classes == {"seven": 30.0}
    assert point.to_json()[:4] == [after.at, 50.0, 5.0, 2.0]
    assert between(before, after, "other").rates == {}


def test_a_service_that_began_anew_gives_no_negative_rates() -> None:
    before, after = Reading(1.0), Reading(2.0)
    before.requests[("digits", "1", "live", "ok")] = 100
    after.requests[("digits", "1", "live", "ok")] = 3
    assert between(before, after, "digits").rates == {"live": 0.0}


@pytest.mark.parametrize(
    ("buckets", "q", "found"),
    [
        ([], 0.5, None),
        ([(0.1, 0.0), (inf, 0.0)], 0.5, None),
        ([(0.1, 0.0), (0.2, 10.0), (inf, 10.0)], 0.5, 0.15),
        ([(0.1, 0.0), (0.2, 0.0), (inf, 10.0)], 0.5, 0.2),
        ([(0.1, 100.0), (inf, 100.0)], 0.99, 0.099),
    ],
)
def test_quantiles_as_prometheus_has_them(buckets: list[tuple[float, float]], q: float, found: float | None) -> None:
    assert quantile(buckets, q) == (None if found is None else pytest.approx(found))


class Page(BaseHTTPRequestHandler):
    """/metrics behind a key."""

    text = b""

    def do_GET(self) -> None:
        allowed = self.headers.get("Authorization") == "Bearer right"
        self.send_response(200 if allowed else 401)
        self.end_headers()
        if allowed:
            self.wfile.write(self.text)

    def log_message(self, *_: object) -> None:
        pass


def test_another_process_is_read_with_its_key() -> None:
    metrics = Metrics()
    filled(metrics, 3)
    Page.text = metrics.render()
    with HTTPServer(("127.0.0.1", 0), Page) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        assert Scraped(f"{url}/", "right").read().requests[("digits", "1", "live", "ok")] == 3
        with pytest.raises(Unauthenticated, match="give it in a file with --key-file"):
            Scraped(url, "wrong").read()
        Page.text = b"{ no metrics"
        with pytest.raises(NotReady, match="cannot be read"):
            Scraped(url, "right").read()
        server.shutdown()
    with pytest.raises(NotReady, match="is the service running"):
        Scraped(url, "right").read()
    for wrong in ("file:///etc/passwd", "127.0.0.1:8080"):
        with pytest.raises(BadSettings, match="is no address of a service"):
            Scraped(wrong)


def captured(path: Path, n: int, *, at: float, outcome: str = "ok") -> None:
    log = TrafficLog(path)
    for number in range(n):
        log.offer(Exchange(f"{at}-{number}", at + number / n, "digits", 1, "live", outcome, 0.004))
    log.close()


def test_captured_traffic_counts_from_now_on(tmp_path: Path) -> None:
    path, now = tmp_path / "traffic.db", time.time()
    captured(path, 3, at=now - 10)
    source = Captured(path, lambda: ["digits"])
    before = source.read()
    captured(path, 20, at=now)
    captured(path, 5, at=now, outcome="late")
    after = source.read()
    after.at = before.at + 1
    point = between(before, after, "digits")
    assert (point.rates, point.failed) == ({"live": 20.0}, 5.0)
    assert 0.002 < point.p50["live"] <= 0.005
    for file in tmp_path.glob("traffic.db*"):
        file.unlink()
    captured(path, 4, at=now)
    assert source.read().requests[("digits", "1", "live", "ok")] == 24


def test_the_past_comes_from_captured_traffic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, now = tmp_path / "traffic.db", 1_000_000.0
    monkeypatch.setattr(time, "time", lambda: now)
    assert readings.before_now(path, "digits") == []
    captured(path, 10, at=now - 5)
    captured(path, 2, at=now - 3)
    points = readings.before_now(path, "digits", seconds=8)
    rates = {point.at: point.rates.get("live", 0.0) for point in points}
    assert rates[now - 4] == 10.0
    assert rates[now - 3] == 0.0
    assert rates[now - 2] == 2.0
    monkeypatch.setattr(readings, "MOST_ROWS", 2)
    assert [p.at for p in readings.before_now(path, "digits", seconds=8)] == [now - 1, now], "of what is told in full"
    path.write_bytes(b"no database" * 100)
    assert readings.before_now(path, "digits") == []


def test_counts_are_cumulative_by_bound() -> None:
    reading = Reading(0.0)
    readings.count(reading, Exchange("a", 0.0, "m", 2, "canary", "ok", 0.03))
    assert reading.requests == Counter({("m", "2", "canary", "ok"): 1})
    assert reading.buckets[("m", "canary", 0.02)] == 0
    assert reading.buckets[("m", "canary", 0.05)] == reading.buckets[("m", "canary", inf)] == 1
