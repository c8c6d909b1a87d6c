"""How often does drift raise a false alarm, and how soon a true one, beside other people's detectors?

    python benchmarks/monitor/false_alarms.py [--streams 1000] [--peers 50] [--delays 50] [--only silence]

Streams of normal numbers; of one feature a known share of the requests moves (total variation distance), after 10,000
requests in which nothing moves. Two tables.

1. Silence: the share of streams with any alarm in 10⁶ requests, looked at 1,000 times, where nothing moves, and where
   less moves than the tolerance (10 %), or just as much. modelkeep is given the bin counts that its collector would
   have made, so that 10⁹ requests take minutes; its budget is one false alarm in 10⁸ requests, which gives at most 1 %
   of the streams one in 10⁶ (optional stopping: the sum of the detector's steps less their number is a
   supermartingale), and, beside that, the default, one in 10⁶.
2. Delay: requests from the change until the alarm, for 1.5, 2 and 4 times the tolerance, looked at every 16 requests.

River's ADWIN and PageHinkley, Evidently's default and Kolmogorov-Smirnov on windows of 1,000 watch one feature, in the
environment of requirements.txt. They have no tolerance: "moved 5 %" is a change to them, and to find it is no fault of
theirs, but it is an alarm that nobody asked for.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import others
import streams

from modelkeep.evidence import wilson
from modelkeep.monitor.drift import Drift, Tolerance

QUIET, LONG, WINDOW, CHUNK = 10_000, 1_000_000, 1_000, 16
CAP = 50_000
"""Requests after the change that a delay is waited for."""
TOLERANCE = Tolerance().share
SILENT = (0.0, 0.5, 0.9, 1.0)
LOUD = (1.5, 2.0, 4.0)
"""Shifts, in tolerances."""
FEWER = 10
"""So many times fewer streams are taken of each shift, and of the settings beside the strict one."""


Alarms = dict[str, dict[float, list[int | None]]]
"""By detector and shift (in tolerances), the first alarm in each stream."""


@dataclass(frozen=True)
class Setting:
    """One of modelkeep's own: features that share a budget of one false alarm in ``every`` requests."""

    features: int = 20
    rows: int = 1024
    every: float = 1e6

    def __str__(self) -> str:
        return f"modelkeep, {self.features} features, {self.rows:,} reference rows, 1 in {self.every:.0e}"


STRICT = Setting(every=1e8)
SETTINGS = (STRICT, Setting(), Setting(rows=16_384))


def first_alarm(setting: Setting, seed: Sequence[int], moved: float, n: int, window: int) -> int | None:
    """Requests from the change until the first alarm; negative where it came before, None where there is none."""
    reference = streams.reference(seed, setting.rows, setting.features)
    names = [f"x{at}" for at in range(setting.features)]
    drift = Drift("inputs", reference, names, [None] * setting.features, Tolerance(TOLERANCE, setting.every))
    rng = np.random.default_rng([*seed, 2])
    seen = -QUIET
    for length, far in ((QUIET, 0.0), (n, streams.shift(moved))):
        fars = [far, *[0.0] * (setting.features - 1)]
        each = np.array([streams.shares(*one, drift.bins.count) for one in zip(drift.bins.cuts, fars, strict=True)])
        for counts in streams.counts(rng, each, window, length // window):
            drift.add_counts(counts, window, float(seen), float(seen + window))
            seen += window
            if drift.detector.raised.any():
                return seen
    return None


def theirs(seed: int, number: int, moved: float, n: int) -> dict[str, list[int | None]]:
    """By detector, the first alarm in each stream after the change."""
    given = {"seed": seed, "number": number, "quiet": QUIET, "moved": moved, "n": n, "window": WINDOW}
    command: list[str | Path] = [others.python(), Path(__file__).with_name("detectors.py"), json.dumps(given)]
    environ = {**os.environ, "DO_NOT_TRACK": "1", "OMP_NUM_THREADS": "1"}
    found: dict[str, list[int | None]] = json.loads(
        subprocess.run(command, env=environ, stdout=subprocess.PIPE, text=True, check=True).stdout
    )
    return found


def silence(seed: int, number: int, of_peers: int) -> Alarms:
    """By detector and shift, the first alarms in 10⁶ requests."""
    found: Alarms = {}
    for times in SILENT:
        for setting in SETTINGS:
            each = number // (1 if setting == STRICT and not times else FEWER)
            told(f"{setting}, {times:g}× the tolerance, {each} streams")
            alarms = [first_alarm(setting, (seed, at), times * TOLERANCE, LONG, WINDOW) for at in range(each)]
            found.setdefault(str(setting), {})[times] = alarms
        told(f"the others, {times:g}× the tolerance, {of_peers} streams")
        for name, alarms in theirs(seed, of_peers, times * TOLERANCE, LONG).items():
            found.setdefault(name, {})[times] = alarms
    return found


def delay(seed: int, number: int) -> Alarms:
    """By detector and shift, requests until the alarm."""
    found: Alarms = {}
    for times in LOUD:
        for setting in SETTINGS:
            told(f"{setting}, {times:g}× the tolerance, {number} streams")
            alarms = [first_alarm(setting, (seed, at), times * TOLERANCE, CAP, CHUNK) for at in range(number)]
            found.setdefault(str(setting), {})[times] = alarms
        told(f"the others, {times:g}× the tolerance")
        for name, alarms in theirs(seed, number, times * TOLERANCE, CAP).items():
            found.setdefault(name, {})[times] = alarms
    return found


def told(what: str) -> None:
    """What is being measured."""
    print(what, file=sys.stderr, flush=True)


def share(alarms: Sequence[int | None]) -> str:
    """The share of streams with an alarm, and its interval."""
    n, hits = len(alarms), sum(alarm is not None for alarm in alarms)
    low, high = wilson(hits, n)
    return f"{hits / n:.1%} ({low:.1%} to {high:.1%} of {n:,})"


def delays(alarms: Sequence[int | None]) -> str:
    """Median and 90th percentile of the requests until the alarm; how many streams had none."""
    waited = sorted(CAP if alarm is None else alarm for alarm in alarms)
    missed = sum(alarm is None for alarm in alarms)
    middle, late = median(waited), waited[int(np.ceil(0.9 * len(waited))) - 1]
    if missed > len(waited) / 2:
        return f"{missed} of {len(waited)} none in {CAP:,}"
    return f"{middle:,.0f} ({late:,.0f})" + (f", {missed} none" if missed else "")


def table(found: Alarms, cell: Callable[[Sequence[int | None]], str]) -> str:
    """In Markdown, a line a detector."""
    times = list(next(iter(found.values())))
    lines = [f"| detector | {' | '.join(f'{t:g}× tolerance' if t else 'nothing moves' for t in times)} |"]
    lines.append("|---" * (1 + len(times)) + "|")
    lines += [f"| {name} | {' | '.join(cell(cells[t]) for t in times)} |" for name, cells in found.items()]
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--peers", type=int, default=50, help="streams for the others")
    parser.add_argument("--delays", type=int, default=50, help="streams for the delays")
    parser.add_argument("--only", nargs="*", choices=("silence", "delay"), default=("silence", "delay"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    quiet: Alarms = {}
    loud: Alarms = {}
    if "silence" in given.only:
        quiet = silence(given.seed, given.streams, given.peers)
        said = f"share of streams with any alarm in {LONG:,} requests (95 % interval)"
        print(f"{said}\n\n{table(quiet, share)}\n", flush=True)
    if "delay" in given.only:
        loud = delay(given.seed + 1, given.delays)
        said = f"requests until the alarm, median (90 % within), {given.delays} streams"
        print(f"{said}\n\n{table(loud, delays)}\n", flush=True)
    if given.json:
        given.json.write_text(json.dumps({"silence": quiet, "delay": loud}), encoding="utf-8")
    strict = quiet.get(str(STRICT), {}).values()
    worst = max((sum(alarm is not None for alarm in alarms) / len(alarms) for alarms in strict), default=0.0)
    said = "of no kind of stream do more than 1 % have an alarm that should have none"
    print(f"\n{'ok' if worst <= 0.01 else 'NO'}  {said}")
    raise SystemExit(worst > 0.01)


if __name__ == "__main__":
    main()
