"""Numbers as a person reads them."""

from __future__ import annotations

import pytest

from modelkeep.console import words


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (words.percent(0.0123), "1.2%"),
        (words.percent(1.0, 0), "100%"),
        (words.percent(None), "–"),
        (words.seconds(0.00045), "450 µs"),
        (words.seconds(0.0123), "12.3 ms"),
        (words.seconds(2.5), "2.5 s"),
        (words.seconds(None), "–"),
        (words.rate(0.0), "0"),
        (words.rate(12.34), "12.3"),
        (words.rate(12345.6), "12,346"),
        (words.rate(None), "–"),
        (words.iso(0), "1970-01-01T00:00:00+00:00"),
        (words.when(0), "1970-01-01 00:00:00 UTC"),
        (words.ago(100, 100), "just now"),
        (words.ago(99, 100), "1 second ago"),
        (words.ago(0, 7300), "2 hours ago"),
        (words.ago(0, 86_400 * 3), "3 days ago"),
        (words.plain(None), "–"),
        (words.plain(True), "yes"),
        (words.plain(1234567), "1,234,567"),
        (words.plain(0.123456), "0.1235"),
        (words.plain(70710.7), "70,711"),
        (words.plain(float("nan")), "nan"),
        (words.plain(["a", "b"]), "a, b"),
        (words.plain(list(range(20))), "0, 1, 2, 3, 4, 5, 6, 7, … (20 in all)"),
    ],
)
def test_words(found: str, said: str) -> None:
    assert found == said


def test_numbers_of_a_report_by_their_paths() -> None:
    numbers = {
        "n": 3,
        "by class": {"cat": {"recall": 0.5}},
        "rows": [{"a": 1}, {"a": 2}],
        "names": ["x", "y"],
        "none": {},
    }
    assert words.facts(numbers) == [
        ("n", "3"),
        ("by class › cat › recall", "0.5"),
        ("rows › 1 › a", "1"),
        ("rows › 2 › a", "2"),
        ("names", "x, y"),
        ("none", "{}"),
    ]


def test_a_table_of_numbers_is_bounded() -> None:
    found = words.facts({str(n): n for n in range(1000)})
    assert len(found) == words.MOST_FACTS + 1
    assert found[-1] == ("…", "there is more: modelkeep show --json")
