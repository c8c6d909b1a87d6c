"""What verbs print: tables and sentences for a person, one JSON document for a machine."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from decimal import Decimal
from math import inf, isfinite, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from modelkeep.quantities import Lines

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.table import Table

    from modelkeep.keep import Keep
    from modelkeep.types import Report, Route, Version

as_json = click.option("--json", "json_", is_flag=True, help="One JSON document on stdout, for a machine.")


def open_keep() -> Keep:
    """The Keep of the working folder."""
    from modelkeep.keep import Keep

    return Keep()


def dump(value: Any) -> None:
    """One JSON document to stdout."""
    say(json.dumps(plain(value), indent=2))


def plain(value: Any) -> Any:
    """Dataclasses, paths, arrays and sets as what JSON knows; NaN and infinities as null."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, str | int | bool) or value is None:
        return value
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return [plain(v) for v in value] if isinstance(value, Iterable) else str(value)


def version_json(version: Version) -> dict[str, Any]:
    """What --json says of a version."""
    return {
        "ref": version.ref,
        "name": version.name,
        "number": version.number,
        "digest": version.digest,
        "format": version.model.format,
        "signature": version.model.signature.to_json(),
        "labels": list(version.model.labels),
        "parent": version.parent,
        "made_by": version.made_by,
        "created": version.created,
        "reports": [plain(report) for report in version.reports],
    }


def place(route: Route, number: int) -> str:
    """What a version is in its model's route: live, canary 10%, shadow, previous, several of them or nothing."""
    places = {"live": route.live, f"canary {route.weight * 100:g}%": route.canary}
    places |= {"shadow": route.shadow, "previous": route.previous}
    return ", ".join(name for name, at in places.items() if at == number)


def say(text: str) -> None:
    """A sentence for the person, on stdout."""
    with _while_read():
        click.echo(text)


def say_reports(reports: Iterable[Report]) -> None:
    """Each report's sentence, marked by its verdict."""
    marks = {True: _coloured("ok", "green"), False: _coloured("no", "red"), None: "--"}
    for report in reports:
        say(f"  {marks[report.ok]}  {report.kind}: {report.why}")


def _coloured(text: str, colour: str) -> str:
    return text if os.environ.get("NO_COLOR") else click.style(text, fg=colour)


@contextmanager
def _while_read() -> Iterator[None]:
    """Once nobody reads on (``| head``) the rest goes nowhere, and the exit code stays the verb's: 1 would mean no."""
    try:
        yield
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table for a person."""
    from rich.console import Console
    from rich.table import Table as RichTable

    drawn: Table = RichTable(title=title, title_justify="left", title_style="bold")
    for column in columns:
        drawn.add_column(column, overflow="fold")
    for row in rows:
        drawn.add_row(*(str(cell) for cell in row))
    # a pipe has no width of its own: give the table what it needs, so that a log keeps whole lines
    console = Console(width=None if sys.stdout.isatty() else 160)
    with console.capture() as text:
        console.print(drawn)
    say(text.get().rstrip("\n"))


@contextmanager
def progress(what: str, *, quiet: bool = False, lines: bool = False) -> Iterator[Callable[..., None]]:
    """A progress bar on stderr: call the given function with (done, total, note). Without a terminal it is silent or,
    with ``lines``, a line for each step and every few seconds of it, as a log wants it.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Column

    console = Console(stderr=True, quiet=quiet or not sys.stderr.isatty())
    whole = Column(min_width=len(what))  # a long note is shortened, and not this
    bar = Progress(
        TextColumn(what, table_column=whole),
        BarColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        console=console,
    )
    with bar:
        task = bar.add_task(what, total=None, note="")
        log = Lines() if lines and not quiet and not sys.stderr.isatty() else None

        def advance(done: float, total: float, note: object = "") -> None:
            if log is not None and (line := log.of(done, total, note)):
                click.echo(f"{time.strftime('%H:%M:%S')} {what}, {line}", err=True)
            bar.update(task, completed=done, total=total, note=f"{note:.4g}" if isinstance(note, float) else str(note))

        yield advance


def duration(text: str) -> float:
    """'20ms', '500us', '5s', '2m', '1h', '7d' or '0' → seconds. Raises click.BadParameter.

    A number by itself is refused: who promised 20 and meant milliseconds would be held to 20 seconds.
    """
    value = _times(text, {"ms": "0.001", "us": "1e-6", "µs": "1e-6", "s": 1, "m": 60, "h": 3600, "d": 86_400})
    if 0 <= value < inf:
        return value
    raise click.BadParameter(f"'{text}' is no time; write 20ms, 5s, 2m, 1h or 7d")


def share(text: str) -> float:
    """'0.5pp', '2%' or '0.02' → 0.02-like share between 0 and 1. Raises click.BadParameter."""
    value = _times(text, {"pp": "0.01", "%": "0.01", "": 1})
    if 0 <= value <= 1:
        return value
    raise click.BadParameter(f"'{text}' is no share; write 0.02, 2% or 2pp")


def room(text: str) -> int:
    """'64mb', '512kb', '1gb', '12b' or '0' → bytes, in steps of 1024. Raises click.BadParameter."""
    value = _times(text.lower(), {"kb": 1024, "mb": 1024**2, "gb": 1024**3, "b": 1})
    if 0 <= value < inf:
        return int(value)
    raise click.BadParameter(f"'{text}' is no size; write 512kb, 64mb or 1gb")


def _times(text: str, units: Mapping[str, str | int]) -> float:
    """The number times what the first unit that it ends with is worth; NaN where it is no number, or has no unit.

    In decimals, as a person counts: among binary numbers 99.9 × 0.01 is 0.9990000000000001.
    """
    if text == "0":  # is none, in any unit
        return 0.0
    unit = next((unit for unit in units if text.endswith(unit)), None)
    if unit is None:
        return nan
    try:
        return float(Decimal(text.removesuffix(unit)) * Decimal(units[unit]))
    except ArithmeticError:
        return nan


class Duration(click.ParamType[float]):
    """A time on the command line; ``positive`` where none at all makes no sense."""

    name = "time"

    def __init__(self, *, positive: bool = False) -> None:
        self.positive = positive

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds."""
        found = value if isinstance(value, float) else duration(str(value))
        if self.positive and not found:
            raise click.BadParameter("it must be more than 0; write 20ms, 5s, 2m, 1h or 7d")
        return found


class Whole(click.IntRange):
    """A whole number within bounds."""

    name = "integer"


class Finite(click.FloatRange):
    """A number within bounds; neither nan, which is within all of them, nor infinity."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """See FloatRange."""
        found: float = super().convert(value, param, ctx)
        if not isfinite(found):
            raise click.BadParameter(f"'{value}' is no number that can be used here")
        return found


class Share(click.ParamType[float]):
    """A share on the command line."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Between 0 and 1."""
        return value if isinstance(value, float) else share(str(value))


class Room(click.ParamType[int]):
    """A size on the command line."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Bytes."""
        return value if isinstance(value, int) else room(str(value))


DURATION = Duration()
ROOM = Room()
SOME_TIME = Duration(positive=True)
SHARE = Share()
FILE = click.Path(path_type=Path)
