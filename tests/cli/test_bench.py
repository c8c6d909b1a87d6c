"""modelkeep bench, as a person sees it: a table, sentences, files, and an exit code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelkeep import Keep
from modelkeep.cli import main
from modelkeep.errors import Damaged, ModelkeepError
from modelkeep.registry import Registry
from modelkeep.settings import Settings
from modelkeep.tune import machine
from modelkeep.tune.benchmark import Benchmark
from modelkeep.types import Report, ServeConfig

Call = Callable[..., tuple[int, str, str]]
QUICK = ("--duration", "0.2s", "--budget", "5s", "--p99", "500ms")


@pytest.fixture
def keep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A registry in the working folder with one small ONNX model, whose rows have answers of their own."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    monkeypatch.chdir(tmp_path)
    weights = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "m",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 3])],
        [numpy_helper.from_array(weights, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "m.onnx")
    with Keep(Settings(home=tmp_path / ".modelkeep")) as opened:
        opened.add(tmp_path / "m.onnx", "m")
        yield opened


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["modelkeep", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def test_a_table_sentences_and_files(keep: Keep, call: Call, tmp_path: Path) -> None:
    code, out, err = call("bench", "m", "--scenario", "single", "--max-batch", "4", *QUICK)
    assert (code, err) == (0, "")
    assert "m@1: onnxruntime" in out
    assert "max batch 4" in out
    assert "on disk" in out
    assert "answers under load are the answers alone" in out
    files = sorted((tmp_path / ".modelkeep" / "reports" / "m@1").iterdir())
    assert [f.suffix for f in files] == [".html", ".json", ".png"]
    assert str(files[2].relative_to(tmp_path)) in out
    code, out, _ = call("show", "m")
    assert code == 0
    assert "bench: single p99" in out  # the report is kept with the version
    assert keep.registry.journal("m", kind="report")


def test_a_folder_that_cannot_be_is_refused_before_it_is_measured_for(keep: Keep, call: Call, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("taken")
    code, _, err = call("bench", "m", "--into", str(tmp_path / "file"), "--duration", "1h")
    assert code == 2
    assert "reports cannot go into" in err


def test_json_for_a_machine_and_the_tuned_setting(keep: Keep, call: Call, tmp_path: Path) -> None:
    tuned = ServeConfig(engine="onnxruntime", threads=1, max_batch=16)
    keep.registry.set_config(keep.get("m"), machine.fingerprint("onnx"), tuned, Report("tune", True, "by hand"))
    code, out, _ = call("bench", "m", "--scenario", "offline", "--into", str(tmp_path / "here"), "--json", *QUICK)
    assert code == 0
    told = json.loads(out)
    assert told["numbers"]["config"]["max_batch"] == 16
    assert told["numbers"]["scenarios"]["offline"]["rows_per_second"]["median"] > 0
    assert [Path(f).parent for f in told["files"]] == [tmp_path / "here"] * 3


def test_no_rate_keeps_the_promise_is_a_no(keep: Keep, call: Call) -> None:
    code, out, _ = call("bench", "m", "--scenario", "server", "--duration", "0.2s", "--p99", "0.000001s")
    assert code == 1
    assert "no rate keeps it" in out
    assert "e+0" not in out
    assert "while it was measured" not in out, "nothing was"


def test_two_versions(keep: Keep, call: Call) -> None:
    keep.add(Path("m.onnx"), "m")
    code, out, _ = call(
        "bench", "m@2", "--scenario", "single", "--vs", "m@1", "--rounds", "2", *QUICK, "--budget", "60s"
    )
    assert code == 0
    assert "m@2 / m@1" in out
    assert "interval not claimed: 2 rounds, 6 needed" in out
    assert "their answers agree" in out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["bench", "gone"], "no model is called 'gone'"),
        (["bench", "m", "--vs", "m@9"], "m@9"),
        (["bench", "m", "--scenario", "multi"], "'multi' is not one of"),
        (["bench", "m", "--engine", "abacus"], "there is no engine 'abacus'"),
        (["bench", "m", "--engine", "torch"], "does not run models of format 'onnx'"),
        (["bench", "m", "--data", "gone.npz"], "gone.npz"),
        (["bench", "m", "--max-batch", "0"], "0 is not in the range"),
    ],
)
def test_wrong_use_is_one_sentence(keep: Keep, call: Call, words: list[str], sentence: str) -> None:
    code, out, err = call(*words, *QUICK)
    assert (code, out) == (2, "")
    assert sentence in err
    assert "Traceback" not in err


def test_a_model_that_cannot_answer_stores_nothing(keep: Keep, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(*_: Any, **__: Any) -> Report:
        raise ModelkeepError("it answered none")

    monkeypatch.setattr(Benchmark, "run", broken)
    with pytest.raises(ModelkeepError):
        keep.bench("m", Benchmark())
    assert not (tmp_path / ".modelkeep" / "reports").exists()
    assert not keep.registry.journal("m", kind="report")


def test_the_report_outlives_a_full_disk(keep: Keep, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from modelkeep.tune import plots

    def full(*_: Any) -> list[Path]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(plots, "save", full)
    numbers = {"scenarios": {}, "sentences": ["fine"]}
    monkeypatch.setattr(Benchmark, "run", lambda *_, **__: Report("bench", True, "fine", numbers))
    report, files = keep.bench("m", Benchmark())
    assert files == []
    assert report.numbers["sentences"] == ["fine", "there is no file of this: [Errno 28] No space left on device"]
    with pytest.raises(OSError, match="No space left"):
        keep.bench("m", Benchmark(), folder=tmp_path / "asked")
    with Registry.open(Settings(home=keep.settings.home)) as again:
        assert [r.why for r in again.reports(again.get("m"))] == ["fine", "fine"]


def test_what_was_measured_is_told_where_it_cannot_be_kept(
    keep: Keep, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise Damaged("the registry can only be read here")

    monkeypatch.setattr(Registry, "add_report", refuse)
    code, out, err = call("bench", "m", "--scenario", "single", *QUICK)
    assert (code, err) == (0, "")
    assert "answers under load are the answers alone" in out
    assert "\nthis is not kept with m@1: the registry can only be read here\n" in out
    assert "bench-" in out
