"""Labels in files: what is read of each kind, and what is said of one that is wrong."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest

from modelkeep.data import label_files
from modelkeep.errors import BadData, MissingExtra


def write(folder: Path, text: str) -> Path:
    file = folder / "truth"
    file.write_text(text, encoding="utf-8")
    return file


def test_csv(tmp_path: Path) -> None:
    file = write(tmp_path, "when,id,label\n1,a,3\n2,b,0.5\n3,c,cat\n")
    assert label_files.read(file).labels == {"a": 3, "b": 0.5, "c": "cat"}


def test_a_list_in_a_cell(tmp_path: Path) -> None:
    file = write(tmp_path, 'id,label\na,"[3, null, 1]"\nb,[one]\nc,"[""my nan""]"\n')
    assert label_files.read(file).labels == {"a": [3, None, 1], "b": "[one]", "c": ["my nan"]}


def test_nan_in_a_cell_is_no_text_that_might_be_a_class(tmp_path: Path) -> None:
    found = label_files.read(write(tmp_path, 'id,label\na,nan\nb,"[nan, 2]"\n')).labels
    assert math.isnan(found["a"])
    assert math.isnan(found["b"][0])


def test_what_is_no_list_and_no_number_is_a_text(tmp_path: Path) -> None:
    deep = "[" * 100_000
    found = label_files.read(write(tmp_path, f'id,label\na,{deep}\nb,1_0\nc,"two\nlines"\n')).labels
    assert found == {"a": deep, "b": "1_0", "c": "two\nlines"}


def test_a_line_of_json_may_hold_any_character(tmp_path: Path) -> None:
    file = write(tmp_path, '{"id": "a", "label": "one\u2028two\x85"}\r\n{"id": "b", "label": 1}\n')
    assert label_files.read(file).labels == {"a": "one\u2028two\x85", "b": 1}


def test_json_lines(tmp_path: Path) -> None:
    file = write(tmp_path, '{"id": "a", "label": [1, 2]}\n\n{"id": 7, "label": "cat"}\n')
    assert label_files.read(file).labels == {"a": [1, 2], "7": "cat"}


def test_a_csv_from_a_spreadsheet(tmp_path: Path) -> None:
    (tmp_path / "truth").write_bytes(b"\xef\xbb\xbfid,label\r\na,3\r\n")
    assert label_files.read(tmp_path / "truth").labels == {"a": 3}


def test_the_last_of_an_id_counts(tmp_path: Path) -> None:
    found = label_files.read(write(tmp_path, "id,label\na,3\nb,1\na,4\n"))
    assert found == label_files.Truth({"a": 4, "b": 1}, repeated=1)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="there is no file"):
        label_files.read(tmp_path / "none")


def test_no_text(tmp_path: Path) -> None:
    (tmp_path / "truth").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(BadData, match="cannot be read as text"):
        label_files.read(tmp_path / "truth")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name,truth\na,3\n", "has the columns name, truth; it needs id and label"),
        ("", "has the columns none; it needs id and label"),
        ("id,label\n", "holds no labels"),
        ("id,label\na,3\n,4\n", "line 3 lacks an id or a label"),
        ("id,label\na\n", "line 2 lacks an id or a label"),
        ('{"id": "a"}\n', 'line 1 is not {"id": …, "label": …}$'),
        ('{"id": "a", "label": 1}\n[1]\n', 'line 2 is not {"id": …, "label": …}$'),
        ('{"id": "a", "label": 1}\nnonsense\n', "line 2 is not JSON: Expecting value"),
        ('{"id": "a", "label": %s}\n' % ("[" * 100_000 + "]" * 100_000), "line 1 is not JSON: maximum recursion depth"),
        ('{"id": null, "label": 1}\n', "line 1 has the id null; give a text or a whole number"),
        ('{"id": ["a"], "label": 1}\n', r"line 1 has the id \['a'\]; give a text"),
        (f"id,label\na,1\nb,{'x' * 200_000}\n", "line 3 cannot be read as csv: field larger than field limit"),
        ('id,label\na,"two\nlines"\n,4\n', "line 4 lacks an id or a label"),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(BadData, match=f"truth {says}"):
        label_files.read(write(tmp_path, text))


class TestParquet:
    def write(self, folder: Path, **columns: Any) -> Path:
        arrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(arrow.table(columns), folder / "truth.parquet")
        return folder / "truth.parquet"

    def test_columns(self, tmp_path: Path) -> None:
        file = self.write(tmp_path, when=[1.0, 2.0], id=["a", "b"], label=[[3, None], [1, 2]])
        assert label_files.read(file).labels == {"a": [3, None], "b": [1, 2]}
        assert label_files.read(self.write(tmp_path, id=[1, 2], label=["x", "y"])).labels == {"1": "x", "2": "y"}

    def test_wrong_ones_are_named(self, tmp_path: Path) -> None:
        with pytest.raises(BadData, match="has the columns id, truth; it needs id and label"):
            label_files.read(self.write(tmp_path, id=["a"], truth=[1]))
        with pytest.raises(BadData, match="row 2 lacks an id or a label"):
            label_files.read(self.write(tmp_path, id=["a", "b"], label=[1, None]))
        (tmp_path / "truth").write_bytes(b"PAR1 and no more")
        with pytest.raises(BadData, match="cannot be read as parquet"):
            label_files.read(tmp_path / "truth")

    def test_without_pyarrow(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
        (tmp_path / "truth").write_bytes(b"PAR1")
        with pytest.raises(MissingExtra, match=r"modelkeep\[sample\]"):
            label_files.read(tmp_path / "truth")
