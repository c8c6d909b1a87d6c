"""Models of tables: trees, and what comes before them."""

from zoo.row import Row


def _row(name: str, model: str, about: str, *, small: bool = False) -> Row:
    return Row(name, "trees", f"{about}, 30 columns", "zoo.trees.write:skops", {"model": model}, small=small)


ROWS = (
    _row("random-forest", "forest", "scikit-learn's random forest of 50 trees", small=True),
    _row("gradient-boosting", "boosting", "scikit-learn's histogram gradient boosting"),
    _row("boosted-regression", "regression", "scikit-learn's gradient boosting for a number"),
    _row(
        "pipeline",
        "pipeline",
        "a scikit-learn pipeline: missing values, scaling, bins, logistic regression",
        small=True,
    ),
)
