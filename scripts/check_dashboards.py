"""Type-check the dashboards that are shipped against Grafana's own types, which npm has as @grafana/schema.

    python scripts/check_dashboards.py [FOLDER]

Needs node, npm and its registry, so that it is no part of make test: run it after scripts/dashboards. FOLDER keeps
what npm installs (default: a new one each time). Exit code 1 where a dashboard does not fit, or where a field that was
misspelled on purpose is not noticed: then this check is worth nothing.
"""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

DASHBOARDS = Path(__file__).parents[1] / "modelkeep" / "monitor" / "prometheus" / "dashboards"
PACKAGES = ("@grafana/schema@11.6.0", "typescript@5.9")
ALL = "./node_modules/@grafana/schema/dist/esm"
"""Its own index leaves panels' options and fields untyped."""
RAW = f"{ALL}/raw/composable"
HEAD = f"""\
import type {{ Dashboard, Panel, RowPanel }} from '{ALL}/raw/dashboard/x/dashboard_types.gen';
import type {{ DataQuery }} from '{ALL}/common/common.gen';
import type * as timeseries from '{RAW}/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';
import type * as stat from '{RAW}/stat/panelcfg/x/StatPanelCfg_types.gen';
import type * as heatmap from '{RAW}/heatmap/panelcfg/x/HeatmapPanelCfg_types.gen';
import type * as table from '{RAW}/table/panelcfg/x/TablePanelCfg_types.gen';

// The package has no type for what Prometheus is asked: these are the fields that are used of it.
interface PrometheusQuery extends DataQuery {{
  expr: string;
  legendFormat?: string;
  format?: 'time_series' | 'table' | 'heatmap';
  instant?: boolean;
  range?: boolean;
}}

// What JSON can hold of a type: a text where it has an enumeration of texts.
type Json<T> = 0 extends 1 & T ? any
  : T extends string ? `${{T}}`
  : T extends Function ? never
  : T extends (infer U)[] ? Json<U>[]
  : T extends object ? {{ [K in keyof T]: Json<T[K]> }}
  : T;
"""
OPTIONS = {
    "timeseries": "timeseries.Options",
    "stat": "stat.Options",
    "heatmap": "heatmap.Options",
    "table": "table.Options",
}
CUSTOM = {"timeseries": "timeseries.FieldConfig", "heatmap": "heatmap.FieldConfig", "table": "table.FieldConfig"}


def typescript(page: dict[str, Any]) -> str:
    """A program that compiles where the dashboard fits: as a whole, and options and queries by the kind of panel."""
    lines = [HEAD, _fits({**page, "panels": []}, "Partial<Dashboard>")]
    for panel in page["panels"]:
        if panel["type"] == "row":
            lines.append(_fits(panel, "RowPanel"))
            continue
        lines.append(_fits(panel, "Partial<Panel>"))
        lines.append(_fits(panel.get("options", {}), f"Partial<{OPTIONS[panel['type']]}>"))
        custom = panel.get("fieldConfig", {}).get("defaults", {}).get("custom")
        if custom is not None:
            lines.append(_fits(custom, f"Partial<{CUSTOM[panel['type']]}>"))
        lines += [_fits(target, "PrometheusQuery") for target in panel["targets"]]
    return "\n".join(lines) + "\nexport {};\n"


def _fits(value: Any, kind: str) -> str:
    return f"({json.dumps(value, ensure_ascii=False)}) satisfies Json<{kind}>;"


def compile_(folder: Path, pages: dict[str, dict[str, Any]]) -> str:
    """What tsc says against them; empty where nothing."""
    for old in folder.glob("*.ts"):
        old.unlink()
    for name, page in pages.items():
        (folder / f"{name}.ts").write_text(typescript(page), encoding="utf-8")
    flags = ["--noEmit", "--strict", "--skipLibCheck", "--module", "esnext", "--moduleResolution", "bundler"]
    files = [f"{name}.ts" for name in pages]
    done = subprocess.run(
        ["node_modules/.bin/tsc", *flags, *files], cwd=folder, capture_output=True, text=True, check=False
    )
    return (done.stdout + done.stderr).strip() if done.returncode else ""


def misspelled(page: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The page with one mistake at a time, of each kind that must be noticed."""
    mistakes: dict[str, Callable[[dict[str, Any]], object]] = {
        "title": lambda page: page.update(title=5),
        "unknown": lambda page: page.update(colour="red"),
        "option": lambda page: _first(page)["options"]["legend"].update(placement="above"),
        "query": lambda page: _first(page)["targets"][0].pop("expr"),
        "custom": lambda page: _first(page)["fieldConfig"]["defaults"]["custom"].update(lineWidth="thick"),
    }
    found: dict[str, dict[str, Any]] = {}
    for name, change in mistakes.items():
        found[name] = copy.deepcopy(page)
        change(found[name])
    return found


def _first(page: dict[str, Any]) -> dict[str, Any]:
    panel: dict[str, Any] = next(panel for panel in page["panels"] if panel["type"] == "timeseries")
    return panel


def main(folder: Path) -> int:
    """Install, compile, and see that mistakes are noticed."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "node_modules").is_dir():
        subprocess.run(
            ["npm", "install", "--no-audit", "--no-fund", "--prefix", ".", *PACKAGES], cwd=folder, check=True
        )
    pages = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted(DASHBOARDS.glob("*.json"))}
    if wrong := compile_(folder, pages):
        print(wrong)
        return 1
    unnoticed = [name for name, page in misspelled(pages["service"]).items() if not compile_(folder, {name: page})]
    if unnoticed:
        print(f"these mistakes are not noticed, so that this check is worth nothing: {', '.join(unnoticed)}")
        return 1
    print(f"{len(pages)} dashboards fit {PACKAGES[0]}; 5 mistakes that were made on purpose were noticed")
    return 0


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as room:
        sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else room)))
