"""When does modelkeep find that real data has changed, and why; and does it stay silent where it has not?

    python benchmarks/monitor/real.py [--only employment bike elec2 mnist] [--streams 20] [--json FILE]

MODELKEEP_DATA names the folder of the data. Everything is at modelkeep's defaults (tolerance 10 %, one false alarm in
10⁶ requests), through its own features, bins and detectors, and looked at every 16 requests.

Employment (Massachusetts, by year), bike sharing (2011 to 2012) and Elec2, in parts of time: how many looks find drift
of the inputs, of the answers, or a loss of quality; after how many requests the first of them does, and which features
moved. Each later part follows on the end of the quiet one. One that always fires and one that never does stand beside
it: in the quiet part every alarm is a false one.

MNIST: pictures that turn, blur, or lack a class, from request 2,000 on; each kind in --streams streams. Requests from
the change until the first alarm, and the alarms before it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import mnist
import numpy as np
import worlds
from watched import Watched
from worlds import World

from modelkeep.monitor.drift import CHUNK

KINDS = {"inputs": "drift of inputs", "answers": "drift of answers"}
SOON, BEFORE, AFTER = 500, 2000, 2000
CHANGES: dict[str, Callable[[mnist.Digits], mnist.Digits]] = {
    "as they were": lambda digits: digits,
    "turned by 15°": mnist.rotated(15),
    "turned by 30°": mnist.rotated(30),
    "turned by 45°": mnist.rotated(45),
    "turned by 30°, nearest pixel": mnist.rotated(30, order=0),
    "blurred, σ 1 pixel": mnist.blurred(1),
    "blurred, σ 2 pixels": mnist.blurred(2),
    "no 1 any more": mnist.without(1),
    "no 5 any more": mnist.without(5),
    "no 8 any more": mnist.without(8),
}


@dataclass
class Part:
    """One part of a world: of ``looks``, how many found something, by kind; the requests until the first did."""

    name: str
    n: int
    score: float
    moved: str
    looks: int = 0
    found: dict[str, int] = field(default_factory=dict)
    first: dict[str, int] = field(default_factory=dict)


def through(world: World) -> list[Part]:
    """All of its parts, each watched from the end of the quiet one on."""
    parts: list[Part] = []
    quiet = next(iter(world.parts.values()))
    for name, chosen in world.parts.items():
        watch = Watched(*world.of(world.reference))
        for at in range(max(len(quiet) - BEFORE, 0), len(quiet) if parts else 0, CHUNK):
            watch.add(*world.of(quiet[at : at + CHUNK]))
        inputs, answers, truth = world.of(chosen)
        part = Part(name, len(chosen), watch.score(answers, truth), watch.moved(inputs, answers))
        for at in range(0, len(chosen), CHUNK):
            few = chosen[at : at + CHUNK]
            watch.add(*world.of(few))
            part.looks += 1
            for kind in {KINDS.get(finding.subject, "quality") for finding in watch.findings()}:
                part.found[kind] = part.found.get(kind, 0) + 1
                part.first.setdefault(kind, at + len(few))
        parts.append(part)
    return parts


def tell(name: str, parts: list[Part]) -> None:
    """A table for a person."""
    kinds = [*KINDS.values(), "quality"]
    print(f"\n{name}: looks that found something, and the requests until the first did\n")
    print(f"| part | n | accuracy or mean absolute error | {' | '.join(kinds)} | moved most, over the whole part |")
    print("|---" * (4 + len(kinds)) + "|")
    for part in parts:
        cells = [f"{part.found[k] / part.looks:.0%} ({part.first[k]:,})" if k in part.found else "–" for k in kinds]
        print(f"| {part.name} | {part.n:,} | {part.score:.3f} | {' | '.join(cells)} | {part.moved} |")
    quiet, later = parts[0], parts[1:]
    found = [part for part in later if part.first]
    waits = ", ".join(f"{min(part.first.values()):,}" for part in found) or "–"
    false = max(quiet.found.values(), default=0) / quiet.looks
    every = f"{len(later)} of {len(later)}"
    print(
        "\n| detector | false alarms: looks of the quiet part | later parts found | after requests |\n|---|---|---|---|"
    )
    print(f"| modelkeep | {false:.1%} | {len(found)} of {len(later)} | {waits} |")
    print(f"| one that always fires | 100 % | {every} | 0 |\n| one that never fires | 0 % | 0 of {len(later)} | – |")


# ── MNIST ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Caught:
    """One kind of change: requests until the alarm, stream by stream (None: not in AFTER); how many alarmed before."""

    waits: list[int | None] = field(default_factory=list)
    moved: list[str] = field(default_factory=list)
    early: int = 0
    accuracy: float = float("nan")


def pictures(streams: int, seed: int) -> dict[str, Caught]:
    """Each kind of change, in so many streams drawn from the test part."""
    learnt, reference, live = mnist.load()
    net = mnist.trained(learnt, seed=seed)
    found: dict[str, Caught] = {}
    with tempfile.TemporaryDirectory() as room, mnist.loaded(mnist.made(net, reference, Path(room))) as ask:
        known = ({"pixels": reference.images}, ask(reference.images), reference.labels)
        calm = ask(live.images)
        for name, change in CHANGES.items():
            after = change(live)
            answers = ask(after.images)
            caught = found[name] = Caught(accuracy=float((answers.argmax(1) == after.labels).mean()))
            for stream in range(streams):
                rng = np.random.default_rng([seed, stream])
                watch = Watched(*known)
                quiet, rows = rng.integers(len(calm), size=BEFORE), rng.integers(len(answers), size=AFTER)
                caught.early += until(watch, live.images[quiet], calm[quiet]) is not None
                caught.waits.append(until(watch, after.images[rows], answers[rows]))
                caught.moved += [f"{f.subject}: {f.evidence['most_moved'][0]['feature']}" for f in watch.findings()]
            print(f"{name}: {caught.waits}", file=sys.stderr, flush=True)
    return found


def until(watch: Watched, images: np.ndarray, answers: np.ndarray) -> int | None:
    """Requests until something is found."""
    for at in range(0, len(images), CHUNK):
        chosen = slice(at, at + CHUNK)
        watch.add({"pixels": images[chosen]}, answers[chosen], None)
        if watch.findings():
            return at + CHUNK
    return None


def tell_pictures(found: Mapping[str, Caught]) -> bool:
    """A table for a person; whether all were caught soon, and nothing where nothing changed."""
    print(
        f"\nMNIST: requests until the alarm\n\n| the pictures | accuracy | caught within {SOON} | median (most) ",
        end="",
    )
    print("| alarms before | moved most |\n|---|---|---|---|---|---|")
    good = True
    for name, caught in found.items():
        waits = [AFTER + 1 if wait is None else wait for wait in caught.waits]
        soon = sum(wait <= SOON for wait in waits)
        good &= (soon == (0 if name == "as they were" else len(waits))) and not caught.early
        middle, most = (f"{w:g}" if w <= AFTER else f"> {AFTER:,}" for w in (median(waits), max(waits)))
        moved = max(set(caught.moved), key=caught.moved.count, default="")
        cells = [f"{caught.accuracy:.1%}", f"{soon} of {len(waits)}", f"{middle} ({most})", str(caught.early), moved]
        print(f"| {name} | {' | '.join(cells)} |")
    return good


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=[*worlds.WORLDS, "mnist"], default=[*worlds.WORLDS, "mnist"])
    parser.add_argument("--streams", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    numbers: dict[str, Any] = {}
    for name in given.only:
        if name in worlds.WORLDS:
            parts = through(worlds.WORLDS[name](given.seed))
            tell(name, parts)
            numbers[name] = [asdict(part) for part in parts]
    good = True
    if "mnist" in given.only:
        found = pictures(given.streams, given.seed)
        good = tell_pictures(found)
        numbers["mnist"] = {name: asdict(caught) for name, caught in found.items()}
    if given.json:
        given.json.write_text(json.dumps(numbers), encoding="utf-8")
    raise SystemExit(not good)


if __name__ == "__main__":
    main()
