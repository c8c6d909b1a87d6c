"""What a file is, by its content; each thing that is no model has a sentence of its own."""

from __future__ import annotations

import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from modelkeep.errors import BadModel, ModelkeepError, NotFound, Unsupported, Untrusted
from modelkeep.model.detect import detect


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


def onnx_file(path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [value("x", TensorProto.FLOAT, [None, 2])],
        [value("y", TensorProto.FLOAT, [None, 2])],
    )
    onnx.save(helper.make_model(graph), path)


def exported(net: nn.Module, path: Path) -> None:
    torch.export.save(torch.export.export(net, (torch.zeros(2, 4),)), path)


class TestKnown:
    # named .bin, for it is the content that says what a file is
    def test_onnx(self, tmp_path: Path) -> None:
        onnx_file(tmp_path / "m.bin")
        assert detect(tmp_path / "m.bin") == "onnx"

    def test_a_state_dict_in_its_three_forms(self, tmp_path: Path, net: nn.Module) -> None:
        from safetensors.torch import save_model

        torch.save(net.state_dict(), tmp_path / "zip.bin")
        torch.save(net.state_dict(), tmp_path / "old.bin", _use_new_zipfile_serialization=False)
        save_model(net, str(tmp_path / "safe.bin"))
        assert [detect(tmp_path / f"{name}.bin", factory="m:N") for name in ("zip", "old", "safe")] == ["torch"] * 3

    def test_an_exported_program(self, tmp_path: Path, net: nn.Module) -> None:
        exported(net, tmp_path / "m.pt2")
        shutil.move(tmp_path / "m.pt2", tmp_path / "m.bin")
        assert detect(tmp_path / "m.bin") == "torch-export"

    @pytest.mark.parametrize("prolog", ['<?xml version="1.0"?>\n', '<?xml version="1.0" encoding="UTF-8"?>', ""])
    def test_openvinos_graph(self, tmp_path: Path, prolog: str) -> None:
        (tmp_path / "m.any").write_text(f'{prolog}<net name="a graph" version="11">\n</net>')
        assert detect(tmp_path / "m.any") == "openvino"

    def test_tensorflows_three(self, tmp_path: Path) -> None:
        (tmp_path / "saved_model.pb").write_bytes(b"x")
        (tmp_path / "old.bin").write_bytes(b"\x89HDF\r\n\x1a\n")
        (tmp_path / "lite.bin").write_bytes(b"\x1c\0\0\0TFL3")
        with zipfile.ZipFile(tmp_path / "new.bin", "w") as archive:
            archive.writestr("model.weights.h5", b"x")
        found = [detect(tmp_path), detect(tmp_path / "saved_model.pb")]
        found += [detect(tmp_path / f"{name}.bin") for name in ("new", "old", "lite")]
        assert found == ["tensorflow", "tensorflow", "keras", "keras", "litert"]

    def test_a_whole_module_only_when_trusted(self, tmp_path: Path, net: nn.Module) -> None:
        torch.save(net, tmp_path / "m.pt")
        with pytest.raises(
            Untrusted, match=r"holds a whole pickled module.*save its state_dict\(\) instead, or.*--trust"
        ):
            detect(tmp_path / "m.pt")
        assert detect(tmp_path / "m.pt", trust=True) == "torch"


class TestRefused:
    @pytest.mark.parametrize(
        ("name", "content", "kind", "said"),
        [
            ("m.onnx", b"", BadModel, "is empty; it should be an ONNX file"),
            ("m.onnx", b"not onnx at all", BadModel, "is not an ONNX model: it is damaged, or something else"),
            ("m.txt", b"hello\nworld\n", BadModel, "is a text file; it should be"),
            ("m.py", "print('grün')\n".encode(), BadModel, "is a text file; it should be"),
            ("m.bin", bytes(range(255, 0, -1)), BadModel, "is not a model file that modelkeep knows; it should be"),
            ("m.pkl", pickle.dumps({"a": 1}), Untrusted, "is a pickle, which can run any code"),
            (
                "m.gguf",
                b"GGUF\3\0\0\0",
                Unsupported,
                "is a GGUF file, which llama.cpp runs; add the Hugging Face folder",
            ),
            ("m.cbm", b"CBM1....", Unsupported, "is a CatBoost file; write it as ONNX with model.save_model"),
            ("m.bin", b"binf\0\0", Unsupported, "is an XGBoost file of the old binary form; save it again with"),
            ("m.msgpack", b"\x82\xa6params", Unsupported, "is a Flax file; save the model with transformers'"),
            ("m.mlmodel", b"\x08\x07\x12\x10", Unsupported, "is a Core ML file; add the model that it was made from"),
            (
                "m.joblib",
                b"\x78\x9c joblib compresses",
                Untrusted,
                "save a scikit-learn model with skops.io.dump",
            ),
            ("m.pt", b"PK\x03\x04 torn", BadModel, "breaks off before its end"),
            ("m.safetensors", b'\x99\x99\0\0\0\0\0\0{"a": ', BadModel, "breaks off before its end"),
        ],
    )
    def test_each_has_its_sentence(
        self, tmp_path: Path, name: str, content: bytes, kind: type[ModelkeepError], said: str
    ) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(kind) as error:
            detect(tmp_path / name)
        assert said in str(error.value)
        assert name in str(error.value)
        assert "\n" not in str(error.value)

    def test_a_missing_file_and_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(NotFound, match=r"there is no file .*gone\.onnx"):
            detect(tmp_path / "gone.onnx")
        with pytest.raises(BadModel, match=r"is a folder, and neither .*name the model's file inside"):
            detect(tmp_path)

    def test_the_weights_of_openvino_alone(self, tmp_path: Path) -> None:
        (tmp_path / "m.bin").write_bytes(bytes(range(255, 0, -1)))
        (tmp_path / "m.xml").write_text("<net/>")
        with pytest.raises(BadModel, match=r"m\.bin holds the weights of .*m\.xml; add that"):
            detect(tmp_path / "m.bin")
        with pytest.raises(BadModel, match="is a text file"):
            detect(tmp_path / "m.xml")

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_torchscript(self, tmp_path: Path, net: nn.Module) -> None:
        torch.jit.trace(net, torch.zeros(1, 4)).save(str(tmp_path / "m.pt"))
        assert detect(tmp_path / "m.pt") == "torchscript"
        with pytest.raises(BadModel, match="is of format torchscript, which holds its own code; leave --factory out"):
            detect(tmp_path / "m.pt", factory="m:N")

    @pytest.mark.parametrize(
        ("member", "said"),
        [
            ("pixels.npy", "holds arrays, not a model; give rows with --data"),
            ("letter.txt", "is a zip archive of something else"),
        ],
    )
    def test_other_archives(self, tmp_path: Path, member: str, said: str) -> None:
        with zipfile.ZipFile(tmp_path / "m.zip", "w") as archive:
            archive.writestr(member, b"x")
        with pytest.raises((BadModel, Unsupported)) as error:
            detect(tmp_path / "m.zip")
        assert said in str(error.value)

    def test_a_factory_for_a_file_that_has_its_own_code(self, tmp_path: Path) -> None:
        onnx_file(tmp_path / "m.onnx")
        with pytest.raises(BadModel, match="is of format onnx, which holds its own code; leave --factory out"):
            detect(tmp_path / "m.onnx", factory="m:N")

    def test_a_cut_onnx_file(self, tmp_path: Path) -> None:
        onnx_file(tmp_path / "m.onnx")
        whole = (tmp_path / "m.onnx").read_bytes()
        (tmp_path / "m.onnx").write_bytes(whole[:-7])
        with pytest.raises(BadModel, match="it is damaged"):
            detect(tmp_path / "m.onnx")


def test_random_bytes_are_never_taken_for_a_model(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        (tmp_path / "m.bin").write_bytes(rng.bytes(int(rng.integers(1, 400))))
        with pytest.raises((BadModel, Unsupported)):
            detect(tmp_path / "m.bin")


class _Bomb:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_looking_at_a_pickle_does_not_run_it(tmp_path: Path) -> None:
    torch.save({"weights": _Bomb(tmp_path / "ran")}, tmp_path / "m.pt")
    with pytest.raises(Untrusted):
        detect(tmp_path / "m.pt", factory="m:N")
    assert not (tmp_path / "ran").exists()
    torch.load(tmp_path / "m.pt", weights_only=False)
    assert (tmp_path / "ran").exists()  # the bomb is a real one
