"""Of captured requests no more is read at a time than a server may hold, and only what is judged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelkeep.data import traffic
from modelkeep.data.dataset import Dataset
from modelkeep.monitor import captured
from modelkeep.monitor.look import check
from modelkeep.types import Model, Version


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> list[list[traffic.Exchange]]:
    """All that is read."""
    seen: list[list[traffic.Exchange]] = []
    read = traffic.read

    def watched(*args: Any, **options: Any) -> list[traffic.Exchange]:
        seen.append(read(*args, **options))
        return seen[-1]

    monkeypatch.setattr(traffic, "read", watched)
    return seen


def test_a_page_is_bounded_in_bytes_and_none_is_left_out(
    version: Version,
    model: Model,
    tmp_path: Path,
    send: Callable[..., list[str]],
    digits: tuple[Dataset, Dataset],
    pages: list[list[traffic.Exchange]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(captured, "PAGE_BYTES", 5000)
    sent = send(digits[1].inputs["pixels"][:100])
    looked = check(version, model, tmp_path)
    assert [e.id for page in pages for e in page] == sent
    assert 10 < max(len(page) for page in pages) < 25  # 64 and 10 floats each, and their headers
    assert looked.n == 100
    assert looked.numbers["inputs"]["n"] >= 96


def test_inputs_are_not_read_where_a_server_has_counted_them(
    version: Version,
    model: Model,
    tmp_path: Path,
    send: Callable[..., list[str]],
    profile: Callable[..., None],
    digits: tuple[Dataset, Dataset],
    pages: list[list[traffic.Exchange]],
) -> None:
    pixels = digits[1].inputs["pixels"][:64]
    send(pixels)
    profile(pixels)
    looked = check(version, model, tmp_path)
    assert len(read := [e for page in pages for e in page]) == 64
    assert all(e.inputs is None and e.outputs is not None for e in read)
    assert looked.numbers["inputs"]["n"] == 64
    assert looked.numbers["estimated"]["n"] == 64


def test_seconds_are_of_the_newest_requests(
    version: Version,
    model: Model,
    tmp_path: Path,
    send: Callable[..., list[str]],
    digits: tuple[Dataset, Dataset],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(captured, "MAX_TIMES", 50)
    pixels = digits[1].inputs["pixels"][:60]
    for seconds in (1.0, 2.0, 3.0):
        send(pixels, seconds=seconds)
        looked = check(version, model, tmp_path, plots=True)
        assert looked.numbers["health"]["p50"] == pytest.approx(seconds)
    assert {point["p99"] for point in looked.plots["seconds"]} <= {1.0, 2.0, 3.0}
