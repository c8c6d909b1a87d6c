"""Registry, the memory: versions, routes, aliases, tuned settings, and the journal of how they came to be."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from sqlalchemy import URL, select

from modelkeep.errors import BadRef, Damaged, Wrong
from modelkeep.model import folder as model_folder
from modelkeep.registry import adding, checkout, journal, manifest, routes, versions
from modelkeep.registry.database import Database
from modelkeep.registry.journal import Entry
from modelkeep.registry.schema import about
from modelkeep.registry.store import Store
from modelkeep.registry.versions import New
from modelkeep.settings import Settings
from modelkeep.types import Model, Ref, Report, Route, ServeConfig, Version


class Registry:
    """One registry. Threads may share it, processes each open their own; a forked child must open its own too.

    Every change is one transaction that also holds its journal entry. ``who="person"`` is written with the login name.
    """

    def __init__(self, database: Database, store: Store, checkouts: Path) -> None:
        self._database = database
        self._store = store
        self._checkouts = checkouts

    @classmethod
    def open(cls, settings: Settings) -> Registry:
        """Open the registry of these settings, and make it where there is none. Raises Damaged, BadSettings, Busy."""
        home = settings.home.absolute()
        try:
            home.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Damaged(
                f"the folder {home} cannot be made: {error.strerror}; set `home` to another place "
                "(MODELKEEP_HOME=FOLDER, or home in modelkeep.toml)"
            ) from error
        for place, right in ((home, os.R_OK | os.X_OK), (home / "registry.db", os.R_OK)):
            if os.path.exists(place) and not os.access(place, right):
                raise Damaged(
                    f"{place} may not be read by this account; get the right to read it, or set `home` to another "
                    "place (MODELKEEP_HOME=FOLDER, or home in modelkeep.toml)"
                )
        inside = URL.create("sqlite", database=str(home / "registry.db"))  # a folder's name is no part of a URL's text
        return cls(Database(settings.database or inside), Store(settings.store_url), home / "checkouts")

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def __enter__(self) -> Registry:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # ── versions ─────────────────────────────────────────────────────────────────────────────────────────────────

    def add(
        self,
        name: str,
        folder: Path,
        *,
        parent: int | None = None,
        made_by: str,
        reports: Sequence[Report] = (),
        who: str = "person",
    ) -> Version:
        """Store a model folder and remember it as the next version of ``name``.

        Raises BadRef, BadModel (no model folder, links in it), NotFound (parent), StorageFull (nothing was stored).
        """
        if Ref.parse(name).which is not None:
            raise BadRef(f"'{name}' names one version; give the new one the model's name only: {Ref.parse(name).name}")
        if parent is not None:
            self.get(Ref(name, parent))
        new = New(name, model_folder.read(folder), parent, made_by, reports, time.time())
        return self.get(Ref(name, adding.add(self._database, self._store, self._checkouts, folder, new, who)))

    def get(self, ref: Ref | str) -> Version:
        """The version that a Ref names: ``NAME`` is the live one, else the newest. Raises NotFound, BadRef."""
        ref = Ref.parse(ref) if isinstance(ref, str) else ref
        with self._database.read() as connection:
            row = versions.find(connection, ref.name, routes.resolve(connection, ref))
        return versions.from_row(row, self._checkouts)

    def names(self) -> list[str]:
        """The models that there are."""
        with self._database.read() as connection:
            return versions.names(connection)

    def versions(self, name: str) -> list[Version]:
        """Every version of a model, the oldest first. Raises NotFound."""
        with self._database.read() as connection:
            versions.numbers(connection, name)
            return [versions.from_row(row, self._checkouts) for row in versions.of_model(connection, name)]

    def checkout(self, version: Version) -> Model:
        """The version's folder on this machine, the SHA-256 of every file verified now. Raises DigestMismatch."""
        with self._database.read() as connection:
            row = versions.find(connection, version.name, version.number)
        files = manifest.from_json(row.manifest)
        path = checkout.checkout(self._store, files, self._checkouts / version.digest, version.ref)
        return versions.from_row(row, self._checkouts).model.moved(path)

    # ── what was found about a version ───────────────────────────────────────────────────────────────────────────

    def add_report(self, version: Version, report: Report, who: str = "person") -> None:
        """Remember what was found after the version was added. Raises NotFound."""
        with self._database.write(changes=False) as connection:
            data = {"number": version.number, "report": report.to_json()}
            entry = journal.write(connection, version.name, "report", report.why, data, who)
            versions.add_report(connection, version, report, entry.at)

    def reports(self, version: Version) -> list[Report]:
        """Those that came with the version, then those that came later, in order."""
        with self._database.read() as connection:
            return [*version.reports, *versions.later_reports(connection, version)]

    def set_config(
        self, version: Version, machine: str, config: ServeConfig, report: Report, who: str = "person"
    ) -> None:
        """How the version runs on one machine from now on, and the report that says why. Raises NotFound."""
        with self._database.write() as connection:
            data = {"number": version.number, "machine": machine, "config": asdict(config), "report": report.to_json()}
            entry = journal.write(connection, version.name, "config", report.why, data, who)
            versions.set_config(connection, version, machine, config)
            versions.add_report(connection, version, report, entry.at)

    def config(self, version: Version, machine: str) -> ServeConfig | None:
        """What ``set_config`` wrote last for this machine, or None."""
        with self._database.read() as connection:
            return versions.config(connection, version, machine)

    def machines(self, version: Version) -> list[str]:
        """The machines for which ``set_config`` was called."""
        with self._database.read() as connection:
            return versions.machines(connection, version)

    # ── who answers ──────────────────────────────────────────────────────────────────────────────────────────────

    def route(self, name: str) -> Route:
        """Who should get the model's traffic; an empty Route where nothing was decided."""
        with self._database.read() as connection:
            return routes.read(connection, name)

    def set_route(self, route: Route, *, why: str, who: str = "person") -> Route:
        """Write a route that was read before, changed; returns it as stored. Raises Conflict when another wrote first.

        Also NotFound for a version that is not there, and Wrong for a share outside 0 and 1.
        """
        return self._reroute(route.name, "set", lambda now: route, why, who)

    def promote(self, name: str, number: int, *, why: str, who: str = "person") -> Route:
        """Live at once, with no canary; what was live becomes previous. Nothing is written where it is so already."""
        return self._reroute(name, "promote", lambda now: routes.promoted(now, number), why, who)

    def rollback(self, name: str, *, why: str, who: str = "person") -> Route:
        """End the canary, live staying; where there is none, live and previous change places. One write. Raises No."""
        return self._reroute(name, "rollback", routes.rolled_back, why, who)

    def alias(self, name: str, alias: str) -> int | None:
        """The number that an alias names, or None."""
        with self._database.read() as connection:
            return routes.alias(connection, name, alias)

    def set_alias(self, name: str, alias: str, number: int, expect: int | None, who: str = "person") -> None:
        """Move an alias from ``expect`` (None: not set yet). Raises Conflict when it is another, NotFound, BadRef."""
        with self._database.write() as connection:
            routes.set_alias(connection, name, alias, number, expect)
            was = "new" if expect is None else f"it was {name}@{expect}"
            data = {"alias": alias, "before": expect, "after": number}
            journal.write(connection, name, "alias", f"{name}@{alias} is {name}@{number}; {was}", data, who)

    def _reroute(self, name: str, did: str, decide: Callable[[Route], Route], why: str, who: str) -> Route:
        with self._database.write() as connection:
            versions.numbers(connection, name)
            before = routes.read(connection, name)
            wanted = decide(before)
            if wanted is before:
                return before
            after = routes.write(connection, wanted)
            data = {"did": did, "before": asdict(before), "after": asdict(after)}
            journal.write(connection, name, "route", why, data, who)
        return after

    # ── what happened ────────────────────────────────────────────────────────────────────────────────────────────

    def note(self, name: str, kind: str, why: str, data: Mapping[str, Any], who: str = "person") -> Entry:
        """Write an entry of one's own. Raises Wrong for the kinds that tell of the registry's own changes."""
        _refuse_own(kind)
        with self._database.write(changes=False) as connection:
            return journal.write(connection, name, kind, why, data, who)

    def note_unless(
        self,
        name: str,
        kind: str,
        why: str,
        data: Mapping[str, Any],
        who: str,
        *,
        kinds: Collection[str],
        after: int,
    ) -> Entry | None:
        """As ``note`` does; nothing where the model has an entry of these kinds above the id ``after``. So of several
        who decide at one time, by what they have read, that there is something to write, one writes it."""
        _refuse_own(kind)
        with self._database.write(changes=False) as connection:
            if journal.read(connection, name, after=after, kind=kinds, limit=1):
                return None
            return journal.write(connection, name, kind, why, data, who)

    def journal(
        self,
        name: str | None = None,
        *,
        after: int = 0,
        kind: str | Collection[str] | None = None,
        limit: int | None = None,
        before: int | None = None,
        since: float = 0.0,
    ) -> list[Entry]:
        """Entries whose id is above ``after``, the oldest first, of one model, of these kinds and ``since`` then (epoch
        seconds) where given; with ``before`` the newest ``limit`` of those below that id (sys.maxsize: the newest of
        all), still the oldest first.
        """
        with self._database.read() as connection:
            return journal.read(connection, name, after=after, kind=kind, limit=limit, before=before, since=since)

    def revision(self) -> int:
        """Grows with every change of a version, route, alias or config; cheap to ask for."""
        with self._database.read() as connection:
            revision: int = connection.execute(select(about.c.revision)).scalar_one()
            return revision


def _refuse_own(kind: str) -> None:
    if kind in journal.OWN:
        raise Wrong(f"the registry itself writes entries of the kind '{kind}'; take another word than {journal.OWN}")
