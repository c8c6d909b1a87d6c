"""Which engine runs what, and what is said where none does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from modelkeep import extras
from modelkeep.errors import MissingExtra, Unsupported
from modelkeep.model import engines
from modelkeep.types import Model, ServeConfig, Signature


def model(kind: str) -> Model:
    return Model(Path("nowhere"), kind, Signature((), ()), ("model",))


def test_each_format_has_a_default_engine() -> None:
    assert engines.default_config("onnx").engine == "onnxruntime"
    assert engines.default_config("torch").engine == engines.default_config("torch-export").engine == "torch"
    assert engines.engines_for("onnx") == ["onnxruntime", "openvino"]
    assert engines.engines_for("torch") == ["torch", "torch-compile"]
    assert engines.engines_for("riddle") == []


def test_a_format_that_nothing_runs() -> None:
    with pytest.raises(
        Unsupported, match=r"no engine runs models of format 'riddle'; there are engines for: .*onnx, .*torch"
    ):
        engines.load(model("riddle"))


def test_an_engine_that_does_not_exist_and_one_that_cannot() -> None:
    with pytest.raises(Unsupported, match=r"there is no engine 'steam'; there are: onnxruntime, torch, .*openvino"):
        engines.load(model("onnx"), ServeConfig(engine="steam"))
    with pytest.raises(Unsupported, match="engine 'torch' does not run models of format 'onnx'; these do: onnxruntime"):
        engines.load(model("onnx"), ServeConfig(engine="torch"))


def test_an_engine_gets_no_more_threads_than_a_quota_has_cores(container: Callable[[int, str], None]) -> None:
    container(64, "400000 100000")
    within = engines.within_quota
    assert within(ServeConfig()).threads == 4
    assert within(ServeConfig(workers=2, in_process=True)).threads == 2
    assert within(ServeConfig(workers=9, in_process=True)).threads == 1
    assert within(ServeConfig(threads=9)).threads == 9
    assert within(ServeConfig(engine="sklearn")).threads is None  # an estimator says itself how many


@pytest.mark.parametrize("quota", ["max 100000", "800000 100000", "900000 100000"])
def test_an_engine_is_left_alone_where_no_quota_is_smaller(container: Callable[[int, str], None], quota: str) -> None:
    container(8, quota)
    assert engines.within_quota(ServeConfig()) == ServeConfig()


def test_a_library_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(f"No module named '{name}'")

    monkeypatch.setattr(extras.importlib, "import_module", missing)
    with pytest.raises(MissingExtra, match=r"this needs openvino .* pip install 'modelkeep\[openvino\]'"):
        engines.load(model("onnx"), ServeConfig(engine="openvino"))
