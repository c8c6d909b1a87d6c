"""A .pt2 archive that would run code when opened is refused by the member that would; an honest one is not."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from modelkeep.errors import BadModel, Untrusted
from modelkeep.model.formats import pt2


class Shapes(nn.Module):
    """Sizes that are computed, so that the archive holds expressions and more operators than a matrix product."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.register_buffer("table", torch.arange(8.0).reshape(4, 2).t())  # not contiguous, so it is pickled

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        both = torch.cat([self.a(x), self.a(x)], 0)
        return both[: x.shape[0] * 2 - 1].reshape(-1, 2) @ self.table


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("pt2") / "m.pt2"
    batch = torch.export.Dim("batch", min=2)
    torch.export.save(torch.export.export(Shapes().eval(), (torch.zeros(3, 4),), dynamic_shapes=({0: batch},)), file)
    return file


def rewritten(honest: Path, into: Path, change: Callable[[str, bytes], bytes], **more: bytes) -> Path:
    with zipfile.ZipFile(honest) as source, zipfile.ZipFile(into, "w") as target:
        for name in source.namelist():
            target.writestr(name, change(name, source.read(name)))
        for name, data in more.items():
            target.writestr(f"m/{name}", data)
    return into


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def saved(thing: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(thing, buffer)
    return buffer.getvalue()


@pytest.mark.filterwarnings("ignore:No complete tensor found")
def test_an_honest_archive_passes(honest: Path) -> None:
    pt2.check(honest)
    assert torch.export.load(honest).module()(torch.zeros(5, 4)).shape == (18, 4)


@pytest.mark.parametrize("name", ["MLP", "Conv", "Encoder"])
def test_so_do_networks_of_other_kinds(name: str, trained: Any, tmp_path: Path) -> None:
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(trained(name), (torch.zeros(2, 64),), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "m.pt2")
    pt2.check(tmp_path / "m.pt2")


def test_a_bomb_among_the_example_inputs(honest: Path, tmp_path: Path) -> None:
    def change(name: str, data: bytes) -> bytes:
        return saved(Bomb(tmp_path / "ran")) if "sample_inputs" in name else data

    file = rewritten(honest, tmp_path / "bad.pt2", change)
    with pytest.raises(
        Untrusted, match=r"'m/data/sample_inputs/model\.pt' of .* holds something else than tensors.*--trust"
    ):
        pt2.check(file)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(Exception):  # noqa: B017, PT011  (whatever torch makes of it; the bomb is what matters)
        torch.export.load(file)
    assert (tmp_path / "ran").exists()  # torch.export.load does run it, so the check is needed


def test_a_bomb_in_the_place_of_a_weight(honest: Path, tmp_path: Path) -> None:
    def change(name: str, data: bytes) -> bytes:
        if name.endswith("model_weights_config.json"):
            config = json.loads(data)
            next(iter(config["config"].values()))["use_pickle"] = True
            return json.dumps(config).encode()
        return saved(Bomb(tmp_path / "ran")) if name.endswith("weights/weight_0") else data

    with pytest.raises(Untrusted, match=r"'m/data/weights/weight_0'"):
        pt2.check(rewritten(honest, tmp_path / "bad.pt2", change))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["data/constants/opaque_obj_0", "data/constants/custom_obj_0", "data/other"])
def test_a_member_of_another_kind(honest: Path, tmp_path: Path, name: str) -> None:
    bomb = pickle.dumps(Bomb(tmp_path / "ran"))
    with pytest.raises(Untrusted, match="holds something else than tensors"):
        pt2.check(rewritten(honest, tmp_path / "bad.pt2", lambda _, data: data, **{name: bomb}))
    assert not (tmp_path / "ran").exists()


def replaced(key: str, value: str) -> Callable[[str, bytes], bytes]:
    """Puts ``value`` where the graph first has a text under ``key``."""

    def walk(item: Any) -> bool:
        if isinstance(item, dict):
            if isinstance(item.get(key), str):
                item[key] = value
                return True
            return any(walk(inner) for inner in item.values())
        return isinstance(item, list) and any(walk(inner) for inner in item)

    def change(name: str, data: bytes) -> bytes:
        if not name.endswith("models/model.json"):
            return data
        graph = json.loads(data)
        assert walk(graph)
        return json.dumps(graph).encode()

    return change


@pytest.mark.parametrize(
    "size",
    [
        "__import__('os').system('true')",
        "Symbol('s1').__class__",
        "lambdify(s0, s1)",
        "[].append(1)",
        "Integer(1); print(1)",
        "open('x')",
        "Symbol('s0', __class__=True).x",
        'Symbol("s\'0")',
    ],
)
def test_a_size_that_is_more_than_arithmetic(honest: Path, tmp_path: Path, size: str) -> None:
    with pytest.raises(Untrusted, match="holds the size"):
        pt2.check(rewritten(honest, tmp_path / "bad.pt2", replaced("expr_str", size)))


@pytest.mark.parametrize(
    "size",
    [
        "2*s0 - 1",
        "Max(1, s0)",
        "Add(Mul(Integer(2), Symbol('s77', positive=True, integer=True)), Integer(-1))",
        "FloorDiv(s0, 2)",
        "Float('0.5', precision=53)",
        "u0 + int_oo",
    ],
)
def test_sizes_as_torch_writes_them_pass(honest: Path, tmp_path: Path, size: str) -> None:
    pt2.check(rewritten(honest, tmp_path / "same.pt2", replaced("expr_str", size)))


@pytest.mark.parametrize(
    "operator",
    [
        "torch.os.system",
        "torch.ops.load_library",
        "torch.hub.load",
        "_operator.attrgetter",
        "_operator.call",
        "os.system",
        "#torch.x",
    ],
)
def test_an_operator_that_is_none(honest: Path, tmp_path: Path, operator: str) -> None:
    with pytest.raises(Untrusted, match=f"holds the operator '{operator}'"):
        pt2.check(rewritten(honest, tmp_path / "bad.pt2", replaced("target", operator)))


def test_two_members_of_one_name_and_what_is_no_archive(honest: Path, tmp_path: Path) -> None:
    file = rewritten(honest, tmp_path / "bad.pt2", lambda _, data: data)
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(file, "a") as archive:
        archive.writestr("m/models/model.json", b"{}")
    with pytest.raises(BadModel, match="two of its members have one name"):
        pt2.check(file)
    (tmp_path / "no.pt2").write_bytes(b"no")
    with pytest.raises(BadModel, match=r"no\.pt2 is damaged"):
        pt2.check(tmp_path / "no.pt2")
    broken = rewritten(honest, tmp_path / "json.pt2", lambda name, data: b"{" if name.endswith(".json") else data)
    with pytest.raises(BadModel, match=r"json\.pt2 is damaged"):
        pt2.check(broken)
