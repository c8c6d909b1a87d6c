"""The suite holds every row that was promised, each under a name of its own."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections import Counter

import pytest

from zoo import catalogue
from zoo.matrix import TARGETS
from zoo.outcome import ROOT

PROMISED = (
    *("mlp", "alexnet", "googlenet", "inception-v3", "resnet-18", "resnet-50", "densenet-121", "efficientnet-b0"),
    *("mobilenet-v3", "nasnet", "pnasnet", "single-path-nas", "mnasnet", "vit", "transformer", "bert", "gpt2"),
    *("gpt2-cache", "llama", "llama-cache", "qwen", "qwen-cache", "clip", "unet", "vae-decoder", "bilstm"),
    *("keras-mlp", "keras-cnn", "keras-lstm", "keras-attention", "keras-resnet50", "keras-mobilenetv3"),
    *("random-forest", "gradient-boosting", "pipeline"),
)


def test_every_promised_row_is_there_and_goes_to_onnx_and_openvino() -> None:
    there = {row.name: row for row in catalogue.rows()}
    assert set(PROMISED) <= set(there)
    for row in there.values():
        assert set(row.targets) <= set(TARGETS)
        assert {"onnx", "openvino"} <= set(row.targets), row.name


def test_what_pytorch_promises_comes_back_and_reaches_tensorflow() -> None:
    there = {row.name: row.targets for row in catalogue.rows()}
    assert [name for name in ("mlp", "resnet-18", "bert-small") if "tensorflow" not in there[name]] == []
    convolutions = [n for n in PROMISED[1:13] if "torch" not in there[n]]
    assert convolutions == []
    assert "torch" in there["bert"]


def test_names_are_unique_and_rooms_are_right() -> None:
    rows = catalogue.rows()
    assert [name for name, count in Counter(row.name for row in rows).items() if count > 1] == []
    for room in catalogue.ROOMS:
        assert {row.room for row in importlib.import_module(f"zoo.{room}").ROWS} == {room}


@pytest.mark.parametrize("row", catalogue.rows(), ids=lambda row: row.name)
def test_what_writes_a_row_takes_its_arguments(row: catalogue.Row) -> None:
    module, _, function = row.write.partition(":")
    source = (ROOT / module.replace(".", "/")).with_suffix(".py").read_text(encoding="utf-8")
    assert f"\ndef {function}(" in source
    assert row.about


def test_rows_are_chosen_by_name_room_and_size() -> None:
    assert [row.name for row in catalogue.chosen(["bert", "mlp"])] == ["mlp", "bert"]
    assert {row.room for row in catalogue.chosen(rooms=["trees"])} == {"trees"}
    assert len(catalogue.chosen(["mlp"], ["trees"])) == 1 + len(catalogue.chosen(rooms=["trees"]))
    small = catalogue.chosen(small=True)
    assert small
    assert all(row.small for row in small)
    assert catalogue.chosen() == catalogue.rows()


@pytest.mark.parametrize(("names", "rooms", "unknown"), [(["resnet"], (), "resnet"), ((), ["attic"], "attic")])
def test_what_is_not_there_is_named_beside_what_is(names: list[str], rooms: list[str], unknown: str) -> None:
    with pytest.raises(KeyError, match=rf"there is no {unknown}; there are: \w+"):
        catalogue.chosen(names, rooms)


def test_listing_the_rows_loads_no_framework() -> None:
    check = "import sys; from zoo import catalogue; catalogue.rows(); print([m for m in ('torch', 'keras', 'timm', "
    check += "'transformers', 'sklearn', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
