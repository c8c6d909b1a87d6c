"""Names, labels, and series that come and go with versions."""

from __future__ import annotations

import subprocess
import sys

import pytest
from prometheus_client.metrics_core import Metric

from modelkeep.metrics import KEPT, MAX_CLASSES, OUTCOMES, REASONS, Metrics, parse
from modelkeep.types import ServeConfig


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def load(metrics: Metrics, number: int, engine: str = "onnxruntime") -> None:
    metrics.loaded("digits", number, "onnx", ServeConfig(engine=engine))


def test_outcomes_and_reasons_are_there_at_zero(metrics: Metrics) -> None:
    metrics.track("digits", 1, "live")
    text = metrics.render().decode()
    for outcome in OUTCOMES:
        line = f'modelkeep_requests_total{{model="digits",outcome="{outcome}",track="live",version="1"}} 0.0'
        assert line in text
    for reason in REASONS:
        assert f'modelkeep_rejections_total{{reason="{reason}"}} 0.0' in text
    assert "process_resident_memory_bytes" in text


def test_deaths_are_there_at_zero_from_the_first_scrape_on(metrics: Metrics) -> None:
    metrics.loaded("m", 1, "onnx", ServeConfig())
    text = metrics.render().decode()
    for kind in ("crash", "hang", "kill"):
        assert f'modelkeep_worker_deaths_total{{kind="{kind}",model="m",version="1"}} 0.0' in text


def test_what_is_bumped_is_read(metrics: Metrics) -> None:
    series = metrics.track("digits", 2, "canary")
    series.record("ok", 0.004)
    metrics.version("digits", 2).batch.observe(8)
    metrics.rejected("queue_full")
    where = {"model": "digits", "version": "2"}
    assert metrics.value("modelkeep_requests_total", **where, track="canary", outcome="ok") == 1
    assert metrics.value("modelkeep_request_duration_seconds_bucket", **where, track="canary", le="0.005") == 1
    assert metrics.value("modelkeep_request_duration_seconds_bucket", **where, track="canary", le="0.002") == 0
    assert metrics.value("modelkeep_batch_size_sum", **where) == 8
    assert metrics.value("modelkeep_rejections_total", reason="queue_full") == 1
    assert metrics.value("modelkeep_no_such_thing") == 0


def test_children_are_made_once(metrics: Metrics) -> None:
    assert metrics.track("digits", 1, "live") is metrics.track("digits", 1, "live")
    assert metrics.version("digits", 1) is metrics.version("digits", 1)


def test_classes_beyond_the_cap_are_counted_as_other(metrics: Metrics) -> None:
    series = metrics.version("digits", 1)
    for index in range(MAX_CLASSES + 5):
        series.answered(f"class {index}", 2)
    series.answered("class 0", 1)
    where = {"model": "digits", "version": "1"}
    assert metrics.value("modelkeep_output_class_total", **where, **{"class": "class 0"}) == 3
    assert metrics.value("modelkeep_output_class_total", **where, **{"class": "other"}) == 10


def test_info_follows_what_is_in_memory_also_while_settings_change(metrics: Metrics) -> None:
    where = {"model": "digits", "version": "1", "format": "onnx", "device": "cpu", "precision": "own"}
    load(metrics, 1)
    load(metrics, 1, engine="openvino")  # new settings are loaded before the old ones are closed
    assert metrics.value("modelkeep_model_info", **where, engine="openvino") == 1
    assert 'engine="onnxruntime"' not in metrics.render().decode()
    metrics.retire("digits", 1)
    assert metrics.value("modelkeep_model_info", **where, engine="openvino") == 1
    metrics.retire("digits", 1)
    assert "modelkeep_model_info{" not in metrics.render().decode()


def test_series_of_old_versions_go_at_last_and_a_return_starts_anew(metrics: Metrics) -> None:
    for number in range(1, KEPT + 3):
        load(metrics, number)
        metrics.track("digits", number, "live").record("ok", 0.001)
        metrics.version("digits", number).answered("7", 1)
        metrics.retire("digits", number)
    text = metrics.render().decode()
    assert 'version="1"' not in text
    assert 'version="2"' not in text
    assert text.count('outcome="ok"') == KEPT
    load(metrics, 1)
    metrics.version("digits", 1).answered("7", 1)
    assert metrics.value("modelkeep_output_class_total", model="digits", version="1", **{"class": "7"}) == 1


def test_versions_that_come_and_go_keep_their_counts(metrics: Metrics) -> None:
    for turn in range(3 * KEPT):
        number = 1 + turn % 2
        load(metrics, number)
        metrics.track("digits", number, "live").record("ok", 0.001)
        metrics.retire("digits", number)
    load(metrics, 1)
    for number in (1, 2):
        where = {"model": "digits", "version": str(number), "track": "live", "outcome": "ok"}
        assert metrics.value("modelkeep_requests_total", **where) == 1.5 * KEPT


def test_weights_and_values_read_at_scrape_time(metrics: Metrics) -> None:
    metrics.weights("digits", {"live": 0.9, "canary": 0.1})
    depth = [3.0]
    metrics.watch("modelkeep_queue_depth", "waiting", lambda: [({"model": "digits"}, depth[0])])
    metrics.watch("modelkeep_traffic_dropped_total", "lost", lambda: [({}, 2.0)])
    metrics.watch("modelkeep_nothing", "no sample yet", list)
    assert metrics.value("modelkeep_route_weight_ratio", model="digits", track="canary") == 0.1
    depth[0] = 5.0
    assert metrics.value("modelkeep_queue_depth", model="digits") == 5
    assert "# TYPE modelkeep_traffic_dropped_total counter" in metrics.render().decode()


def test_importing_the_package_does_not_import_prometheus() -> None:
    code = "import modelkeep, sys; sys.exit('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_page_is_read_back_as_families() -> None:
    labels = (("class", "cat"), ("model", "m"), ("version", "1"))
    metrics = Metrics()
    metrics.track("m", 1, "live").record("ok", 0.003)
    metrics.version("m", 1).answered("cat", 2)

    def values(family: Metric) -> dict[object, float]:
        return {
            (s.name, tuple(sorted(s.labels.items()))): s.value
            for s in family.samples
            if not s.name.endswith("_created")
        }

    parsed = {family.name: values(family) for family in parse(metrics.render().decode())}
    assert parsed["modelkeep_output_class"] == {("modelkeep_output_class_total", labels): 2.0}
    for family in metrics.of_requests():
        assert values(family) == parsed[family.name]
    assert [family.name for family in metrics.of_requests()] == [
        "modelkeep_requests",
        "modelkeep_request_duration_seconds",
        "modelkeep_output_class",
    ]
