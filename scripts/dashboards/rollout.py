"""Who answers, and the canary beside what is live."""

from __future__ import annotations

from scripts.dashboards.panels import BY, COUNTED, FAILED, ONE, Page, Plot, Rows, quantile, rate, share

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
