"""What every reply over HTTP says alike."""

from __future__ import annotations

from modelkeep.errors import BadInput, NotFound, NotReady, Overloaded
from modelkeep.serve.http.replies import failed, retry_after, timing
from modelkeep.types import Reply


def test_an_error_is_its_status_and_one_sentence() -> None:
    assert failed(BadInput("no")) == (400, b'{"error":"no"}', [(b"content-type", b"application/json")])
    status, said, headers = failed(ValueError("a secret"))
    assert (status, said) == (500, b'{"error":"the server failed on this request; its log says why"}')
    assert len(headers) == 1


def test_the_time_of_each_stage_is_in_milliseconds() -> None:
    reply = Reply("r", "m", 1, {}, {"queue": 0.0015, "compute": 0.25})
    assert timing(reply) == b"queue;dur=1.500, compute;dur=250.000"


def test_when_to_come_again_is_in_whole_seconds_and_only_for_what_is_busy() -> None:
    assert retry_after(Overloaded("full", 0.2)) == [(b"retry-after", b"1")]
    assert retry_after(Overloaded("full", 2.1)) == [(b"retry-after", b"3")]
    assert retry_after(NotReady("loading")) == [(b"retry-after", b"1")]
    assert retry_after(NotFound("no")) == []
