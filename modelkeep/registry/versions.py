"""Versions and what was found about them. A version's row is written once and never changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, func, insert, select

from modelkeep.errors import NotFound
from modelkeep.registry import manifest as manifests
from modelkeep.registry.manifest import Manifest
from modelkeep.registry.schema import configs, reports, versions
from modelkeep.types import Model, Report, ServeConfig, Signature, Version

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection, Row


@dataclass(frozen=True)
class StoredModel(Model):
    """A registered Model, whose folder need not be on this machine: ``Registry.checkout`` brings it there."""

    bytes_stored: int = 0

    @property
    def size(self) -> int:
        """Bytes of the model's own files, known without having them here."""
        return self.bytes_stored

    def moved(self, path: Path) -> Model:
        """A plain Model: the folder at ``path`` is here, so its size is what the files there say."""
        return Model(path, self.format, self.signature, self.files, self.labels, self.options)


@dataclass(frozen=True)
class New:
    """A version before it has a number. ``created`` is in epoch seconds."""

    name: str
    model: Model
    parent: int | None
    made_by: str
    reports: Sequence[Report]
    created: float


def insert_version(connection: Connection, manifest: Manifest, new: New) -> int:
    """Write the row of a new version and give it the next number. Raises NotFound for a parent that is not there."""
    if new.parent is not None:
        find(connection, new.name, new.parent)
    number = (newest(connection, new.name) or 0) + 1
    row = {
        "name": new.name,
        "number": number,
        "digest": manifests.digest(manifest),
        "manifest": manifests.to_json(manifest),
        "model": {
            "format": new.model.format,
            "signature": new.model.signature.to_json(),
            "files": new.model.files,
            "labels": new.model.labels,
            "options": new.model.options,
        },
        "parent": new.parent,
        "made_by": new.made_by,
        "created": new.created,
        "reports": [report.to_json() for report in new.reports],
    }
    connection.execute(insert(versions).values(row))
    return number


def find(connection: Connection, name: str, number: int) -> Row[Any]:
    """The row of one version. Raises NotFound that lists the versions, or the models, that there are."""
    query = select(versions).where(versions.c.name == name, versions.c.number == number)
    row = connection.execute(query).one_or_none()
    if row is None:
        there = ", ".join(f"{name}@{n}" for n in numbers(connection, name))
        raise NotFound(f"there is no {name}@{number}; there are: {there}")
    return row


def numbers(connection: Connection, name: str) -> list[int]:
    """The numbers of a model's versions, in order. Raises NotFound, listing the models, when it has none."""
    query = select(versions.c.number).where(versions.c.name == name).order_by(versions.c.number)
    found = list(connection.execute(query).scalars())
    if not found:
        there = names(connection)
        model, at, _ = name.partition("@")
        if at and model in there:
            raise NotFound(f"'{name}' names one version, and a model's name belongs here: {model}")
        raise NotFound(
            f"no model is called '{name}'; there are: {', '.join(there)}"
            if there
            else f"no model is called '{name}'; none is registered yet: modelkeep add NAME FILE"
        )
    return found


def newest(connection: Connection, name: str) -> int | None:
    """The highest number, or None when there is no such model."""
    query = select(func.max(versions.c.number)).where(versions.c.name == name)
    number: int | None = connection.execute(query).scalar_one()
    return number


def names(connection: Connection) -> list[str]:
    """The models that there are, by name."""
    return list(connection.execute(select(versions.c.name).distinct().order_by(versions.c.name)).scalars())


def of_model(connection: Connection, name: str) -> list[Row[Any]]:
    """Every row of a model, the oldest first."""
    return list(connection.execute(select(versions).where(versions.c.name == name).order_by(versions.c.number)))


def blobs_in_use(connection: Connection) -> set[str]:
    """The SHA-256 of every file of every version."""
    found = connection.execute(select(versions.c.manifest)).scalars()
    return {file.sha256 for manifest in found for file in manifests.from_json(manifest).values()}


def from_row(row: Row[Any], checkouts: Path) -> Version:
    """The Version of a row; its model's path is where a checkout puts it."""
    manifest = manifests.from_json(row.manifest)
    model = StoredModel(
        path=checkouts / row.digest,
        format=row.model["format"],
        signature=Signature.from_json(row.model["signature"]),
        files=tuple(row.model["files"]),
        labels=tuple(row.model["labels"]),
        options=row.model["options"],
        bytes_stored=sum(manifest[file].size for file in row.model["files"]),
    )
    return Version(
        name=row.name,
        number=row.number,
        digest=row.digest,
        model=model,
        parent=row.parent,
        made_by=row.made_by,
        created=row.created,
        reports=tuple(Report(**report) for report in row.reports),
    )


def add_report(connection: Connection, version: Version, report: Report, at: float) -> None:
    """Write down what was found about a version after it was added. Raises NotFound."""
    find(connection, version.name, version.number)
    values = {"name": version.name, "number": version.number, "at": at, "report": report.to_json()}
    connection.execute(insert(reports).values(values))


def later_reports(connection: Connection, version: Version) -> list[Report]:
    """Those of ``add_report``, in order."""
    mine = (reports.c.name == version.name, reports.c.number == version.number)
    found = connection.execute(select(reports.c.report).where(*mine).order_by(reports.c.id)).scalars()
    return [Report(**report) for report in found]


def set_config(connection: Connection, version: Version, machine: str, config: ServeConfig) -> None:
    """How a version runs on one machine from now on. Raises NotFound."""
    find(connection, version.name, version.number)
    key = {"name": version.name, "number": version.number, "machine": machine}
    connection.execute(delete(configs).where(*(configs.c[column] == value for column, value in key.items())))
    connection.execute(insert(configs).values(**key, config=asdict(config)))


def config(connection: Connection, version: Version, machine: str) -> ServeConfig | None:
    """What ``set_config`` wrote last, or None."""
    mine = (configs.c.name == version.name, configs.c.number == version.number, configs.c.machine == machine)
    found: Mapping[str, Any] | None = connection.execute(select(configs.c.config).where(*mine)).scalar_one_or_none()
    known = {f.name for f in fields(ServeConfig)}
    return None if found is None else ServeConfig(**{key: value for key, value in found.items() if key in known})


def machines(connection: Connection, version: Version) -> list[str]:
    """Those for which ``set_config`` was called, by name."""
    mine = (configs.c.name == version.name, configs.c.number == version.number)
    return list(connection.execute(select(configs.c.machine).where(*mine).order_by(configs.c.machine)).scalars())
