"""Truth that comes late, or twice, or for nobody, or in a file that is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelkeep.data import labels, traffic
from modelkeep.data.traffic import Exchange, TrafficLog
from modelkeep.errors import BadData


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
        assert labels.record(path, "digits", {"a": 3, "b": "cat", "nobody": 1}) == 2
        assert truth(path) == {"a": 3, "b": "cat", "c": None}

    def test_twice_is_harmless_and_the_last_counts(self, path: Path) -> None:
        assert labels.record(path, "digits", {"a": 3}) == 1
        assert labels.record(path, "digits", {"a": 3}) == 1
        assert labels.record(path, "digits", {"a": 4}) == 1
        assert truth(path)["a"] == 4
        assert len(labels.read(path, "digits")) == 1

    def test_another_model_is_another_matter(self, path: Path) -> None:
        assert labels.record(path, "other", {"a": 3}) == 0
        assert truth(path)["a"] is None

    def test_before_the_request_was_written(self, path: Path) -> None:
        assert labels.record(path, "digits", {"later": 5}) == 0
        log = TrafficLog(path)
        log.offer(Exchange("later", 9.0, "digits", 1, "live", "ok", 0.01))
        log.close()
        assert truth(path)["later"] == 5

    def test_lists_and_numpy(self, path: Path) -> None:
        labels.record(path, "digits", {"a": [1, 2], "b": np.array([3, 4]), "c": np.int64(7)})
        assert truth(path) == {"a": [1, 2], "b": [3, 4], "c": 7}

    def test_none_at_all(self, path: Path) -> None:
        assert labels.record(path, "digits", {}) == 0

    def test_the_oldest_go_first(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(labels, "MAX_LABELS", 5)
        labels.record(path, "digits", {f"x{i}": i for i in range(12)})
        assert [request for _, request, _ in labels.read(path, "digits")] == [f"x{i}" for i in range(7, 12)]

    @pytest.mark.parametrize("bad", [None, {"a": 1}, [], [None], float("nan"), [[1]]])
    def test_what_is_no_label_is_refused(self, path: Path, bad: Any) -> None:
        with pytest.raises(BadData, match=r"the label of request 'a' is .*give a number, a text, or a list"):
            labels.record(path, "digits", {"a": bad})
        assert truth(path)["a"] is None


class TestRead:
    def test_only_what_is_new(self, path: Path) -> None:
        labels.record(path, "digits", {"a": 1, "b": 2})
        last = labels.newest(path)
        assert labels.read(path, "digits", after=last) == []
        labels.record(path, "digits", {"c": 3})
        assert [(request, label) for _, request, label in labels.read(path, "digits", after=last)] == [("c", 3)]

    def test_a_missing_file(self, tmp_path: Path) -> None:
        assert labels.read(tmp_path / "none.db", "digits") == []
        assert labels.newest(tmp_path / "none.db") == 0


class TestReadFile:
    def write(self, folder: Path, text: str) -> Path:
        file = folder / "truth"
        file.write_text(text, encoding="utf-8")
        return file

    def test_csv(self, tmp_path: Path) -> None:
        file = self.write(tmp_path, "when,id,label\n1,a,3\n2,b,0.5\n3,c,cat\n")
        assert labels.read_file(file) == {"a": 3, "b": 0.5, "c": "cat"}

    def test_json_lines(self, tmp_path: Path) -> None:
        file = self.write(tmp_path, '{"id": "a", "label": [1, 2]}\n\n{"id": 7, "label": "cat"}\n')
        assert labels.read_file(file) == {"a": [1, 2], "7": "cat"}

    def test_a_csv_from_a_spreadsheet(self, tmp_path: Path) -> None:
        (tmp_path / "truth").write_bytes(b"\xef\xbb\xbfid,label\r\na,3\r\n")
        assert labels.read_file(tmp_path / "truth") == {"a": 3}

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(BadData, match="there is no file"):
            labels.read_file(tmp_path / "none")

    def test_no_text(self, tmp_path: Path) -> None:
        (tmp_path / "truth").write_bytes(b"\xff\xfe\x00\x81")
        with pytest.raises(BadData, match="cannot be read as text"):
            labels.read_file(tmp_path / "truth")

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("name,truth\na,3\n", "has the columns name, truth; it needs id and label"),
            ("", "has the columns none; it needs id and label"),
            ("id,label\n", "holds no labels"),
            ("id,label\na,3\n,4\n", "line 3 lacks an id or a label"),
            ("id,label\na\n", "line 2 lacks an id or a label"),
            ('{"id": "a"}\n', "line 1 is not"),
            ('{"id": "a", "label": 1}\nnonsense\n', "line 2 is not"),
        ],
    )
    def test_wrong_files_are_named(self, tmp_path: Path, text: str, says: str) -> None:
        with pytest.raises(BadData, match=f"truth {says}" if not says.startswith("holds") else says):
            labels.read_file(self.write(tmp_path, text))
