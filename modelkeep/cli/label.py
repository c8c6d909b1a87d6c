"""modelkeep label"""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from modelkeep.cli.output import FILE, as_json, dump, open_keep, say
from modelkeep.quantities import counted, seconds

if TYPE_CHECKING:
    from modelkeep.data.label_files import Truth
    from modelkeep.data.labels import Lag, Recorded


@click.command(epilog="Examples: modelkeep label digits truth.csv    modelkeep label digits")
@click.argument("name")
@click.argument("source", type=FILE, required=False)
@as_json
def label(name: str, source: Path | None, json_: bool) -> None:
    """Join the truth in SOURCE (.csv or .parquet with columns id,label, or JSON lines) with the answers of NAME.

    Then, and without SOURCE, say how many answers have a label and how late these came.
    """
    from modelkeep.data import label_files, labels

    truth = label_files.read(source) if source else None
    with open_keep() as keep:
        recorded = keep.label(name, truth.labels if truth else {})
        lag = labels.lag(keep.traffic, name)
    if json_:
        told: dict[str, Any] = {"lag": {**asdict(lag), "coverage": lag.coverage}}
        if truth is not None:
            told = {"labels": recorded.given, "repeated": truth.repeated, **recorded.numbers(), **told}
        return dump(told)
    if truth is not None:
        _say_recorded(recorded, truth)
    return _say_lag(name, lag)


def _say_recorded(recorded: Recorded, truth: Truth) -> None:
    from modelkeep.data.labels import MAX_LABELS

    same = recorded.given - recorded.new - recorded.changed
    say(f"{counted(recorded.given, 'label')}: {recorded.new} new, {recorded.changed} changed, {same} known already")
    if recorded.given > MAX_LABELS:
        say(f"only the newest {MAX_LABELS:,} labels are kept; those before them count no more")
    if truth.repeated:
        say(f"{counted(truth.repeated, 'row')} with an id that comes again further down, where the label counts")
    say(f"{recorded.matched} met a captured request")
    if recorded.unmatched:
        told = ", ".join(recorded.examples) + (", …" if recorded.unmatched > len(recorded.examples) else "")
        why = "never asked here, not captured (above capture_rate a share is), or gone since"
        say(f"{recorded.unmatched} met none ({told}): {why}")


def _say_lag(name: str, lag: Lag) -> None:
    if lag.since is None or lag.coverage is None:
        return say(f"no answer of {name} is captured, so there is nothing to join labels with")
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(lag.since))
    say(f"{lag.labelled} of {counted(lag.answers, 'captured answer')} since {since} got a label: {lag.coverage:.1%}")
    if lag.median is not None and lag.p90 is not None:
        say(f"labels come {seconds(lag.median)} after the answer (median), 90 % within {seconds(lag.p90)}, n {lag.n}")
    return None
