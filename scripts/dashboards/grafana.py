"""A page as Grafana reads it: JSON, built with grafana-foundation-sdk.

The SDK is pinned to one schema: an unpinned one resolves to the oldest.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from grafana_foundation_sdk.builders import common, dashboard, heatmap, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as shapes
from grafana_foundation_sdk.models import dashboard as nouns
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from scripts.dashboards.panels import Heat, Number, Page, Panel, Plot, Rows, Target

SOURCE = nouns.DataSourceRef(type_val="prometheus", uid="${datasource}")
Drawn = timeseries.Panel | stat.Panel | heatmap.Panel | table.Panel
INTERVALS_OWN = frozenset({"auto", "auto_count", "auto_min"})
"""What the SDK writes into variables of every kind, and Grafana's schema has for none but intervals."""


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


def _panel(panel: Panel) -> Drawn:
    made = _drawn(panel).title(panel.title).unit(panel.unit).datasource(SOURCE).span(panel.width).height(8)
    return made.description(panel.why) if panel.why else made


def _drawn(panel: Panel) -> Drawn:
    match panel:
        case Plot():
            return _plot(panel)
        case Number():
            return _number(panel)
        case Heat():
            return _heat(panel)
        case Rows():
            return _rows(panel)


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
