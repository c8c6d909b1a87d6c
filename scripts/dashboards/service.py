"""What was promised, what is asked, how long it takes, and how full the service is."""

from __future__ import annotations

from scripts.dashboards.panels import (
    BY,
    COUNTED,
    FAILED,
    ONE,
    SHADOWLESS,
    Heat,
    Number,
    Page,
    Plot,
    quantiles,
    rate,
    share,
)

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
