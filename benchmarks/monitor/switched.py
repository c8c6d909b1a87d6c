"""What does it cost to watch, told on a machine whose speed changes by the second? Two servers, watched by turns.

    python benchmarks/monitor/switched.py [--model mlp|large|resnet18|bert-small] [--pairs 20] [--seconds 5] [--lead 30]
                                          [--control] [--json FILE]

Two servers of the same program differ by some percent for as long as they run, and a core that is shared with other
guests by more from one second to the next, which cost.py, where one server runs after the other, can only bear with
many pairs. Here both run at the same time on the first core, so that what slows one slows the other, and change places:
`modelkeep serve` with capture, collector, metrics and watcher as they are by default, and a switch beside them that a
signal turns (SIGUSR1). Off, nothing is kept for the capture or the collector, and the watcher does not look. From the
last core 16 connections load each, for --lead seconds, and then for --pairs times twice --seconds, in which first one
and then the other is watched; the first second of each turn, in which the threads finish what was kept before, is left
out. The CPU time of an answer, watched over not, is the geometric mean of the two turns: neither which server it was
nor how fast the core was just then is left in it. Median of the pairs and the sign test's interval (95 %).

As many requests a second are kept of a server that has half of a core as of one that has all of it, so what watching
takes is told as a share of the core: of the throughput of a server that has the core for itself as much is lost. What
is not seen is what a watched server pays by being another one: memory, see cost.py. With --control the switch turns
nothing, and the ratio must be 1.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from contextlib import ExitStack
from math import sqrt
from pathlib import Path
from types import FrameType
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "serving"))

from cost import CONNECTIONS, HIDDEN, LEAD, LEAST, Served, home, serving, spent
from load import together

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
    """By form and pair: CPU time of an answer, watched over not; and what watching takes, as a share of the core."""
    served = Served(given.model, room)
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[-1]})
    found = {}
    for form, requests in served.requests.items():
        with ExitStack() as stack:
            servers = []
            for which in ("first", "second"):
                (at := room / form / which).mkdir(parents=True)
                program = [str(Path(__file__)), SERVER]
                servers.append(stack.enter_context(serving(at, home(at, served, 1), cores[0], {}, program)))
            found[form] = compared(servers, requests, given)
    return found


def compared(
    servers: list[tuple[int, int]], requests: list[bytes], given: argparse.Namespace
) -> dict[str, list[float]]:
    """See run; ``servers`` are two, by port and process number."""
    ports, pids = [port for port, _ in servers], [pid for _, pid in servers]

    def turn(turned: list[int]) -> list[tuple[float, float]]:
        """Of each server, seconds of CPU an answer, and in all."""
        for pid in [] if given.control else turned:
            os.kill(pid, signal.SIGUSR1)
        together(ports, requests, CONNECTIONS // 2, SETTLED)
        before = [spent(pid) for pid in pids]
        answers = together(ports, requests, CONNECTIONS // 2, given.seconds)
        took = [spent(pid) - begun for pid, begun in zip(pids, before, strict=True)]
        return [(seconds / n, seconds) for seconds, n in zip(took, answers, strict=True)]

    together(ports, requests, CONNECTIONS // 2, given.lead)
    found: dict[str, list[float]] = {"ratio": [], "share": []}
    turned = pids[1:]  # both are on at first
    for _ in range(given.pairs):
        (one_on, _), (other_off, spent_off) = turn(turned)
        (one_off, also_off), (other_on, _) = turn(pids)
        turned = pids
        ratio = sqrt(one_on / other_off * other_on / one_off)
        found["ratio"].append(ratio)
        found["share"].append((ratio - 1) * (spent_off + also_off) / 2 / given.seconds)
    return found


def told(found: tuple[float, float | None, float | None], how: str) -> str:
    """A median with its interval."""
    middle, low, high = found
    return format(middle, how) + (f" ({low:{how}} to {high:{how}})" if low is not None and high is not None else "")


def main() -> None:
    """Measure and print; or, for ourselves, serve."""
    if SERVER in sys.argv:
        sys.argv.remove(SERVER)
        Switch()
        modelkeep()
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=[*HIDDEN, "resnet18", "bert-small"], default="mlp")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--lead", type=float, default=LEAD)
    parser.add_argument("--control", action="store_true")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as room:
        found = run(Path(room), given)
    print("| requests | CPU of an answer, watched over not (95 %) | of the core (95 %) |\n|---|---|---|")
    good = True
    for form, of in found.items():
        ratio, share = (median_interval(of[key]) for key in ("ratio", "share"))
        print(f"| {form} | {told(ratio, '.3f')} | {told(share, '.1%')} |")
        good = good and share[2] is not None and share[2] <= 1 - LEAST
    print(f"\n{'ok' if good else 'NO'}  at most {1 - LEAST:.0%} of the core, by the whole interval")
    if given.json:
        given.json.write_text(json.dumps(found), encoding="utf-8")
    raise SystemExit(not good)


if __name__ == "__main__":
    main()
