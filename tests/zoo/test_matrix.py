"""The matrix says what was found, for a person at a terminal and on docs/zoo.md."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from zoo import catalogue, matrix
from zoo.outcome import Cell, Outcome
from zoo.row import Row

BERT = Row("bert", "text", "BERT base", "zoo.x:y", targets=("onnx", "openvino", "torch"))
FOREST = Row("forest", "trees", "a forest", "zoo.x:y")
PROOF = {"max_abs": 1.234e-6, "exporter": "torchscript", "opset": 18, "failed": {"dynamo": "it bakes | the length"}}
FOUND = {
    "bert": Outcome(
        "bert",
        {
            "onnx": Cell(True, "agrees", 3.0, {**PROOF, "sizes": {"batch": [1, 2, 7], "sequence": [1, 32]}}),
            "openvino": Cell(True, "agrees", 1.0, {"max_abs": 2e-6}),
            "torch": Cell(True, "agrees", 1.0, {"max_abs": 0.0, "learned": 0.25}),
        },
        takes=("input_ids int64 [batch, sequence]",),
        weights=437_000_000,
        seconds=61.6,
        peak=2_000_000_000,
    ),
    "forest": Outcome(
        "forest", {"onnx": Cell(True, "agrees"), "openvino": Cell(False, "OpenVINO lacks TreeEnsemble")}, weights=1
    ),
}


def test_a_line_says_what_each_conversion_gave() -> None:
    bert, forest = matrix.lines([BERT, FOREST], FOUND)
    assert dict(zip(matrix.COLUMNS, bert, strict=True)) == {
        "row": "bert",
        "weights": "437 MB",
        "takes": "input_ids int64 [batch, sequence]",
        "ONNX": "1.2e-06 torchscript 18",
        "OpenVINO": "2.0e-06",
        "SavedModel": "",
        "back to PyTorch": "0.0e+00 learns 2.5e-01",
        "seconds": "62",
        "peak memory": "2 GB",
    }
    assert forest[3:5] == ("ok", "FAILS")


def test_a_row_that_died_fails_everywhere_and_one_not_run_is_empty() -> None:
    died, missing = matrix.lines([BERT, FOREST], {"bert": Outcome("bert", why="its process was killed by SIGSEGV")})
    assert died[3:7] == ("FAILS", "FAILS", "", "FAILS")
    assert missing == ("forest", *[""] * 8)


def test_the_page_names_what_fails_and_which_exporter_gave_up() -> None:
    page = matrix.page([BERT, FOREST], FOUND, datetime(2026, 1, 2, tzinfo=UTC))
    assert page.startswith("# The zoo\n\n    make zoo")
    assert "**1 of 2 rows pass**, on 2026-01-02: torch " in page
    assert "| bert | 437 MB | input_ids int64 [batch, sequence] | 1.2e-06 torchscript 18 |" in page
    assert "| bert | BERT base | batch 1, 2, 7; sequence 1, 32 |" in page
    assert "- **bert**: dynamo: it bakes | the length" in page
    assert "- **forest** OpenVINO: OpenVINO lacks TreeEnsemble" in page
    assert page.endswith("\n")


def test_the_page_says_whether_all_rows_had_the_same_code() -> None:
    alike = {name: replace(found, code="a1") for name, found in FOUND.items()}
    now = datetime(2026, 1, 2, tzinfo=UTC)
    told = "**1 of 2 rows pass**, on 2026-01-02, all with the code of commit abc1234: torch "
    assert told in matrix.page([BERT, FOREST], alike, now, commit="abc1234")
    mixed = {**alike, "bert": replace(FOUND["bert"], code="b2")}
    assert "on 2026-01-02, with 2 states of the code: " in matrix.page([BERT, FOREST], mixed, now, commit="abc1234")


def test_every_line_of_a_table_has_as_many_cells() -> None:
    page = matrix.page(catalogue.rows(), {})
    wide = {line.count("|") for line in page.splitlines() if line.startswith("|")}
    assert wide == {len(matrix.COLUMNS) + 1, 4}
