"""Frames: what one side packs, the other unpacks, small through the socket and large through the arena."""

from __future__ import annotations

import os
import socket
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelkeep.errors import BadInput
from modelkeep.serve.workers import wire

ARENA = wire.Arena()


def there_and_back(pieces: dict[str, list[Any]], start: int = 0) -> tuple[dict[str, Any], dict[str, Any], bool]:
    head, (arrays,), inside = wire.unpack(bytes(wire.pack({"n": 1}, [pieces], ARENA, start)), ARENA)
    return head, arrays, inside


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["float32", "float64", "float16", "int8", "uint64", "bool", "complex64"]),
            st.lists(st.integers(0, 5), max_size=3),
            st.lists(st.integers(0, 4), min_size=1, max_size=4),
        ),
        max_size=4,
    )
)
def test_numbers_come_back_joined(given_: list[tuple[str, list[int], list[int]]]) -> None:
    rng = np.random.default_rng(0)
    pieces = {
        f"x{number}": [rng.integers(0, 2, (rows, *shape)).astype(dtype) for rows in counts]
        for number, (dtype, shape, counts) in enumerate(given_)
    }
    head, arrays, inside = there_and_back(pieces)
    assert head["n"] == 1
    assert not inside
    assert list(arrays) == list(pieces)
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, np.concatenate(pieces[name]))
        assert array.dtype == pieces[name][0].dtype


@given(st.lists(st.one_of(st.text(), st.binary()), max_size=6))
def test_text_and_bytes_come_back_as_they_were(elements: list[str | bytes]) -> None:
    array = np.empty((len(elements), 1), object)
    array[:, 0] = elements
    _, arrays, _ = there_and_back({"t": [array, np.array([["x"]], "U1")]})
    assert arrays["t"].tolist() == [*([e] for e in elements), ["x"]]


def test_a_scalar_and_what_is_not_contiguous() -> None:
    transposed = np.arange(6.0).reshape(2, 3).T
    _, arrays, _ = there_and_back({"s": [np.array(3.5)], "t": [transposed]})
    assert arrays["s"].shape == ()
    assert arrays["s"] == 3.5
    np.testing.assert_array_equal(arrays["t"], transposed)


def test_what_is_large_goes_through_the_arena_from_where_it_is_free() -> None:
    large = np.arange(wire.INLINE, dtype=np.float32).reshape(2, -1)
    frame = wire.pack({}, [{"x": [large[:1], large[1:]]}], ARENA)
    assert len(frame) < 1000
    head, (arrays,), inside = wire.unpack(frame, ARENA)
    assert inside
    assert head["used"] == large.nbytes
    np.testing.assert_array_equal(arrays["x"], large)
    _, after, _ = there_and_back({"y": [large + 1]}, head["used"])
    np.testing.assert_array_equal(arrays["x"], large)
    np.testing.assert_array_equal(after["y"], large + 1)
    assert all(a.ctypes.data % wire.ALIGN == 0 for a in (arrays["x"], after["y"]))


def test_what_fits_in_no_arena_goes_through_the_socket() -> None:
    large = np.arange(wire.INLINE, dtype=np.float32)
    _, arrays, inside = there_and_back({"x": [large]}, wire.ARENA - 64)
    assert not inside
    np.testing.assert_array_equal(arrays["x"], large)


def test_two_maps_of_an_arena_are_one_memory_and_a_large_batch_is_given_back() -> None:
    ours = wire.Arena()
    theirs = wire.Arena(os.dup(ours.fd))
    at = wire.KEPT + 4096
    ours.map[at : at + 3] = b"abc"
    ours.map[:3] = b"def"
    assert theirs.map[at : at + 3] == b"abc"
    theirs.trim(at)
    assert ours.map[:3] == b"def"
    if hasattr(os, "memfd_create"):
        assert ours.map[at : at + 3] == b"\0\0\0"
    ours.close()
    ours.close()
    theirs.close()


def test_what_is_no_tensor_is_refused() -> None:
    with pytest.raises(BadInput, match="text is needed, and 3 is none"):
        wire.pack({}, [{"x": [np.array([3], object)]}], ARENA)
    with pytest.raises(BadInput, match="text is needed, and null is none"):
        wire.pack({}, [{"x": [np.array([None], object)]}], ARENA)
    with pytest.raises(BadInput, match=r"'x' is of dtype datetime64\[s\], which cannot be handed to a worker process"):
        wire.pack({}, [{"x": [np.array([0], "datetime64[s]")]}], ARENA)


def test_frames_of_any_size_are_read_from_a_socket_until_it_is_closed() -> None:
    ours, theirs = socket.socketpair()
    frames = [bytes(wire.pack({"n": n}, [{"x": [np.zeros(n, np.uint8)]}], ARENA, wire.ARENA)) for n in (0, 9, 10**6, 3)]

    answered = threading.Semaphore(1)

    def send() -> None:
        with theirs:
            for frame in frames:
                assert answered.acquire(timeout=20)  # as the protocol goes: one at a time
                for half in (frame[:5], frame[5:]):
                    theirs.sendall(half)
            assert answered.acquire(timeout=20)

    thread = threading.Thread(target=send)
    thread.start()
    receiver = wire.Receiver(ours)
    for frame in frames:
        read = receiver.read()
        assert read == frame
        assert read is not None
        assert wire.length(read) == len(frame)
        answered.release()
    assert receiver.read() is None
    thread.join()
    ours.close()
    assert wire.length(b"\0" * 3) == 0
