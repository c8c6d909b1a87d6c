"""Truth that comes late, or twice, or for nobody, or in a file that is wrong."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelkeep.data import capture, labels, traffic
from modelkeep.data.traffic import Exchange, TrafficLog
from modelkeep.errors import BadData

NO_TRUTH: list[Any] = [float("nan"), [1, float("nan")], np.array([np.nan]), float("inf"), 10**400, "", ["cat", "NaN"]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with the requests a, b and c to digits."""
    found = tmp_path / "traffic.db"
    log = TrafficLog(found)
    for at, name in enumerate("abc"):
        log.offer(Exchange(name, float(at), "digits", 1, "live", "ok", 0.01))
    log.close()
    return found


def truth(path: Path) -> dict[str, Any]:
    return {e.id: e.label for e in traffic.read(path, "digits")}


class TestRecord:
    def test_it_says_how_many_match(self, path: Path) -> None:
        found = labels.record(path, "digits", {"a": 3, "b": "cat", "nobody": 1})
        assert (found.given, found.new, found.matched, found.unmatched) == (3, 3, 2, 1)
        assert found.examples == ("nobody",)
        assert truth(path) == {"a": 3, "b": "cat", "c": None}

    def test_twice_is_harmless_and_the_last_counts(self, path: Path) -> None:
        said = [labels.record(path, "digits", {"a": label}).numbers() for label in (3, 3, 4)]
        assert [(one["new"], one["changed"], one["matched"]) for one in said] == [(1, 0, 1), (0, 0, 1), (0, 1, 1)]
        assert truth(path)["a"] == 4
        assert len(labels.read(path, "digits")) == 1

    def test_they_are_read_in_parts_the_oldest_first(self, path: Path) -> None:
        labels.record(path, "digits", {"a": 1, "b": 2, "c": 3})
        rows = labels.read(path, "digits", limit=2)
        assert [request for _, request, _ in rows] == ["a", "b"]
        assert [request for _, request, _ in labels.read(path, "digits", after=rows[-1][0], limit=2)] == ["c"]

    def test_another_model_is_another_matter(self, path: Path) -> None:
        assert labels.record(path, "other", {"a": 3}).matched == 0
        assert truth(path)["a"] is None

    def test_before_the_request_was_written(self, path: Path) -> None:
        assert labels.record(path, "digits", {"later": 5}).matched == 0
        log = TrafficLog(path)
        log.offer(Exchange("later", 9.0, "digits", 1, "live", "ok", 0.01))
        log.close()
        assert truth(path)["later"] == 5

    def test_lists_and_numpy(self, path: Path) -> None:
        labels.record(path, "digits", {"a": [1, 2], "b": np.array([3, 4]), "c": np.int64(7)})
        assert truth(path) == {"a": [1, 2], "b": [3, 4], "c": 7}

    def test_none_at_all(self, path: Path) -> None:
        assert labels.record(path, "digits", {}) == labels.Recorded()

    def test_some_rows_of_a_request(self, path: Path) -> None:
        labels.record(path, "digits", {"a": [3, None, 1]})
        assert truth(path)["a"] == [3, None, 1]

    def test_several_numbers_a_row(self, path: Path) -> None:
        labels.record(path, "digits", {"a": [[1.5, 2], None], "b": np.array([[3.0, 4.0]])})
        assert truth(path) == {"a": [[1.5, 2], None], "b": [[3.0, 4.0]], "c": None}

    def test_many_go_in_lots_and_count_as_one(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(labels, "AT_A_TIME", 3)
        found = labels.record(path, "digits", {**{f"x{i}": i for i in range(7)}, "a": 1, "b": 2})
        assert (found.new, found.matched, found.unmatched) == (9, 2, 7)
        assert found.examples == ("x0", "x1", "x2")

    def test_the_oldest_go_first(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(labels, "MAX_LABELS", 5)
        labels.record(path, "digits", {f"x{i}": i for i in range(12)})
        assert [request for _, request, _ in labels.read(path, "digits")] == [f"x{i}" for i in range(7, 12)]

    def test_but_none_of_other_models(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(labels, "MAX_LABELS", 5)
        labels.record(path, "digits", {"a": 1})
        labels.record(path, "other", {f"x{i}": i for i in range(12)})
        assert labels.known(path, "digits") == {"a": 1}
        labels.record(path, "digits", {"a": 2, "b": 3})
        assert labels.known(path, "digits") == {"a": 2, "b": 3}

    @pytest.mark.parametrize("bad", [None, {"a": 1}, [], [None], [[1, None]], [[]], [["a"]], *NO_TRUTH])
    def test_what_is_no_label_is_refused_with_all_beside_it(self, path: Path, bad: Any) -> None:
        with pytest.raises(BadData, match=r"the label of request 'a' is .*give a number, a text, or a list"):
            labels.record(path, "digits", {"b": 1, "a": bad})
        assert truth(path) == {"a": None, "b": None, "c": None}

    def test_what_is_too_long_is_refused(self, path: Path) -> None:
        with pytest.raises(BadData, match="the label of request 'a' has 70002 characters; 65536 are the most"):
            labels.record(path, "digits", {"a": "x" * 70_000})
        for request in ("", "x" * 70_000, 7, "\ud800"):
            with pytest.raises(BadData, match="a request id is a text of 1 to 65536 characters"):
                labels.record(path, "digits", {request: 1})  # type: ignore[dict-item]


class TestRead:
    def test_a_run_is_of_the_newest_of_one_model(self, path: Path) -> None:
        for at in range(25):
            labels.record(path, "digits", {f"x{at}": at})
            labels.record(path, "busy", {f"{at} {k}": 1 for k in range(9)})
        start = labels.run_start(path, "digits", 10)
        assert [label for _, _, label in labels.read(path, "digits", after=start)] == list(range(10, 25))
        assert labels.run_start(path, "digits", 100) == labels.run_start(path, "none", 10) == 0

    def test_only_what_is_new(self, path: Path) -> None:
        labels.record(path, "digits", {"a": 1, "b": 2})
        last = labels.newest(path)
        assert labels.read(path, "digits", after=last) == []
        labels.record(path, "digits", {"c": 3})
        assert [(request, label) for _, request, label in labels.read(path, "digits", after=last)] == [("c", 3)]

    def test_a_missing_file(self, tmp_path: Path) -> None:
        assert labels.read(tmp_path / "none.db", "digits") == []
        assert labels.newest(tmp_path / "none.db") == 0


class TestLag:
    def test_nothing(self, tmp_path: Path, path: Path) -> None:
        assert labels.lag(tmp_path / "none.db", "digits") == labels.Lag()
        found = labels.lag(path, "digits")
        assert (found.answers, found.labelled, found.coverage, found.median) == (3, 0, 0.0, None)
        assert labels.lag(path, "other").coverage is None

    def test_coverage_and_seconds_from_the_answer_to_its_label(self, path: Path) -> None:
        labels.record(path, "digits", {"a": 1, "nobody": 1}, at=10.0)  # asked at 0
        labels.record(path, "digits", {"b": 1}, at=31.0)  # asked at 1
        found = labels.lag(path, "digits")
        assert (found.answers, found.labelled, found.labels, found.unmatched) == (3, 2, 3, 1)
        assert found.coverage == pytest.approx(2 / 3)
        assert (found.n, found.median, found.p90, found.since) == (2, 20.0, 28.0, 0.0)

    def test_of_one_version(self, path: Path) -> None:
        log = TrafficLog(path)
        log.offer(Exchange("d", 4.0, "digits", 2, "canary", "ok", 0.01))
        log.close()
        labels.record(path, "digits", {"a": 1, "d": 1, "nobody": 2}, at=10.0)
        first, second = (labels.lag(path, "digits", version=number) for number in (1, 2))
        assert (first.answers, first.labelled, first.median, first.unmatched) == (3, 1, 10.0, 1)
        assert (second.answers, second.labelled, second.median, second.unmatched) == (1, 1, 6.0, 1)

    def test_a_correction_does_not_make_it_later(self, path: Path) -> None:
        labels.record(path, "digits", {"a": 1}, at=10.0)
        labels.record(path, "digits", {"a": 2}, at=1000.0)
        assert labels.lag(path, "digits").median == 10.0

    def test_shadows_and_failures_are_no_answers(self, path: Path) -> None:
        log = TrafficLog(path)
        log.offer(Exchange("d", 4.0, "digits", 2, "shadow", "ok", 0.01))
        log.offer(Exchange("e", 5.0, "digits", 1, "live", "error", 0.01))
        log.close()
        assert labels.lag(path, "digits").answers == 3
        assert labels.record(path, "digits", {"d": 1}).matched == 0

    def test_it_outlives_the_captured_row(self, path: Path) -> None:
        labels.record(path, "digits", {"a": 1, "b": 2}, at=10.0)
        log = TrafficLog(path, max_rows=2)
        log.offer(Exchange("d", 4.0, "digits", 1, "live", "ok", 0.01))
        log.close()
        found = labels.lag(path, "digits")
        assert (found.answers, found.labelled, found.n, found.unmatched) == (2, 0, 2, 0)
        assert labels.record(path, "digits", {"a": 1, "c": 2}).matched == 1  # a is no longer kept

    def test_a_label_before_its_request_is_not_without_one(self, path: Path) -> None:
        labels.record(path, "digits", {"later": 5}, at=8.0)
        assert labels.lag(path, "digits").unmatched == 1
        log = TrafficLog(path)
        log.offer(Exchange("later", 9.0, "digits", 1, "live", "ok", 0.01))
        log.close()
        assert (labels.lag(path, "digits").unmatched, labels.lag(path, "digits").labelled) == (0, 1)


def test_a_file_from_before_is_taken_over(tmp_path: Path) -> None:
    old = tmp_path / "traffic.db"
    database = sqlite3.connect(old)
    database.executescript(capture.SCHEMA.replace("answered REAL, version INTEGER, seq INTEGER, ", ""))
    database.execute("INSERT INTO labels (model, id, label, at) VALUES ('digits', 'a', '3', 1.0)")
    database.commit()
    database.close()
    assert labels.record(old, "digits", {"a": 4, "b": 5}).changed == 1
    assert [label for _, _, label in labels.read(old, "digits")] == [4, 5]
    assert labels.lag(old, "digits").n == 0


def test_what_it_takes_to_ask(path: Path) -> None:
    """Steps of SQLite's machine, a label: that of a label which met its request is looked for no more, and the newest
    are not found by sorting all."""
    log = TrafficLog(path)
    for at in range(400):
        log.offer(Exchange(f"r{at}", 1000.0 + at, "busy", 1, "live", "ok", 0.01))
    log.close()
    labels.record(path, "busy", {f"r{at}": 1 for at in range(400)})
    steps = {}
    for name, query, given in (("known", labels._KNOWN, {}), ("late", labels._LATE, {"most": 10})):
        database, taken = capture.connect(path), [0]
        database.set_progress_handler(lambda taken=taken: taken.__setitem__(0, taken[0] + 1), 1)
        database.execute(query, {"model": "busy", "version": 1, **given}).fetchall()
        steps[name] = taken[0]
        database.close()
    assert steps["known"] < 400 * 25
    assert steps["late"] < 400
