"""What does it cost to watch, told to half a percent? One server under load, watched and not, by turns of seconds.

    python benchmarks/monitor/switched.py [--model mlp|large|resnet18|bert-small] [--pairs 30] [--seconds 5] [--lead 30]
                                          [--control] [--json FILE]

Two servers of the same program differ by some percent for as long as they run, which cost.py, where each is started
anew, can only bear with many pairs. Here it is the same process: `modelkeep serve` on the first core, with capture,
collector, metrics and watcher as they are by default, and a switch beside them that a signal turns (SIGUSR1). Off,
nothing is kept for the capture or the collector, and the watcher does not look. From the last core 32 connections load
it for --lead seconds, and then for --pairs times twice --seconds, watched or not in an order that changes from pair to
pair; the first second of each turn, in which the threads finish what was kept before, is left out. Each pair gives a
ratio of requests a second, and one of what an answer takes of the core, which is moved less by what else the machine
does; medians and the sign test's intervals (95 %). What is not seen is what a watched server pays by being another one:
memory, see cost.py. With --control the switch turns nothing, and the ratios must be 1.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from statistics import median
from types import FrameType
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "serving"))

from cost import CONNECTIONS, HIDDEN, HOWS, LEAD, LEAST, Served, home, serving, spent
from load import closed, timed

from modelkeep.cli import main as modelkeep
from modelkeep.data.sampler import Share
from modelkeep.evidence import median_interval
from modelkeep.monitor.thread import Watcher
from modelkeep.serve.plane.plane import Plane

SERVER = "--as-server"
TRACKS = "live", "canary"  # the shadows share the samplers of the live track
SETTLED = 1.0
"""Seconds after a turn of the switch that are not measured."""


class Switch:
    """Beside a server: keeps nothing and does not look where it is off. Turned by SIGUSR1; on at first."""

    def __init__(self) -> None:
        self.on = True
        self._planes: list[Plane] = []
        self._other: dict[int, tuple[Share, ...]] = {}
        begin, look = Plane.__init__, Watcher.turn

        def made(plane: Plane, *given: Any, **named: Any) -> None:
            begin(plane, *given, **named)
            self._planes.append(plane)

        def turn(watcher: Watcher) -> None:
            if self.on:
                look(watcher)

        patched: Any = Plane, Watcher
        patched[0].__init__, patched[1].turn = made, turn
        signal.signal(signal.SIGUSR1, self._turn)

    def _turn(self, number: int, frame: FrameType | None) -> None:
        self.on = not self.on
        kinds = [plane.samplers[track] for plane in self._planes for track in TRACKS]
        for sampler in [one for kind in kinds for one in kind.values()]:
            nobody = tuple(Share(0.0) for _ in sampler.shares)
            other = self._other.pop(id(sampler), nobody)
            self._other[id(sampler)], sampler.shares = sampler.shares, other
            sampler._draw()


def run(room: Path, given: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """By form, requests a second and CPU microseconds a request of each turn, watched and not."""
    served = Served(given.model, room)
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[-1]})
    found: dict[str, dict[str, list[float]]] = {}
    for form, requests in served.requests.items():
        (at := room / form).mkdir()
        of = found[form] = dict[str, list[float]]({f"{how}{what}": [] for how in HOWS for what in ("", " µs")})
        with serving(at, home(at, served, 1), cores[0], {}, [str(Path(__file__)), SERVER]) as (port, pid):
            closed(port, requests, CONNECTIONS, given.lead)
            now = "on"
            for number in range(given.pairs):
                for how in HOWS if number % 2 else HOWS[::-1]:
                    if how != now and not given.control:
                        os.kill(pid, signal.SIGUSR1)
                    now = how
                    closed(port, requests, CONNECTIONS, SETTLED)
                    before = spent(pid)
                    latencies, rate = timed(port, requests, CONNECTIONS, given.seconds)
                    of[how].append(rate)
                    of[f"{how} µs"].append(1e6 * (spent(pid) - before) / len(latencies))
    return found


def compared(over: list[float], under: list[float]) -> tuple[str, float]:
    """The ratios' median with its interval, as text, and the interval's lower end."""
    ratio, low, high = median_interval([a / b for a, b in zip(over, under, strict=True)])
    if low is None:
        return f"{ratio:.3f}", 0.0
    return f"{ratio:.3f} ({low:.3f} to {high:.3f})", low


def main() -> None:
    """Measure and print; or, for ourselves, serve."""
    if SERVER in sys.argv:
        sys.argv.remove(SERVER)
        Switch()
        modelkeep()
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=[*HIDDEN, "resnet18", "bert-small"], default="mlp")
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--lead", type=float, default=LEAD)
    parser.add_argument("--control", action="store_true")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as room:
        found = run(Path(room), given)
    print(
        "| requests | watched, requests/s | not, requests/s | of the throughput (95 %) | of a core's answers (95 %) |"
    )
    print("|---|---|---|---|---|")
    good = True
    for form, of in found.items():
        told, least = compared(of["on"], of["off"])
        rates = " | ".join(f"{median(of[how]):,.0f}" for how in HOWS)
        print(f"| {form} | {rates} | {told} | {compared(of['off µs'], of['on µs'])[0]} |")
        good = good and least >= LEAST
    print(f"\n{'ok' if good else 'NO'}  at least {LEAST:.0%} of the throughput, by the whole interval")
    if given.json:
        given.json.write_text(json.dumps(found), encoding="utf-8")
    raise SystemExit(not good)


if __name__ == "__main__":
    main()
