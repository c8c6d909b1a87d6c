"""Optional libraries and things named by a string: every failure has its sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from modelkeep import extras
from modelkeep.errors import BadModel, MissingExtra


def test_onnxruntime_reports_nothing_to_its_maker_and_marks_no_machine(tmp_path: Path) -> None:
    """1.32 sends events to Microsoft, under an id that it keeps in the home folder, unless told not to."""
    run = (
        "import modelkeep, onnxruntime as o; from onnx import helper as h, TensorProto as t; "
        "x, y = (h.make_tensor_value_info(n, t.FLOAT, [1]) for n in 'xy'); "
        "m = h.make_model(h.make_graph([h.make_node('Neg', ['x'], ['y'])], 'g', [x], [y]), ir_version=8, "
        "opset_imports=[h.make_opsetid('', 17)]); o.InferenceSession(m.SerializeToString())"
    )
    clean = {key: value for key, value in os.environ.items() if key not in ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")}
    subprocess.run([sys.executable, "-c", run], env=clean | {"HOME": str(tmp_path)}, check=True)
    assert list(tmp_path.rglob("*deviceid*")) == []


def test_need_gives_the_module() -> None:
    assert extras.need("json", extra="torch") is sys.modules["json"]


def test_need_names_the_extra_that_is_missing() -> None:
    sentence = r"this needs absent_library \(.*\); install it with: pip install 'modelkeep\[openvino\]'"
    with pytest.raises(MissingExtra, match=sentence):
        extras.need("absent_library.part", extra="openvino")


def test_what_reports_home_when_it_is_imported_is_kept_from_it(tmp_path: Path) -> None:
    """importing openvino writes ~/intel and sends an event; only a process of its own shows what it does."""
    pytest.importorskip("openvino_telemetry")
    code = (
        "import sys; from modelkeep import extras; extras.need('openvino', extra='openvino'); "
        "assert sys.modules['openvino_telemetry'] is None; import openvino; openvino.Core()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "HOME": str(tmp_path)}, timeout=120)
    assert list(tmp_path.iterdir()) == []


def test_has_does_not_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    assert extras.has("colorsys")
    assert "colorsys" not in sys.modules
    assert not extras.has("absent_library")
    assert not extras.has("absent_library.part")


def test_load_finds_a_name_and_a_name_inside_it() -> None:
    assert extras.load("json:dumps") is sys.modules["json"].dumps
    assert extras.load("pathlib:Path.exists") is Path.exists


@pytest.mark.parametrize("text", ["", "json", ":dumps", "json:", ":"])
def test_text_of_another_form(text: str) -> None:
    with pytest.raises(BadModel, match=f"'{text}' is not of the form module:Name"):
        extras.load(text)


def test_a_module_that_is_not_there() -> None:
    with pytest.raises(BadModel, match="module 'absent_library' of 'absent_library:Net' cannot be imported"):
        extras.load("absent_library:Net")


def test_a_library_that_a_module_of_ours_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "modelkeep.convert.torch_to_onnx", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it fails
    with pytest.raises(MissingExtra, match="this needs torch, which is not installed; modelkeep doctor names"):
        extras.load("modelkeep.convert.torch_to_onnx:TorchToOnnx")
    with pytest.raises(BadModel, match=r"modelkeep\.update\.absent.* cannot be imported"):
        extras.load("modelkeep.update.absent:Step")


@pytest.mark.parametrize("name", ["absent", "dumps.absent"])
def test_a_name_that_the_module_lacks(name: str) -> None:
    with pytest.raises(BadModel, match=f"module 'json' has no '{name}'"):
        extras.load(f"json:{name}")


def test_a_file_beside_wins_over_sys_path(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("dumps = 'mine'\n")
    assert extras.load("json:dumps", beside=tmp_path) == "mine"
    assert extras.load("json:dumps") is sys.modules["json"].dumps
    assert extras.load("textwrap:dedent", beside=tmp_path) is extras.load("textwrap:dedent")


def test_two_versions_keep_different_files_under_one_name(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "net.py").write_text(f"class Net:\n    made = {name!r}\n")
    one = extras.load("net:Net", beside=tmp_path / "one")
    assert (one.made, extras.load("net:Net", beside=tmp_path / "two").made) == ("one", "two")
    assert extras.load("net:Net", beside=tmp_path / "one") is one  # read once
    assert sys.modules[one.__module__].Net is one  # so that it can be pickled


@pytest.mark.parametrize("text", ["raise RuntimeError('no licence')", "def (", "import absent_library"])
def test_a_file_that_fails_is_named_and_can_be_mended(tmp_path: Path, text: str) -> None:
    (tmp_path / "broken.py").write_text(text)
    with pytest.raises(BadModel, match="module 'broken' of 'broken:Net' cannot be imported"):
        extras.load("broken:Net", beside=tmp_path)
    (tmp_path / "broken.py").write_text("Net = 3  # mended, and of another length\n")
    assert extras.load("broken:Net", beside=tmp_path) == 3
