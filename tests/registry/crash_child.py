"""A program of its own: runs one change of a registry in a forked child that is killed, and says how it ended.

It reads one JSON line for each run: ``home``, ``database``, ``folder``, ``what`` and either ``point`` (the child kills
itself when it comes to its point-th step: a statement, a commit, a sync, a rename, a half-written file …), or
``changes`` and ``after`` (the parent kills it so many seconds after so many changes). It answers with the step that the
child died at, or "done".
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.engine.default import DefaultDialect

from modelkeep.registry import Registry, store
from modelkeep.settings import Settings
from modelkeep.types import Report, ServeConfig


def change(what: str, registry: Registry, folder: Path) -> None:
    """One change, valid whatever the changes before it were."""
    route = registry.route("digits")
    if what == "add":
        registry.add("digits", folder, parent=1, made_by="crash()", reports=[Report("score", True, "good")])
    elif what == "promote":
        registry.promote("digits", 2 if route.live == 1 else 1, why="crash")
    elif what == "rollback":
        registry.rollback("digits", why="crash")
    elif what == "set_route":
        registry.set_route(replace(route, canary=3, weight=0.5), why="crash")
    elif what == "set_alias":
        now = registry.alias("digits", "stable")
        registry.set_alias("digits", "stable", 2 if now == 1 else 1, now)
    elif what == "set_config":
        threads = len(registry.journal("digits", kind="config")) + 1
        registry.set_config(
            registry.get("digits@1"), "here", ServeConfig(threads=threads), Report("tune", True, "fast")
        )
    elif what == "checkout":
        registry.checkout(registry.get("digits@1"))


def everything(registry: Registry, folder: Path, answer: int) -> NoReturn:
    """Every change in turn, without end; a dot for each."""
    while True:
        for what in ("add", "promote", "set_alias", "set_route", "rollback", "set_config"):
            change(what, registry, folder)
            os.write(answer, b".")


class Steps:
    """Counts the steps, and ends this process at one of them as a loss of power would."""

    def __init__(self, point: int, answer: int) -> None:
        self.point, self.answer, self.count = point, answer, 0

    def step(self, name: str) -> None:
        self.count += 1
        if self.count == self.point:
            os.write(self.answer, name.encode())
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, at: Any, name: str) -> None:
        """A step before the call and one after it."""
        call: Callable[..., Any] = getattr(at, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.step(f"before {name}")
            result = call(*args, **kwargs)
            self.step(f"after {name}")
            return result

        setattr(at, name, counted)

    def half_written(self) -> None:
        """A step when the first half of a file has been written."""

        def copy(reader: Any, writer: Any) -> str:
            content = reader.read()
            writer.write(content[: len(content) // 2])
            writer.flush()
            self.step("half written")
            reader.seek(len(content) // 2)
            writer.write(reader.read())
            return store.hashlib.sha256(content).hexdigest()

        store._copy = copy  # type: ignore[assignment]

    def install(self) -> None:
        for name in ("fsync", "replace", "rename"):
            self.around(os, name)
        self.around(DefaultDialect, "do_commit")
        self.around(store.Store, "settle")
        event.listen(Engine, "after_cursor_execute", lambda *_: self.step("after a statement"))
        self.half_written()


def child(job: dict[str, Any], answer: int) -> None:
    if "point" in job:
        Steps(job["point"], answer).install()
    settings = Settings(home=Path(job["home"]), database=job["database"])
    registry = Registry.open(settings)
    if "after" in job:
        everything(registry, Path(job["folder"]), answer)
    change(job["what"], registry, Path(job["folder"]))


def run(job: dict[str, Any]) -> str:
    """Fork, wait or kill, and say where it died."""
    mine, its = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            child(job, its)
        except BaseException as error:  # noqa: BLE001  a forked child must end here, whatever happened
            os.write(its, f"failed: {error!r}".encode())
        finally:
            os._exit(0)
    os.close(its)
    said = "".join(os.read(mine, 1).decode() for _ in range(job.get("changes", 0)))
    if "after" in job:
        time.sleep(job["after"])
        os.kill(pid, signal.SIGKILL)
    said += os.read(mine, 4096).decode()
    _, status = os.waitpid(pid, 0)
    os.close(mine)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    return said if killed or "failed" in said else "done"


if __name__ == "__main__":
    for line in sys.stdin:
        sys.stdout.write(json.dumps(run(json.loads(line))) + "\n")
        sys.stdout.flush()
