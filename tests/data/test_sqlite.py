"""The file that one process writes while others read: it is made once, and its trouble is told apart."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from modelkeep.data.sqlite import File, lies_still, reading, renewed, set_aside, stride
from modelkeep.errors import BadData, Damaged, DamagedFile

FILE = File("things", "CREATE TABLE things (name TEXT)", last="things")


def test_it_is_made_once_and_read_while_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "things.db"
    writer = FILE.connect(path)
    with writer:
        writer.execute("INSERT INTO things VALUES ('a')")
        assert FILE.rows(path, "SELECT name FROM things") == []
    assert FILE.rows(path, "SELECT name FROM things WHERE name = ?", "a") == [("a",)]
    assert FILE.number(path, "SELECT COUNT(*) FROM things") == 1
    assert FILE.number(path, "SELECT COUNT(*) FROM things WHERE name = 'b'") == 0
    writer.close()


def test_what_others_write_is_seen_where_this_one_may_only_read(tmp_path: Path) -> None:
    path = tmp_path / "things.db"

    def names() -> list[tuple[str]]:
        with closing(reading(path)) as database:
            return database.execute("SELECT name FROM things").fetchall()

    FILE.connect(path).close()
    assert names() == []
    with closing(FILE.connect(path)) as writer:
        with writer:
            writer.execute("INSERT INTO things VALUES ('a')")
        assert not lies_still(path)
        assert names() == [("a",)]
    assert lies_still(path)
    assert names() == [("a",)]
    with closing(reading(path)) as database, pytest.raises(sqlite3.OperationalError, match="readonly"):
        database.execute("DELETE FROM things")


def test_a_missing_file_holds_nothing_and_is_not_made(tmp_path: Path) -> None:
    assert FILE.rows(tmp_path / "things.db", "SELECT 1") == []
    assert FILE.number(tmp_path / "things.db", "SELECT 1") == 0
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "things.db"
    path.write_text("these are no things\n" * 100)
    with pytest.raises(DamagedFile, match=r"is not a file of things .* move it away") as told:
        FILE.connect(path)
    assert isinstance(told.value, Damaged)
    assert isinstance(told.value, BadData)


def test_a_query_that_fails(tmp_path: Path) -> None:
    path = tmp_path / "things.db"
    FILE.connect(path).close()
    with pytest.raises(Damaged, match=r"the things in .* cannot be used \(no such table: others\)"):
        FILE.rows(path, "SELECT * FROM others")


def test_what_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Damaged, match="check the disk"):
        FILE.connect(tmp_path / "file" / "things.db")


def test_a_file_from_before_gets_what_it_lacks(tmp_path: Path) -> None:
    path = tmp_path / "things.db"
    with closing(FILE.connect(path)) as database, database:
        database.execute("INSERT INTO things VALUES ('a')")
    newer = replace(FILE, later=(("things", "number INTEGER", "rowid"),), indexes={"by_number": "things (number)"})
    for _ in range(2):
        with closing(newer.connect(path)) as database:
            assert database.execute("SELECT number FROM things INDEXED BY by_number").fetchall() == [(1,)]


@pytest.mark.parametrize(("newest", "start"), [(0, 0), (1, 0), (100, 0), (200, 0), (201, 100), (300, 100), (301, 200)])
def test_strides_hold_the_newest_one_to_two_lengths(newest: int, start: int) -> None:
    assert stride(newest, 100) == start


def test_a_damaged_file_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "things.db"
    path.write_text("no database " * 500)
    assert renewed(path, FILE.connect) == (
        f"what was in {path} is set aside (.damaged), and the file is made anew: file is not a database"
    )
    assert [file.name for file in tmp_path.iterdir()] == ["things.db.damaged"]
    assert renewed(path, FILE.connect) == ""


def test_what_lies_beside_a_file_is_set_aside_with_it(tmp_path: Path) -> None:
    for name in ("things.db", "things.db-wal", "other.db"):
        (tmp_path / name).write_text("")
    set_aside(tmp_path / "things.db")
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "other.db",
        "things.db-wal.damaged",
        "things.db.damaged",
    ]


def test_a_damaged_file_that_cannot_be_set_aside_is_left_to_a_person(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def held(self: Path, target: object) -> None:
        raise PermissionError(self)

    path = tmp_path / "things.db"
    path.write_text("no database " * 500)
    monkeypatch.setattr(Path, "rename", held)
    assert renewed(path, FILE.connect).endswith("move it away, it is made anew")


def test_trouble_is_told_apart() -> None:
    known = Damaged("a sentence")
    assert FILE.trouble(Path("x"), known) is known
    assert isinstance(FILE.trouble(Path("x"), sqlite3.OperationalError("database is locked")), Damaged)
    assert isinstance(FILE.trouble(Path("x"), sqlite3.DatabaseError("file is not a database")), BadData)
    assert isinstance(FILE.trouble(Path("x"), OSError("no space")), Damaged)
