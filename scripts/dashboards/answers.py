"""What the model says, how sure it is, and whether the world is still that of its reference."""

from __future__ import annotations

from scripts.dashboards.panels import BY, ONE, Page, Plot, quantile, rate, share

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
