"""How good the answers are, estimated and by labels."""

from __future__ import annotations

from scripts.dashboards.panels import BY, ONE, Page, Plot

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
