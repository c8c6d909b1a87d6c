from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from sqlalchemy import Executable, insert, inspect, select, text, update
from sqlalchemy.exc import DBAPIError

from modelkeep.errors import BadSettings, Busy, Damaged, StorageFull
from modelkeep.registry import Registry, database
from modelkeep.registry.database import Database
from modelkeep.registry.journal import write as written
from modelkeep.registry.schema import SCHEMA, about, journal, plain, reports, tables, versions
from modelkeep.settings import Settings
from tests.registry import small_disk

OPEN = """
import sys
from pathlib import Path
from modelkeep.registry import Registry
from modelkeep.settings import Settings
settings = Settings(home=Path(sys.argv[1]), database=sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
with Registry.open(settings) as registry:
    print(registry.note("first", "start", sys.argv[3], {}).id, flush=True)
"""


@pytest.fixture
def url(tmp_path: Path, database: str) -> str:
    return database or f"sqlite:///{tmp_path / 'registry.db'}"


def start(settings: Settings, name: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", OPEN, str(settings.home), settings.database, name]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def write(registry: Registry, statement: Executable) -> None:
    with registry._database.write() as connection:
        connection.execute(statement)


def test_six_processes_may_make_the_registry_at_the_same_moment(settings: Settings) -> None:
    children = [start(settings, str(number)) for number in range(6)]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    answers = [child.communicate(timeout=30) for child in children]
    assert [error for _, error in answers] == [""] * 6
    assert sorted(int(out) for out, _ in answers) == [1, 2, 3, 4, 5, 6]
    with Registry.open(settings) as registry:
        assert sorted(entry.why for entry in registry.journal("first")) == ["0", "1", "2", "3", "4", "5"]


def test_threads_may_make_the_registry_at_the_same_moment(url: str) -> None:
    together, failed = threading.Barrier(8), []

    def opened() -> None:
        together.wait()
        try:
            Database(url).close()
        except Exception as error:  # noqa: BLE001  the test must see whatever a thread died of
            failed.append(error)

    threads = [threading.Thread(target=opened) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def test_a_first_start_waits_for_another_that_reads_sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite does not always wait by itself when the journal's mode changes, so its own patience is switched off."""
    other = sqlite3.connect(tmp_path / "r.db", isolation_level=None)
    other.execute("CREATE TABLE soon (gone INTEGER)")
    other.execute("BEGIN")
    other.execute("SELECT * FROM soon").fetchall()
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            other.execute("COMMIT")
            other.execute("DROP TABLE soon")

    monkeypatch.setattr(database, "_connect_args", lambda _: {"timeout": 0.0})
    monkeypatch.setattr(database.time, "sleep", sleep)
    Database(f"sqlite:///{tmp_path / 'r.db'}").close()
    assert len(waited) == 3
    other.close()


def test_a_first_start_does_not_wait_for_ever_sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.05)
    other = sqlite3.connect(tmp_path / "r.db", isolation_level=None)
    other.execute("CREATE TABLE soon (gone INTEGER)")
    other.execute("BEGIN")
    other.execute("SELECT * FROM soon").fetchall()
    with pytest.raises(Busy, match=r"another process has kept the registry .*r.db locked for 0.05 s"):
        Database(f"sqlite:///{tmp_path / 'r.db'}")
    other.close()


def test_the_layout_is_written_down_and_left_alone_when_opened_again(url: str) -> None:
    for _ in range(2):
        opened = Database(url)
        with opened.write() as connection:
            assert connection.execute(select(about.c.schema)).scalars().all() == [SCHEMA]
        opened.close()
    with Database(url).read() as connection:
        assert connection.execute(select(about.c.revision)).scalar_one() == 2
        assert set(inspect(connection).get_table_names()) == set(tables.tables)


def test_who_reads_on_from_the_last_entry_passes_over_none(settings: Settings) -> None:
    """In PostgreSQL an id is given before the commit: a later one that was seen earlier would hide it for good."""
    with Registry.open(settings) as one, Registry.open(settings) as other:
        noting = threading.Thread(target=other.note, args=("m", "second", "", {}))
        with one._database.write(changes=False) as connection:
            written(connection, "m", "first", "", {}, "test")
            noting.start()
            noting.join(0.2)
            seen = one.journal()
        noting.join()
        seen += one.journal(after=seen[-1].id if seen else 0)
        assert [entry.kind for entry in seen] == ["first", "second"]


def test_sqlite_commits_reach_the_disk_and_readers_do_not_wait(tmp_path: Path) -> None:
    with Database(f"sqlite:///{tmp_path / 'r.db'}").read() as connection:
        found = [connection.exec_driver_sql(f"PRAGMA {p}").scalar() for p in ("journal_mode", "synchronous")]
        assert found == ["wal", 2]  # 2 is FULL
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 10_000
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1


def test_a_newer_layout_is_refused(url: str) -> None:
    opened = Database(url)
    with opened.write() as connection:
        connection.execute(update(about).values(schema=SCHEMA + 1))
    opened.close()
    with pytest.raises(
        Damaged, match=r"written by a newer modelkeep \(layout 2, this one knows 1\); upgrade with: pip"
    ):
        Database(url)


@pytest.mark.parametrize("statement", ["CREATE TABLE users (id INTEGER)", "CREATE TABLE modelkeep (id INTEGER)"])
def test_the_database_of_another_program_is_refused_and_left_alone_sqlite(tmp_path: Path, statement: str) -> None:
    file = tmp_path / "other.db"
    other = sqlite3.connect(file)
    other.execute(statement)
    other.commit()
    with pytest.raises(
        Damaged, match=r"other.db (holds tables|is the database) of another program.*database of its own"
    ):
        Database(f"sqlite:///{file}")
    assert len(other.execute("SELECT * FROM sqlite_master").fetchall()) == 1
    other.close()


def test_a_file_that_is_no_database_is_refused_and_left_alone_sqlite(tmp_path: Path) -> None:
    file = tmp_path / "registry.db"
    file.write_bytes(b"this is a text, and a long one at that\n" * 100)
    with pytest.raises(Damaged, match=r"registry.db is not a registry of modelkeep, or is damaged \(.*\); restore it"):
        Database(f"sqlite:///{file}")
    assert file.read_bytes().startswith(b"this is a text")


def test_a_truncated_file_is_refused_sqlite(tmp_path: Path) -> None:
    file = tmp_path / "registry.db"
    Database(f"sqlite:///{file}").close()
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(Damaged, match=r"registry.db"):
        Database(f"sqlite:///{file}")


def test_a_folder_that_is_missing_is_told_sqlite(tmp_path: Path) -> None:
    with pytest.raises(Damaged, match=r"the registry .*/none/r.db cannot be used: unable to open .*; check that it is"):
        Database(f"sqlite:///{tmp_path}/none/r.db")


@pytest.mark.parametrize("text", ["registry.db", "nodatabase://x"])
def test_what_is_no_database_url_is_told(text: str) -> None:
    with pytest.raises(
        BadSettings, match=rf"database is '{text}', which is no database URL .*; write sqlite:///FILE or"
    ):
        Database(text)


def test_a_missing_driver_is_told() -> None:
    with pytest.raises(BadSettings, match=r"the database needs the Python package \w+; install it with: pip install"):
        Database("mysql+pymysql://localhost/x")


def test_a_home_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(
        Damaged,
        match=r"the folder .*/file/home cannot be made: Not a directory; set `home` to another place \(MODELKEEP_HOME",
    ):
        Registry.open(Settings(home=tmp_path / "file" / "home"))


@pytest.mark.parametrize("which", ["", "registry.db"])
def test_a_home_that_may_not_be_read_is_told(which: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(home=tmp_path / "home")
    Registry.open(settings).close()
    kept = settings.home / which
    monkeypatch.setattr(os, "access", lambda place, right: Path(place) != kept)  # root may read wherever chmod forbids
    with pytest.raises(Damaged, match=rf"{kept} may not be read by this account; get the right to read it, or set `ho"):
        Registry.open(settings)


def test_a_writer_that_hangs_is_told_and_readers_go_on_sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.05)
    url = f"sqlite:///{tmp_path / 'r.db'}"
    one, other = Database(url), Database(url)
    with one.write() as connection:
        connection.execute(update(about).values(swept=1.0))
        with pytest.raises(Busy, match=r"another process has kept the registry .* locked for 0.05 s"), other.write():
            pass
        with other.read() as reader:
            assert reader.execute(select(about.c.revision)).scalar_one() == 0
    with other.write():
        pass


def test_an_error_within_a_transaction_undoes_all_of_it(url: str) -> None:
    opened = Database(url)

    def fail() -> None:
        with opened.write() as connection:
            connection.execute(update(about).values(swept=1.0))
            raise RuntimeError("the power went out")

    with pytest.raises(RuntimeError):
        fail()
    with opened.read() as connection:
        row = connection.execute(select(about)).one()
        assert row.revision == 0
        assert row.swept != 1.0
    opened.close()


def test_only_a_change_makes_the_revision_grow(url: str) -> None:
    opened = Database(url)
    with opened.write(changes=False):
        pass
    with opened.write(), opened.read() as outside:
        assert outside.execute(select(about.c.revision)).scalar_one() == 0
    with opened.read() as connection:
        assert connection.execute(select(about.c.revision)).scalar_one() == 1
    opened.close()


@pytest.mark.parametrize("verb", ["UPDATE {} SET name = 'x'", "DELETE FROM {}"])
@pytest.mark.parametrize("table", [versions, reports, journal], ids=lambda table: table.name)
def test_no_program_can_change_what_is_append_only(
    settings: Settings, three: Registry, verb: str, table: object
) -> None:
    from modelkeep.types import Report

    three.add_report(three.get("digits@1"), Report("score", True, "good"))
    with pytest.raises(Damaged, match=r"a row of (versions|reports|journal) is never changed"):
        write(three, text(verb.format(table)))
    assert len(three.versions("digits")) == 3
    assert len(three.journal("digits")) == 4


def test_a_row_of_a_version_that_is_not_there_cannot_be_written(three: Registry) -> None:
    row = {"name": "digits", "number": 9, "at": 0.0, "report": {}}
    with pytest.raises(Damaged, match=r"(?i)foreign key"):
        write(three, insert(reports).values(row))


@pytest.mark.parametrize(
    ("said", "kind", "sentence"),
    [
        ("database or disk is full", StorageFull, r"no space left for the registry .*bytes are free, .*nothing was"),
        ("database disk image is malformed", Damaged, "is damaged .*; restore it from a backup"),
        ("no such table: journal", Damaged, r"is damaged \(no such table: journal\); restore it from a backup"),
        ("disk I/O error", Damaged, "cannot be used: disk I/O error; check"),
        ("attempt to write a readonly database", Damaged, "can only be read here, and nothing was stored; get the"),
    ],
)
def test_what_the_database_says_becomes_a_sentence(url: str, said: str, kind: type[Exception], sentence: str) -> None:
    opened = Database(url)

    def fail() -> None:
        with opened.read():
            raise DBAPIError("SELECT", None, sqlite3.OperationalError(said))

    with pytest.raises(kind, match=sentence):
        fail()


def test_a_full_disk_without_room_for_readers_is_told_sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Database(f"sqlite:///{tmp_path / 'r.db'}")
    usage = database.shutil.disk_usage(tmp_path)._replace(free=4096)
    monkeypatch.setattr(database.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(StorageFull, match=r"no space left for the registry .*: 4,096 bytes are free"), opened.read():
        raise DBAPIError("SELECT", None, sqlite3.OperationalError("disk I/O error"))


def test_reports_with_numpy_values_and_nan_can_be_stored(three: Registry) -> None:
    import numpy as np

    from modelkeep.types import Report

    numbers = {
        "n": np.int64(3),
        "x": np.float32(0.5),
        "nan": float("nan"),
        "rows": np.arange(2),
        4: (1, {2}),
        "p": Path("a"),
    }
    three.add_report(three.get("digits@1"), Report("score", None, "odd", numbers))
    (found,) = three.reports(three.get("digits@1"))
    assert found.numbers.pop("nan") != 0  # type: ignore[attr-defined]
    assert found.numbers == {"n": 3, "x": 0.5, "rows": [0, 1], "4": [1, [2]], "p": "a"}
    assert plain(None) is None


def test_what_others_write_is_seen_where_this_one_may_only_read_sqlite(settings: Settings) -> None:
    with Registry.open(settings) as writer:
        writer.note("m", "first", "", {})
    engine = database._reading(settings.home / "registry.db")

    def kinds() -> list[str]:
        with engine.connect() as connection:
            return list(connection.execute(select(journal.c.kind)).scalars())

    assert kinds() == ["first"]
    with Registry.open(settings) as writer:
        writer.note("m", "second", "", {})
        assert kinds() == ["first", "second"]  # beside the file still
    assert not (settings.home / "registry.db-wal").exists()
    assert kinds() == ["first", "second"]


FULL = """
import sys
from pathlib import Path
from modelkeep.errors import StorageFull
from modelkeep.registry import Registry
from modelkeep.settings import Settings
disk = Path(sys.argv[1])
settings = Settings(home=disk / "home")
with Registry.open(settings) as registry:
    registry.note("m", "first", "", {})
rest = (disk / "rest").open("wb", buffering=0)
try:
    while rest.write(bytes(4096)):
        pass
except OSError:
    pass
with Registry.open(settings) as registry:
    print([entry.kind for entry in registry.journal()])
    try:
        registry.note("m", "none", "", {})
    except StorageFull as error:
        print(error)
    (disk / "rest").unlink()
    rest.close()
    registry.note("m", "second", "", {})
    print([entry.kind for entry in registry.journal()])
"""


def test_on_a_full_disk_it_is_read_and_written_to_again_once_there_is_room_sqlite(tmp_path: Path) -> None:
    """A service that is started again there has to find its model."""
    command = [*small_disk.on(tmp_path, "1m"), sys.executable, "-c", FULL, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.stderr == ""
    before, said, after = done.stdout.splitlines()
    assert (before, after) == ("['first']", "['first', 'second']")
    assert said.startswith("no space left for the registry ")
