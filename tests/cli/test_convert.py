"""modelkeep convert, as a person types it: what is free, what it was shown on, what it is called, and every refusal."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

NET = '''
import torch
from torch import nn


class Net(nn.Module):
    """The mean of the words that count; twelve positions, three classes."""

    def __init__(self):
        super().__init__()
        self.words, self.places, self.head = nn.Embedding(50, 8), nn.Embedding(12, 8), nn.Linear(8, 3)

    def forward(self, ids, mask):
        x = self.words(ids) + self.places(torch.arange(ids.shape[1]))
        return self.head((x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))
'''
Run = Callable[..., tuple[int, str, str]]


def rows(count: int, length: int, seed: int = 0) -> dict[str, np.ndarray]:
    ids = np.random.default_rng(seed).integers(1, 50, (count, length))
    return {"ids": ids, "mask": np.ones_like(ids)}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a network's file, its weights, rows, and the same network as a .pt2 of two rows of six words."""
    folder = tmp_path_factory.mktemp("convert")
    (folder / "net_of_words.py").write_text(NET, encoding="utf-8")
    torch.manual_seed(0)
    namespace: dict[str, Any] = {}
    exec(NET, namespace)
    module = namespace["Net"]().eval()
    torch.save(module.state_dict(), folder / "net.pt")
    for name, one in {"rows": rows(40, 6), "real": rows(23, 6, 1), "short": rows(5, 4, 2)}.items():
        np.savez(folder / f"{name}.npz", **one)
    example = tuple(torch.from_numpy(array) for array in rows(2, 6).values())
    torch.export.save(torch.export.export(module, example), folder / "fixed.pt2")
    return folder


@pytest.fixture(scope="module", autouse=True)
def added(home: Path) -> None:
    """words@1 and fixed@1."""
    from modelkeep import Keep
    from modelkeep.data import dataset
    from modelkeep.settings import Settings

    with pytest.MonkeyPatch.context() as patch, Keep(Settings(home=home / ".modelkeep")) as keep:
        patch.chdir(home)
        keep.add(home / "net.pt", "words", factory="net_of_words:Net", data=dataset.read(home / "rows.npz"))
        keep.add(home / "fixed.pt2", "fixed")


def converted(run: Run, *words: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The version's signature and its last report."""
    code, out, err = run("convert", "words@1", "--to", "onnx", *words, "--json")
    assert code == 0, err + out
    version = json.loads(out)
    return version["signature"], version["reports"][-1]


def axes(signature: dict[str, Any]) -> list[list[str | None]]:
    return [t["axes"] for t in signature["inputs"]]


def test_a_person_reads_what_is_free_and_what_it_was_tried_at(run: Run) -> None:
    code, out, _ = run("convert", "words@1", "--to", "onnx")
    assert code == 0
    assert "onnx  from words@1" in out
    assert "ok  compare: the answers to 40 rows of reference rows agree" in out
    assert "free: batch, sequence (1 to 12); tried at batch 1, 2, 3, 7; sequence 1, 3, 7, 12" in out
    assert "exporter dynamo, opset " in out
    assert "differences, 40 rows" in out
    (line,) = (line for line in out.splitlines() if line.startswith("│ output "))
    cells = [cell.strip() for cell in line.strip("│").split("│")]
    assert float(cells[2]) < 1e-4
    assert cells[4:] == ["1.00000000", "100.00%"]


def test_exactly_the_dimensions_that_were_asked_for_are_free(run: Run) -> None:
    signature, report = converted(run, "--dynamic", "ids:0,1=length", "--dynamic", "mask:0,1")
    assert axes(signature) == [["batch", "length"]] * 2
    assert set(report["numbers"]["sizes"]) == {"length"}
    signature, report = converted(run, "--dynamic", "ids:0", "--dynamic", "mask:0")
    assert axes(signature) == [["batch", None]] * 2
    assert list(report["numbers"]["free"]) == ["batch"]


def test_an_example_gives_the_sizes_that_are_not_free_and_the_data_has_them_too(run: Run) -> None:
    signature, _ = converted(
        run, "--dynamic", "ids:0", "--dynamic", "mask:0", "--example", "short.npz", "--data", "short.npz"
    )
    assert [t["shape"] for t in signature["inputs"]] == [[None, 4]] * 2


def test_real_rows_are_what_is_compared(run: Run) -> None:
    _, report = converted(run, "--data", "real.npz")
    assert report["numbers"]["n"] == 23
    assert report["data"].endswith("real.npz")


def test_names_that_were_given_hold_to_the_end_of_the_way(run: Run) -> None:
    code, out, _ = run(
        "convert", "words@1", "--to", "openvino", "--rename", "ids=input_ids", "--rename", "output=logits", "--json"
    )
    version = json.loads(out)
    assert (code, version["format"]) == (0, "openvino")
    ends = (*version["signature"]["inputs"], *version["signature"]["outputs"])
    assert [t["name"] for t in ends] == ["input_ids", "mask", "logits"]
    assert "from torch to openvino: " in version["reports"][-1]["why"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--dynamic", "ids"], "'ids' does not say which dimensions are free; write INPUT:0,1 or INPUT:0,1=sequence"),
        (["--dynamic", "words:0"], "no input is called 'words'; the model takes ids, mask"),
        (["--rename", "ids"], "'ids' is no renaming; write OLD=NEW, such as output=logits"),
        (["--rename", "gone=x"], "no input or output is called 'gone', so it cannot be renamed; there are ids, mask, "),
        (["--rename", "ids=mask"], "two of the inputs and outputs would be called 'mask'"),
        (["--data", "gone.npz"], "gone.npz"),
        (["--example", "gone.npz"], "gone.npz"),
        (["--precision", "float16"], "turning torch into onnx has no option 'precision'; there are: opset, "),
        (["--opset", "99"], "there is no opset 99; the newest that is installed here is "),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(words: list[str], sentence: str, run: Run) -> None:
    code, out, err = run("convert", "words@1", "--to", "onnx", *words)
    assert (code, out) == (2, "")
    assert sentence in err
    assert "Traceback" not in err


def test_a_program_that_was_exported_with_a_size_says_how_to_free_it(run: Run) -> None:
    code, _, err = run("convert", "fixed", "--to", "onnx", "--dynamic", "ids:0,1", "--dynamic", "mask:0,1")
    assert code == 2
    assert (
        "dimension 0 of input 'ids' cannot be free: torch.export has written 2 into the .pt2 for good; export the "
        "module again, from an example of two rows or more, with "
        "dynamic_shapes={'ids': {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}, 'mask': {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}} "
        "(from torch.export import Dim), and add that file"
    ) in err
    assert "Guard" not in err


def test_the_mend_for_a_fixed_program_works(home: Path, run: Run) -> None:
    namespace: dict[str, Any] = {}
    exec(NET, namespace)
    module = namespace["Net"]().eval()
    dynamic = torch.export.Dim.DYNAMIC
    example = tuple(torch.from_numpy(array) for array in rows(2, 6).values())
    shapes = {"ids": {0: dynamic, 1: dynamic}, "mask": {0: dynamic, 1: dynamic}}
    torch.export.save(torch.export.export(module, example, dynamic_shapes=shapes), home / "free.pt2")
    assert run("add", "free", "free.pt2")[0] == 0
    code, out, err = run("convert", "free", "--to", "onnx", "--dynamic", "ids:0,1", "--dynamic", "mask:0,1", "--json")
    assert code == 0, err + out
    assert axes(json.loads(out)["signature"]) == [["batch", "sequence"]] * 2


def test_a_difference_beyond_the_tolerance_is_told_once_and_nothing_is_stored(run: Run) -> None:
    before = len(json.loads(run("list", "words", "--json")[1])["words"]["versions"])
    code, out, err = run("convert", "words@1", "--to", "onnx", "--atol", "0", "--rtol", "0")
    assert (code, out) == (1, "")
    assert err.count("output 'output' at") == 1
    assert err.count("differs in") == 1
    assert "exporters dynamo, dynamo-any-batch, " in err
    one, other = re.findall(r"\((\S+) instead of (\S+);", err)[0]
    assert one != other
    assert len(err) < 900
    assert len(json.loads(run("list", "words", "--json")[1])["words"]["versions"]) == before


@pytest.mark.parametrize(
    ("source", "words", "told"),
    [
        ("net.pt", ("--factory", "net_of_words:Net", "--data", "rows.npz"), True),
        ("fixed.pt2", (), False),
    ],
)
def test_add_says_which_sizes_convert_may_free(source: str, words: tuple[str, ...], told: bool, run: Run) -> None:
    code, out, _ = run("add", "told", source, *words)
    assert code == 0
    said = re.search(r"sizes of ids, mask are those of --data: modelkeep (convert told@\d+ --to onnx) finds", out)
    assert bool(said) is told
