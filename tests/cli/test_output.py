"""What verbs print, and how times and shares are read."""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np
import pytest

from modelkeep.cli import main, output, rollout
from modelkeep.types import Report


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("20ms", 0.02),
        ("500us", 5e-4),
        ("9ms", 0.009),
        ("1.5µs", 1.5e-6),
        ("5s", 5.0),
        ("2m", 120.0),
        ("1h", 3600.0),
        ("7d", 604_800.0),
        ("0.5s", 0.5),
        ("0", 0.0),
    ],
)
def test_times_are_read(text: str, seconds: float) -> None:
    assert output.duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-1s", "1w", "ms", "nan", "snan", "inf", "1e9999999d", "20", "0.5", "00"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="write 20ms, 5s, 2m, 1h or 7d"):
        output.duration(text)


@pytest.mark.parametrize(
    ("text", "share"),
    [("0.5pp", 0.005), ("2%", 0.02), ("99.9%", 0.999), ("0.02", 0.02), ("100%", 1.0), ("0", 0.0)],
)
def test_shares_are_read(text: str, share: float) -> None:
    assert output.share(text) == share


def test_the_shares_of_a_canary_are_what_was_written() -> None:
    assert rollout._shares("10, 50,99.9") == (0.1, 0.5, 0.999)
    assert rollout._shares("0.5%,10%,50") == (0.005, 0.1, 0.5)


@pytest.mark.parametrize(
    ("text", "size"), [("64mb", 64 * 1024**2), ("0.5kb", 512), ("1GB", 1024**3), ("12b", 12), ("0", 0)]
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert output.room(text) == size


@pytest.mark.parametrize("text", ["", "mb", "-1", "much", "nan", "inf", "64"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="write 512kb, 64mb or 1gb"):
        output.room(text)


@pytest.mark.parametrize("text", ["", "2", "101%", "-1%", "few", "nan"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match=r"write 0\.02, 2% or 2pp"):
        output.share(text)


def test_everything_becomes_json(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report("score", True, "fine", {"share": np.float32(0.5), "rows": np.arange(2), "bad": float("nan")})
    output.dump({"report": report, "path": Path("a/b"), "set": frozenset({1}), "none": None})
    read = json.loads(capsys.readouterr().out)
    assert read["report"]["numbers"] == {"share": 0.5, "rows": [0, 1], "bad": None}
    assert (read["path"], read["set"], read["none"]) == ("a/b", [1], None)


def test_a_table_keeps_whole_lines_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    output.table("t", ("a", "b"), [("x" * 60, "y" * 60)])
    assert "x" * 60 in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("tune", "m", "--p99", "0"), "it must be more than 0"),
        (("tune", "m", "--budget", "0s"), "it must be more than 0"),
        (("bench", "m", "--duration", "0"), "it must be more than 0"),
        (("serve", "m", "--run-timeout", "0ms"), "it must be more than 0"),
        (("tune", "m", "--min-throughput", "nan"), "no number that can be used"),
        (("tune", "m", "--price-per-hour", "inf"), "no number that can be used"),
        (("keys", "--add", "a", "--scope", "read", "--rate", "nan"), "no number that can be used"),
        (("update", "m", "--lr", "nan"), "no number that can be used"),
        (("update", "m", "--lr", "fast"), "'fast' is not a valid number"),
        (("serve", "m", "--port", "web"), "'web' is not a valid integer"),
        (("serve", "m", "--capture", "150%"), "'150%' is no share; write 0.02, 2% or 2pp"),
    ],
)
def test_no_time_and_no_number_are_refused_by_their_option(
    words: tuple[str, ...],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["modelkeep", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    err = capsys.readouterr().err
    assert ended.value.code == 2
    assert said in err
    assert words[-2] in err


@pytest.mark.parametrize("quiet", [False, True])
def test_a_log_gets_a_line_for_each_step(quiet: bool, capsys: pytest.CaptureFixture[str]) -> None:
    with output.progress("training", quiet=quiet, lines=True) as advance:
        advance(0, 2, "Finetune with epochs=3")
        advance(0.5, 2, "epoch 2 of 3")  # so soon it is worth no line
    said = capsys.readouterr()
    assert said.out == ""
    assert ("training, step 1 of 2: Finetune with epochs=3\n" in said.err) is not quiet
    assert len(said.err.splitlines()) == (not quiet)
