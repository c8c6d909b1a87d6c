"""Write the dashboards that ``modelkeep monitor setup`` gives out, as JSON for Grafana 11.6 and newer.

    python scripts/dashboards.py [FOLDER]

Built with grafana-foundation-sdk, which is pinned to one schema: an unpinned one resolves to the oldest. A test sees
whether what is shipped is what is written here. The JSON is type-checked by scripts/check_dashboards.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from grafana_foundation_sdk.builders import common, dashboard, heatmap, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as shapes
from grafana_foundation_sdk.models import dashboard as nouns
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

INTO = Path(__file__).parents[1] / "modelkeep" / "monitor" / "prometheus" / "dashboards"
SOURCE = nouns.DataSourceRef(type_val="prometheus", uid="${datasource}")
ONE = 'model=~"$model"'
ASKED = f'modelkeep_requests_total{{{ONE},track!="shadow"'
FAILED, COUNTED = 'outcome=~"error|overloaded|late"', 'outcome=~"ok|error|overloaded|late"'
BY = "{{model}}@{{version}}"
WIDTH = 24
"""Columns of Grafana's grid."""

INTERVALS_OWN = frozenset({"auto", "auto_count", "auto_min"})
"""What the SDK writes into variables of every kind, and Grafana's schema has for none but intervals."""
Target = tuple[str, str]
"""An expression, and the legend of its series."""


@dataclass(frozen=True)
class Plot:
    """Lines over time. ``stack`` piles them up, as shares of the whole with ``percent``."""

    title: str
    unit: str
    targets: Sequence[Target]
    why: str = ""
    stack: str = ""
    width: int = 8


@dataclass(frozen=True)
class Number:
    """The value now, of each series. Below ``good`` it is red, above it green; turned round with ``least``."""

    title: str
    unit: str
    targets: Sequence[Target]
    why: str = ""
    good: float | None = None
    width: int = 6


@dataclass(frozen=True)
class Heat:
    """How a histogram moves over time."""

    title: str
    unit: str
    targets: Sequence[Target]
    why: str = ""
    width: int = 12


@dataclass(frozen=True)
class Rows:
    """The labels of the series that there are now, as a table."""

    title: str
    targets: Sequence[Target]
    why: str = ""
    hide: tuple[str, ...] = ()
    unit: str = "none"
    width: int = 12


Panel = Plot | Number | Heat | Rows


@dataclass(frozen=True)
class Page:
    """A dashboard: rows of panels, each with its title."""

    name: str
    title: str
    about: str
    rows: Sequence[tuple[str, Sequence[Panel]]]


# ── what is shown ────────────────────────────────────────────────────────────────────────────────────────────────────


def rate(metric: str, *by: str, where: str = ONE) -> str:
    """How much a counter grows a second, summed up by these labels."""
    series = f"{metric}{{{where}}}" if where else metric
    return f"sum by ({', '.join(by)}) (rate({series}[$__rate_interval]))"


def quantile(q: float, metric: str, *by: str, where: str = ONE) -> str:
    """A quantile of a histogram, by these labels."""
    return f"histogram_quantile({q:g}, {rate(f'{metric}_bucket', 'le', *by, where=where)})"


def quantiles(metric: str, where: str = ONE) -> list[Target]:
    """Median, 95th and 99th percentile by version."""
    return [(quantile(q, metric, "model", "version", where=where), f"{BY} p{100 * q:g}") for q in (0.5, 0.95, 0.99)]


def share(part: str, whole: str) -> str:
    """Of two rates; none, and not zero, where nothing happened."""
    return f"{part} / ({whole} > 0)"


SHADOWLESS = f'{ONE},track!="shadow"'
SERVICE = Page(
    "service",
    "modelkeep: service",
    "What was promised, what is asked, how long it takes, and how full the service is.",
    (
        (
            "Promised, over 30 days",
            (
                Number(
                    "Error budget left",
                    "percentunit",
                    [(f"slo:period_error_budget_remaining:ratio{{{ONE}}}", "{{model}} {{sloth_slo}}")],
                    "1 is a whole budget, 0 none; below 0 the promise is broken.",
                    good=0.1,
                ),
                Number(
                    "Requests that were answered",
                    "percentunit",
                    [(f'1 - slo:sli_error:ratio_rate30d{{{ONE},sloth_slo="availability"}}', "{{model}}")],
                    "Not failed, not turned away, not too late.",
                ),
                Number(
                    "Answers in the promised time",
                    "percentunit",
                    [(f'1 - slo:sli_error:ratio_rate30d{{{ONE},sloth_slo="latency"}}', "{{model}}")],
                ),
                Number("Services", "none", [('sum(up{job="modelkeep"})', "answering")], good=1),
                Plot(
                    "How fast budgets are spent",
                    "none",
                    [
                        (
                            f"slo:sli_error:ratio_rate{window}{{{ONE}}} / on (sloth_id) group_left () "
                            "slo:error_budget:ratio",
                            f"{{{{model}}}} {{{{sloth_slo}}}} {window}",
                        )
                        for window in ("1h", "6h")
                    ],
                    "1 spends exactly the budget of 30 days in 30 days; alerts begin at 14.4 over an hour.",
                    width=24,
                ),
            ),
        ),
        (
            "Requests",
            (
                Plot(
                    "Requests a second",
                    "reqps",
                    [
                        (
                            rate("modelkeep_requests_total", "model", "version", "track"),
                            "{{model}}@{{version}} {{track}}",
                        )
                    ],
                ),
                Plot(
                    "What they came to",
                    "reqps",
                    [(rate("modelkeep_requests_total", "outcome", where=SHADOWLESS), "{{outcome}}")],
                    stack="normal",
                ),
                Plot(
                    "Share that failed",
                    "percentunit",
                    [
                        (
                            share(
                                rate("modelkeep_requests_total", "model", "version", where=f"{SHADOWLESS},{FAILED}"),
                                rate("modelkeep_requests_total", "model", "version", where=f"{SHADOWLESS},{COUNTED}"),
                            ),
                            BY,
                        )
                    ],
                ),
                Plot("Latency", "s", quantiles("modelkeep_request_duration_seconds", SHADOWLESS), width=12),
                Heat(
                    "Latency of all",
                    "s",
                    [
                        (
                            f"sum by (le) (increase(modelkeep_request_duration_seconds_bucket{{{SHADOWLESS}}}"
                            "[$__rate_interval]))",
                            "{{le}}",
                        )
                    ],
                ),
                Plot("Waiting for a worker", "s", quantiles("modelkeep_queue_duration_seconds")),
                Plot("One run of the model", "s", quantiles("modelkeep_compute_duration_seconds")),
                Plot(
                    "Turned away, by reason",
                    "reqps",
                    [(rate("modelkeep_rejections_total", "reason", where=""), "{{reason}}")],
                    "Before or in the queue; those that reached a version are among the requests too.",
                ),
            ),
        ),
        (
            "How full it is",
            (
                Plot("Waiting requests", "short", [(f"modelkeep_queue_depth{{{ONE}}}", BY)]),
                Plot("Requests in the server", "short", [("modelkeep_requests_in_flight", "{{instance}}")]),
                Plot(
                    "Rows of one run, on average",
                    "short",
                    [
                        (
                            share(
                                rate("modelkeep_batch_size_sum", "model", "version"),
                                rate("modelkeep_batch_size_count", "model", "version"),
                            ),
                            BY,
                        )
                    ],
                ),
                Plot("Workers", "short", [(f"modelkeep_workers{{{ONE}}}", BY)]),
                Plot(
                    "Workers that ended",
                    "short",
                    [
                        (
                            f"sum by (model, version, kind) (increase(modelkeep_worker_deaths_total{{{ONE}}}[1h]))",
                            f"{BY} {{{{kind}}}}",
                        )
                    ],
                    "Within the hour before.",
                ),
                Plot(
                    "Cache",
                    "reqps",
                    [
                        (rate("modelkeep_cache_hits_total", "model"), "{{model}} known"),
                        (rate("modelkeep_cache_misses_total", "model"), "{{model}} run"),
                    ],
                    "Both are 0 where serve was given no --cache.",
                ),
            ),
        ),
    ),
)
ANSWERS = Page(
    "answers",
    "modelkeep: answers and drift",
    "What the model says, how sure it is, and whether inputs or answers are no longer those that it was made for.",
    (
        (
            "Drift",
            (
                Plot(
                    "How far they moved",
                    "percentunit",
                    [
                        (f"modelkeep_drift_distance_ratio{{{ONE}}}", f"{BY} {{{{subject}}}}"),
                        (f"modelkeep_drift_tolerance_ratio{{{ONE}}}", f"{BY} {{{{subject}}}} tolerated"),
                    ],
                    "Share of the requests that would have to be others for the reference to come out.",
                ),
                Plot(
                    "Evidence that it is more than tolerated",
                    "none",
                    [
                        (f"modelkeep_drift_log_evidence{{{ONE}}}", f"{BY} {{{{subject}}}}"),
                        (f"modelkeep_drift_log_threshold{{{ONE}}}", f"{BY} {{{{subject}}}} is a finding"),
                    ],
                    "Logarithm of an e-value: each 2.3 make it ten times stronger. It holds however often one looks.",
                ),
                Plot(
                    "Findings",
                    "short",
                    [(f"modelkeep_findings{{{ONE}}}", f"{BY} {{{{kind}}}}")],
                    "What is found now. Since when, and on what evidence: modelkeep journal",
                ),
            ),
        ),
        (
            "Answers",
            (
                Plot(
                    "Classes",
                    "percentunit",
                    [(rate("modelkeep_output_class_total", "model", "version", "class"), f"{BY} {{{{class}}}}")],
                    stack="percent",
                    width=12,
                ),
                Plot(
                    "Confidence",
                    "percentunit",
                    [
                        (quantile(q, "modelkeep_output_confidence", "model", "version"), f"{BY} p{100 * q:g}")
                        for q in (0.05, 0.25, 0.5)
                    ],
                    "The largest probability of an answer; its lower quantiles fall first where the world changes.",
                    width=12,
                ),
                Plot(
                    "Rows with NaN or infinity",
                    "percentunit",
                    [
                        (
                            share(
                                rate("modelkeep_output_invalid_total", "model", "version"),
                                rate("modelkeep_batch_size_sum", "model", "version"),
                            ),
                            BY,
                        )
                    ],
                    width=12,
                ),
                Plot(
                    "Rows answered a second",
                    "short",
                    [(rate("modelkeep_batch_size_sum", "model", "version"), BY)],
                    width=12,
                ),
            ),
        ),
    ),
)
QUALITY = Page(
    "quality",
    "modelkeep: quality",
    "How good the answers are: estimated from calibrated confidence at once, and from labels once they come.",
    (
        (
            "Quality",
            (
                Plot(
                    "Estimated, and by labels",
                    "percentunit",
                    [
                        (f"modelkeep_estimated_quality_ratio{{{ONE}}}", f"{BY} {{{{metric}}}} estimated"),
                        (f"modelkeep_labelled_quality_ratio{{{ONE}}}", f"{BY} {{{{metric}}}} by labels"),
                    ],
                    "The estimate assumes that what a confidence means has not changed (CBPE); where the two part, "
                    "believe the labels.",
                    width=16,
                ),
                Plot(
                    "Error by labels",
                    "none",
                    [(f"modelkeep_labelled_error{{{ONE}}}", f"{BY} {{{{metric}}}}")],
                    "Log loss of classes, or RMSE and MAE of numbers.",
                ),
            ),
        ),
        (
            "Labels",
            (
                Plot(
                    "Share of the answers with a label",
                    "percentunit",
                    [(f"modelkeep_label_coverage_ratio{{{ONE}}}", BY)],
                ),
                Plot("How late labels come", "s", [(f"modelkeep_label_lag_seconds{{{ONE}}}", BY)]),
                Plot(
                    "Findings about quality",
                    "short",
                    [(f'modelkeep_findings{{{ONE},kind="quality"}}', BY)],
                ),
            ),
        ),
    ),
)
HELD = (
    f"modelkeep_track_info{{{ONE}}} * on (instance, model, version) group_left (format, engine, device, precision) "
    "modelkeep_model_info"
)
CANARY = f"{ONE},{COUNTED}"
ROLLOUT = Page(
    "rollout",
    "modelkeep: rollout",
    "Who answers: the weights in force, and the canary beside what is live.",
    (
        (
            "Who answers",
            (
                Rows(
                    "Versions in memory",
                    [(HELD, "")],
                    hide=("Time", "Value", "job", "__name__"),
                ),
                Plot(
                    "Weight in force",
                    "percentunit",
                    [(f"modelkeep_route_weight_ratio{{{ONE}}}", "{{model}} {{track}}")],
                    width=12,
                ),
            ),
        ),
        (
            "The canary beside what is live",
            (
                Plot(
                    "Requests a second",
                    "reqps",
                    [
                        (
                            rate("modelkeep_requests_total", "model", "version", "track"),
                            "{{model}}@{{version}} {{track}}",
                        )
                    ],
                ),
                Plot(
                    "Share that failed",
                    "percentunit",
                    [
                        (
                            share(
                                rate("modelkeep_requests_total", "model", "version", "track", where=f"{ONE},{FAILED}"),
                                rate("modelkeep_requests_total", "model", "version", "track", where=CANARY),
                            ),
                            "{{model}}@{{version}} {{track}}",
                        )
                    ],
                ),
                Plot(
                    "99th percentile",
                    "s",
                    [
                        (
                            quantile(0.99, "modelkeep_request_duration_seconds", "model", "version", "track"),
                            "{{model}}@{{version}} {{track}}",
                        )
                    ],
                ),
                Plot(
                    "Shadow copies left out",
                    "short",
                    [("rate(modelkeep_shadow_dropped_total[$__rate_interval])", "{{instance}}")],
                    "For want of room, so that requests are not crowded out.",
                ),
                Plot(
                    "CPU of the workers for each request",
                    "s",
                    [
                        (
                            share(
                                rate("modelkeep_worker_cpu_seconds_total", "model", "version"),
                                rate("modelkeep_requests_total", "model", "version"),
                            ),
                            BY,
                        )
                    ],
                ),
                Plot(
                    "Estimated quality",
                    "percentunit",
                    [(f"modelkeep_estimated_quality_ratio{{{ONE}}}", f"{BY} {{{{metric}}}}")],
                ),
            ),
        ),
    ),
)
SERVER = 'job="modelkeep"'
MACHINE = Page(
    "machine",
    "modelkeep: machine",
    "Memory, CPU, GPUs and disk, and what monitoring itself costs.",
    (
        (
            "Memory and CPU",
            (
                Plot(
                    "Memory",
                    "bytes",
                    [
                        (f"process_resident_memory_bytes{{{SERVER}}}", "{{instance}} server"),
                        (f"modelkeep_worker_resident_memory_bytes{{{ONE}}}", f"{BY} workers"),
                    ],
                    stack="normal",
                    width=12,
                ),
                Plot(
                    "CPU",
                    "short",
                    [
                        (f"rate(process_cpu_seconds_total{{{SERVER}}}[$__rate_interval])", "{{instance}} server"),
                        (rate("modelkeep_worker_cpu_seconds_total", "model", "version"), f"{BY} workers"),
                        ("modelkeep_machine_cpus", "{{instance}} cores"),
                    ],
                    "Seconds of CPU a second: cores that are busy.",
                    width=12,
                ),
                Plot(
                    "What a model takes",
                    "bytes",
                    [(f"modelkeep_model_memory_bytes{{{ONE}}}", BY)],
                    "Memory that loading and warming up took, in all of its workers.",
                ),
                Plot(
                    "Memory of the machine",
                    "bytes",
                    [
                        ("modelkeep_machine_memory_bytes", "{{instance}} in all"),
                        ("modelkeep_machine_memory_available_bytes", "{{instance}} to be had"),
                    ],
                ),
                Plot(
                    "Disk of the registry",
                    "bytes",
                    [
                        ("modelkeep_home_size_bytes", "{{instance}} in all"),
                        ("modelkeep_home_free_bytes", "{{instance}} free"),
                    ],
                ),
            ),
        ),
        (
            "GPUs (empty where there is none)",
            (
                Plot(
                    "Busy", "percentunit", [("modelkeep_gpu_busy_ratio", "{{instance}} {{gpu}} {{product}}")], width=6
                ),
                Plot(
                    "Memory",
                    "bytes",
                    [
                        ("modelkeep_gpu_memory_used_bytes", "{{instance}} {{gpu}} taken"),
                        ("modelkeep_gpu_memory_bytes", "{{instance}} {{gpu}} in all"),
                    ],
                    width=6,
                ),
                Plot("Of it, by version", "bytes", [(f"modelkeep_model_gpu_memory_bytes{{{ONE}}}", BY)], width=6),
                Plot(
                    "Power",
                    "watt",
                    [("rate(modelkeep_gpu_energy_joules_total[$__rate_interval])", "{{instance}} {{gpu}}")],
                    width=6,
                ),
            ),
        ),
        (
            "Monitoring itself",
            (
                Plot(
                    "CPU of watching",
                    "percentunit",
                    [
                        ("rate(modelkeep_monitor_cpu_seconds_total[$__rate_interval])", "{{instance}} gathering"),
                        ("rate(modelkeep_monitor_look_seconds_total[$__rate_interval])", "{{instance}} looking"),
                    ],
                    "Of one core.",
                ),
                Plot(
                    "Samples left out",
                    "short",
                    [
                        ("rate(modelkeep_monitor_dropped_total[$__rate_interval])", "{{instance}} {{sink}}"),
                        (
                            "rate(modelkeep_monitor_left_out_total[$__rate_interval])",
                            "{{instance}} not looked at: {{reason}}",
                        ),
                        ("rate(modelkeep_traffic_dropped_total[$__rate_interval])", "{{instance}} traffic"),
                        (
                            "rate(modelkeep_traffic_without_inputs_total[$__rate_interval])",
                            "{{instance}} traffic without inputs",
                        ),
                    ],
                    "What monitor says rests on fewer requests then; answers are not touched.",
                ),
                Plot("A scrape", "s", [(f"scrape_duration_seconds{{{SERVER}}}", "{{instance}}")]),
            ),
        ),
    ),
)
PAGES = (SERVICE, ANSWERS, QUALITY, ROLLOUT, MACHINE)


# ── how it is built ──────────────────────────────────────────────────────────────────────────────────────────────────


def build(page: Page) -> dashboard.Dashboard:
    """The dashboard as the SDK's builder."""
    made = (
        dashboard.Dashboard(page.title)
        .uid(f"modelkeep-{page.name}")
        .description(page.about)
        .tags(["modelkeep"])
        .refresh("30s")
        .time("now-1h", "now")
        .timezone("browser")
        .tooltip(nouns.DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(
            dashboard.QueryVariable("model")
            .label("Model")
            .datasource(SOURCE)
            .query("label_values(modelkeep_model_info, model)")
            .refresh(nouns.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(nouns.VariableSort.ALPHABETICAL_ASC)
            .include_all(True)
            .all_value(".+")
            .multi(True)
        )
    )
    for title, panels in page.rows:
        made.with_row(dashboard.Row(title))
        for panel in panels:
            made.with_panel(_panel(panel))
    return made


def _panel(panel: Panel) -> timeseries.Panel | stat.Panel | heatmap.Panel | table.Panel:
    kind = {Plot: _plot, Number: _number, Heat: _heat, Rows: _rows}[type(panel)]
    made = kind(panel).title(panel.title).unit(panel.unit).datasource(SOURCE).span(panel.width).height(8)
    return made.description(panel.why) if panel.why else made


def _queries(targets: Iterable[Target]) -> Iterable[prometheus.Dataquery]:
    for letter, (expr, legend) in zip("ABCDEFGH", targets, strict=False):
        yield prometheus.Dataquery().ref_id(letter).expr(expr).legend_format(legend).datasource(SOURCE)


def _plot(panel: Plot) -> timeseries.Panel:
    made = timeseries.Panel().line_width(1).fill_opacity(30 if panel.stack else 8)
    made.legend(common.VizLegendOptions().show_legend(True).placement(shapes.LegendPlacement.BOTTOM))
    made.tooltip(common.VizTooltipOptions().mode(shapes.TooltipDisplayMode.MULTI))
    if panel.stack:
        made.stacking(common.StackingConfig().mode(shapes.StackingMode(panel.stack)))
    for query in _queries(panel.targets):
        made.with_target(query.range())
    return made


def _number(panel: Number) -> stat.Panel:
    made = (
        stat.Panel()
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .graph_mode(shapes.BigValueGraphMode.AREA)
    )
    if panel.good is not None:
        steps = [nouns.Threshold(value=None, color="red"), nouns.Threshold(value=panel.good, color="green")]
        made.thresholds(dashboard.ThresholdsConfig().mode(nouns.ThresholdsMode.ABSOLUTE).steps(steps))
    for query in _queries(panel.targets):
        made.with_target(query.range())
    return made


def _heat(panel: Heat) -> heatmap.Panel:
    made = heatmap.Panel().calculate(False)
    for query in _queries(panel.targets):
        made.with_target(query.range().format(PromQueryFormat.HEATMAP))
    return made


def _rows(panel: Rows) -> table.Panel:
    made = table.Panel()
    hidden = dict.fromkeys(panel.hide, True)
    made.with_transformation(
        nouns.DataTransformerConfig(id_val="organize", options={"excludeByName": hidden, "indexByName": {}})
    )
    for query in _queries(panel.targets):
        made.with_target(query.instant().format(PromQueryFormat.TABLE))
    return made


def text(page: Page) -> str:
    """The file as it is shipped."""
    found = json.loads(JSONEncoder().encode(build(page).build()))
    for variable in found["templating"]["list"]:
        for field in INTERVALS_OWN & variable.keys():
            del variable[field]
    return json.dumps(found, sort_keys=True, indent=2, ensure_ascii=False) + "\n"


def main(into: Path) -> None:
    """Write all of them."""
    into.mkdir(parents=True, exist_ok=True)
    for page in PAGES:
        (into / f"{page.name}.json").write_text(text(page), encoding="utf-8")
        print(into / f"{page.name}.json")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else INTO)
