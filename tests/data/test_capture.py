"""The file of captured requests says what is wrong with it in one sentence."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from modelkeep.data.capture import connect, number
from modelkeep.errors import BadData, Damaged


def test_it_is_made_with_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "home" / "traffic.db"
    with connect(path) as database:
        assert database.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert {"exchanges", "labels"} <= tables
    database.close()


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "traffic.db"
    path.write_text("this is no database, and it is long enough to be read as one " * 50)
    with pytest.raises(BadData, match=r"traffic\.db is not a file of captured traffic .*move it away, it is made anew"):
        connect(path)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Damaged, match=r"cannot be used .*check the disk and who may write there"):
        connect(tmp_path / "file" / "traffic.db")


def test_a_number(tmp_path: Path) -> None:
    path = tmp_path / "traffic.db"
    assert number(path, "SELECT MAX(row) FROM exchanges") == 0
    connect(path).close()
    assert number(path, "SELECT MAX(row) FROM exchanges") == 0
    assert number(path, "SELECT row FROM labels WHERE id = ?", "none") == 0
    assert number(path, "SELECT 7") == 7


def test_a_file_without_its_tables_is_said_to_be_unusable(tmp_path: Path) -> None:
    path = tmp_path / "traffic.db"
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE labels (x)")
    database.commit()
    database.close()
    with pytest.raises(Damaged, match=r"cannot be used .no such column: row"):
        number(path, "SELECT MAX(row) FROM exchanges")


def test_the_newest_rows_of_a_version_are_found_without_sorting_in_an_older_file_too(tmp_path: Path) -> None:
    path = tmp_path / "traffic.db"
    connect(path).close()
    query = "SELECT id FROM exchanges WHERE model = ? AND version = ? AND row > ? ORDER BY row DESC LIMIT 500"
    with connect(path) as database:
        database.execute("DROP INDEX by_row")
    for _ in range(2):
        database.close()
        database = connect(path)
        plan = " ".join(str(line) for line in database.execute(f"EXPLAIN QUERY PLAN {query}", ("m", 1, 0)))
        assert "by_row" in plan
        assert "TEMP B-TREE" not in plan
    database.close()


def test_bytes_are_added_up_without_reading_the_arrays(tmp_path: Path) -> None:
    path = tmp_path / "traffic.db"
    connect(path).close()
    with connect(path) as database:
        database.execute("DROP INDEX by_bytes")
    database.close()
    with connect(path) as database:
        (*_, plan) = database.execute("EXPLAIN QUERY PLAN SELECT SUM(bytes) FROM exchanges").fetchone()
        assert "COVERING INDEX by_bytes" in plan
    database.close()
