"""Models that are no models: runners whose every run the test sees, holds up, or makes fail."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import trustme

from modelkeep.model import engines, folder
from modelkeep.types import Model, Signature, TensorSpec

POISON = 666.0


def signature(dtype: str = "float32", shape: tuple[int | None, ...] = (None, None)) -> Signature:
    return Signature((TensorSpec("x", dtype, shape),), (TensorSpec("y", dtype, shape),))


class Fake:
    """y = x + add. Fails on POISON; waits for ``gate`` where there is one; ``runs`` are the inputs it was given."""

    def __init__(self, *, add: float = 0.0, gate: bool = False, of: Signature | None = None) -> None:
        self.signature = of or signature()
        self.add = add
        self.runs: list[np.ndarray[Any, Any]] = []
        self.entered = threading.Semaphore(0)
        self.gate = threading.Event()
        if not gate:
            self.gate.set()
        self.closed = 0

    def run(self, inputs: Any) -> dict[str, Any]:
        x = inputs["x"]
        self.runs.append(x)
        self.entered.release()
        assert self.gate.wait(20), "the test never opened the gate"
        if x.dtype.kind == "f" and (x == POISON).any():
            raise ValueError("poison in the batch\nsecond line")
        return {"y": x + self.add if self.add else x.copy()}

    def close(self) -> None:
        self.closed += 1


class Odd(Fake):
    """Gives whatever ``answer`` makes of the input."""

    def __init__(self, answer: Callable[[Any], dict[str, Any]], **options: Any) -> None:
        super().__init__(**options)
        self.answer = answer

    def run(self, inputs: Any) -> dict[str, Any]:
        super().run(inputs)
        return self.answer(inputs["x"])


@pytest.fixture
def fakes() -> SimpleNamespace:
    return SimpleNamespace(Fake=Fake, Odd=Odd, POISON=POISON, signature=signature)


def row(*values: float) -> np.ndarray[Any, Any]:
    return np.array([values], dtype=np.float32)


@pytest.fixture(name="row")
def _row() -> Callable[..., np.ndarray[Any, Any]]:
    return row


@pytest.fixture
def tricky(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Model]:
    """Makes models for the engine in tricky.py, which worker processes find by its name. ``options``: see there."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    monkeypatch.setitem(engines.ENGINES, "tricky", engines.Engine("tricky:load", ("tricky",), "numpy"))

    def make(of: Signature | None = None, **options: Any) -> Model:
        path = tmp_path / f"tricky-{len(list(tmp_path.iterdir()))}"
        path.mkdir()
        (path / "weights").write_bytes(b"1")
        made = Model(path, "tricky", of or signature(shape=(None, 1)), ("weights",), options=options)
        return folder.write(made)

    return make


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """Who signs certificates here."""
    return trustme.CA()


@pytest.fixture
def pem(authority: trustme.CA, tmp_path: Path) -> tuple[str, str]:
    """The files of a certificate and its key."""
    made = authority.issue_cert("127.0.0.1")
    made.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    made.private_key_pem.write_to_path(tmp_path / "key.pem")
    return str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
