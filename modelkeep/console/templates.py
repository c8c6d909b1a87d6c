"""HTML from the files in ``templates/``: every value is escaped, and a name that is not there is an error."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelkeep import __version__, provenance, quantities
from modelkeep.console import words
from modelkeep.extras import need

if TYPE_CHECKING:
    from modelkeep.console.rollouts import Rollout

FOLDER = Path(__file__).with_name("templates")
FILTERS = (
    words.percent,
    words.seconds,
    words.rate,
    quantities.size,
    words.iso,
    words.when,
    words.ago,
    words.facts,
    words.plain,
    provenance.told,
    provenance.said,
)
PARTS = {"overview": ("cards",), "model": ("state", "numbers", "answers", "newest"), "rollouts": ("going", "told")}
"""Of the pages that move, the elements that do; a file of that name below ``parts/`` draws each."""
WIDTH, HEIGHT = 600.0, 80.0
"""Of the drawing of a rollout's weights, in its own units."""


class Templates:
    """The pages of one console. Raises MissingExtra where jinja2 is not installed."""

    def __init__(self, root: str) -> None:
        jinja = need("jinja2", extra="console")
        self._environment = jinja.Environment(
            loader=jinja.FileSystemLoader(FOLDER),
            autoescape=True,
            undefined=jinja.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.globals |= {"root": root, "release": __version__, "weights": weights}
        self._environment.filters |= {one.__name__: one for one in FILTERS}

    def page(self, name: str, context: Mapping[str, Any]) -> str:
        """A whole page."""
        return str(self._environment.get_template(f"{name}.html").render(context))

    def parts(self, page: str, context: Mapping[str, Any]) -> dict[str, str]:
        """What moves on a page, by the ids of its elements."""
        return {
            f"part-{part}": str(self._environment.get_template(f"parts/{part}.html").render(context))
            for part in PARTS[page]
        }


def weights(rollout: Rollout, now: float) -> str:
    """The path of an SVG, WIDTH × HEIGHT: the canary's share over time, from 0 at the foot to 1 at the top."""
    end = rollout.ended or (rollout.steps[-1][0] if rollout.verdict and rollout.steps else now)
    length = max(end - rollout.began, 1e-3)
    path, share = f"M0 {HEIGHT:g}", 0.0
    for at, share in rollout.steps:
        path += f"H{min(at - rollout.began, length) / length * WIDTH:.1f}V{(1 - share) * HEIGHT:.1f}"
    return path + (f"H{WIDTH:g}V{HEIGHT:g}Z" if share or not rollout.steps else f"H{WIDTH:g}Z")
