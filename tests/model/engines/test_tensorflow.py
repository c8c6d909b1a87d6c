"""One process for all models: shared, replaced when it dies, ended when nobody needs it."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest

from modelkeep.errors import NotReady, Unsupported
from modelkeep.model import engines, formats
from modelkeep.model.engines import tensorflow
from modelkeep.types import Model, ServeConfig

ROWS = {"x": np.ones((2, 6), np.float32)}


@pytest.fixture
def model(tensorflow_files: Path, tmp_path: Path) -> Model:
    return formats.adopt(tensorflow_files / "saved", tmp_path / "into")


def pid() -> int:
    found = tensorflow.SHARED.take().pid
    tensorflow.SHARED.give_back()
    assert found is not None
    return found


def test_what_it_cannot_do_is_refused(model: Model) -> None:
    with pytest.raises(Unsupported, match="engine 'tensorflow' runs a model in its own precision"):
        engines.load(model, ServeConfig(engine="tensorflow", precision="bfloat16"))
    with pytest.raises(Unsupported, match="engine 'tensorflow' as installed here cannot run on device 'cuda'"):
        engines.load(model, ServeConfig(engine="tensorflow", device="cuda"))


def test_two_models_share_a_process_and_answer_for_themselves(
    model: Model, tensorflow_files: Path, tmp_path: Path
) -> None:
    other = formats.adopt(tensorflow_files / "attention.keras", tmp_path / "other")
    with contextlib.closing(engines.load(model)) as a, contextlib.closing(engines.load(other)) as b:
        first = pid()
        want = a.run(ROWS)["output"]
        assert b.run({"words": np.ones((2, 3, 16), np.float32)})["scores"].shape == (2, 3)
        assert np.array_equal(a.run(ROWS)["output"], want)
        assert pid() == first
    with contextlib.closing(engines.load(model)) as again:
        assert np.array_equal(again.run(ROWS)["output"], want)
        assert pid() == first  # kept for the next


def test_a_process_that_dies_is_told_once_and_replaced(model: Model) -> None:
    with contextlib.closing(engines.load(model)) as runner:
        want = runner.run(ROWS)["output"]
        os.kill(pid(), signal.SIGKILL)
        with pytest.raises(NotReady, match="was ended by SIGKILL"):
            runner.run(ROWS)
        assert np.array_equal(runner.run(ROWS)["output"], want)


def test_it_ends_when_nobody_needs_it(tensorflow_python: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    shared = tensorflow.Shared(idle_seconds=0.01)
    process = shared.take()
    shared.take()
    monkeypatch.setattr(process, "close", ended.set)
    shared.give_back()
    assert not ended.wait(0.1)
    shared.give_back()
    assert ended.wait(30)
    assert shared.take() is not process
    shared.give_back()
