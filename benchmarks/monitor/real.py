"""When does modelkeep find that real data has changed, and why; and does it stay silent where it has not?

    python benchmarks/monitor/real.py [--only employment bike elec2 mnist] [--streams 20] [--json FILE]

MODELKEEP_DATA names the folder of the data. Everything is at modelkeep's defaults (tolerance 10 %, one false alarm in
10⁶ requests), through its own features, bins and detectors, and looked at every 16 requests.

Employment (Massachusetts, by year), bike sharing (2011 to 2012) and Elec2, in parts of time: how many looks find drift
of the inputs, of the answers, or a loss of quality; after how many requests the first of them does, and which features
moved. Always-fire and never-fire stand beside it: of the quiet part every alarm is a false one.

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

SOON, BEFORE, AFTER = 500, 2000, 2000
CHANGES: dict[str, Callable[[mnist.Digits], mnist.Digits]] = {
    "nothing": lambda digits: digits,
    "turned by 15°": mnist.rotated(15),
    "turned by 30°": mnist.rotated(30),
    "turned by 45°": mnist.rotated(45),
    "blurred, σ 1 pixel": mnist.blurred(1),
    "blurred, σ 2 pixels": mnist.blurred(2),
    "no 1 any more": mnist.without(1),
    "no 5 any more": mnist.without(5),
    "no 8 any more": mnist.without(8),
}


@dataclass
class Part:
    """One part of a world: of ``looks``, how many found something, by subject; the first finding of each."""

    name: str
    n: int
    looks: int = 0
    found: dict[str, int] = field(default_factory=dict)
    first: dict[str, tuple[int, str]] = field(default_factory=dict)
    score: float = float("nan")


def through(world: World) -> list[Part]:
    """All of its parts, watched in their order."""
    rows = world.reference
    watch = Watched(
        {name: column[rows] for name, column in world.inputs.items()}, world.answers[rows], world.truth[rows]
    )
    parts = []
    for name, chosen in world.parts.items():
        part = Part(name, len(chosen), score=watch.score(world.answers[chosen], world.truth[chosen]))
        for at in range(0, len(chosen), watch.CHUNK):
            few = chosen[at : at + watch.CHUNK]
            watch.add({n: column[few] for n, column in world.inputs.items()}, world.answers[few], world.truth[few])
            part.looks += 1
            for finding in watch.findings():
                part.found[finding.subject] = part.found.get(finding.subject, 0) + 1
                part.first.setdefault(finding.subject, (at + len(few), why(finding)))
        parts.append(part)
    return parts


def why(finding: Any) -> str:
    """What moved most, and by how much."""
    moved = finding.evidence.get("most_moved", ())
    told = [f"{one['feature']} {one['moved']:.0%}" for one in moved[:3]]
    return ", ".join(told) or finding.why


def tell(name: str, parts: list[Part]) -> None:
    """A table for a person."""
    subjects = ("inputs", "answers", "quality")
    print(f"\n{name}\n\n| part | n | score | {' | '.join(subjects)} | first found |\n|---|---|---|{'---|' * 4}")
    for part in parts:
        shares = [f"{part.found.get(one, 0) / part.looks:.0%}" if part.looks else "" for one in subjects]
        firsts = "; ".join(f"{one} after {n:,}: {text}" for one, (n, text) in part.first.items())
        print(f"| {part.name} | {part.n:,} | {part.score:.3f} | {' | '.join(shares)} | {firsts} |")
    quiet, later = parts[0], parts[1:]
    print("\n| detector | looks with an alarm in the quiet part | later parts found | requests until found |\n|---|---|---|---|")
    found = [part for part in later if part.first]
    waits = [min(n for n, _ in part.first.values()) for part in found]
    least = max((n for n in quiet.found.values()), default=0)
    print(f"| modelkeep | {least / quiet.looks:.1%} | {len(found)} of {len(later)} | {', '.join(map(str, waits))} |")
    print(f"| always fires | 100 % | {len(later)} of {len(later)} | 0 |\n| never fires | 0 % | 0 of {len(later)} | never |")


# ── MNIST ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Caught:
    """One kind of change: requests until the alarm in each stream (None: not in AFTER), what had moved, false alarms."""

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
        known = (reference.images, ask(reference.images), reference.labels)
        calm = ask(live.images)
        for name, change in CHANGES.items():
            after = change(live)
            answers = ask(after.images)
            caught = found[name] = Caught(accuracy=float((answers.argmax(1) == after.labels).mean()))
            for stream in range(streams):
                rng = np.random.default_rng([seed, stream])
                watch = Watched({"pixels": known[0]}, known[1], known[2], labels_come=False)
                quiet, rows = rng.integers(len(calm), size=BEFORE), rng.integers(len(answers), size=AFTER)
                caught.early += until(watch, live.images[quiet], calm[quiet]) is not None
                caught.waits.append(until(watch, after.images[rows], answers[rows]))
                caught.moved += [f"{f.subject}: {why(f)}" for f in watch.findings()]
            print(f"{name}: {caught.waits}", file=sys.stderr, flush=True)
    return found


def until(watch: Watched, images: np.ndarray, answers: np.ndarray) -> int | None:
    """Requests until something is found."""
    for at in range(0, len(images), watch.CHUNK):
        chosen = slice(at, at + watch.CHUNK)
        watch.add({"pixels": images[chosen]}, answers[chosen], None)
        if watch.findings():
            return at + watch.CHUNK
    return None


def tell_pictures(found: Mapping[str, Caught]) -> bool:
    """A table for a person; whether all were caught soon, and nothing where nothing changed."""
    print(f"\nMNIST\n\n| what happens to the pictures | accuracy | caught within {SOON} | requests until the alarm: median (most) | alarms before | what moved |")
    print("|---|---|---|---|---|---|")
    good = True
    for name, caught in found.items():
        waits = [AFTER + 1 if wait is None else wait for wait in caught.waits]
        soon = sum(wait <= SOON for wait in waits)
        good &= (soon == (0 if name == "nothing" else len(waits))) and not caught.early
        middle, most = (f"{w:g}" if w <= AFTER else f"> {AFTER:,}" for w in (median(waits), max(waits)))
        moved = max(set(caught.moved), key=caught.moved.count, default="")
        print(f"| {name} | {caught.accuracy:.1%} | {soon} of {len(waits)} | {middle} ({most}) | {caught.early} | {moved} |")
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
