"""The table of conversions, the ways over it, and what is said where there is none."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest

from modelkeep import convert, extras
from modelkeep.convert import Route
from modelkeep.errors import MissingExtra, Unsupported

THIS = sys.modules[__name__]


@dataclasses.dataclass(frozen=True)
class Melt:
    """A step with an option of its own and one that the next has too."""

    heat: int = 0
    atol: float = 1.0
    rows: Any = dataclasses.field(default=None, repr=False, compare=False)

    def run(self, model: Any, into: Path) -> Any:
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Pour(Melt):
    mould: str = "none"


@pytest.fixture
def smithy(monkeypatch: pytest.MonkeyPatch) -> None:
    """ore → iron → sword, a longer way by steel, and a cycle."""
    monkeypatch.setitem(sys.modules, "smithy", THIS)
    melt, pour = Route("smithy:Melt", "torch", ()), Route("smithy:Pour", "torch", ())
    ways = {("ore", "steel"): melt, ("steel", "iron"): melt, ("ore", "iron"): melt, ("iron", "ore"): melt}
    monkeypatch.setattr(convert, "ROUTES", {**ways, ("iron", "sword"): pour, ("gold", "ring"): pour})


def test_a_step_takes_its_options() -> None:
    step = convert.step("torch", "onnx", atol=0.5)
    assert repr(step).startswith("TorchToOnnx(opset=None, atol=0.5, ")  # what provenance reads back
    assert dataclasses.is_dataclass(step)


@pytest.mark.parametrize("route", sorted({route.target for route in convert.ROUTES.values()}))
def test_every_step_renames_and_tells_where_it_is(route: str) -> None:
    assert {"rename", "progress"} <= {f.name for f in dataclasses.fields(extras.load(route))}


@pytest.mark.usefixtures("smithy")
class TestWays:
    def test_the_shortest_way_is_taken(self) -> None:
        assert convert.path("ore", "sword") == [("ore", "iron"), ("iron", "sword")]
        assert convert.path("steel", "sword") == [("steel", "iron"), ("iron", "sword")]
        assert convert.path("iron", "steel") == [("iron", "ore"), ("ore", "steel")]

    def test_an_option_reaches_the_steps_that_have_it(self) -> None:
        melt, pour = convert.steps("ore", "sword", heat=9, mould="long", atol=0.5, rows="rows")
        assert repr(melt) == "Melt(heat=9, atol=0.5)"
        assert repr(pour) == "Pour(heat=9, atol=0.5, mould='long')"
        assert (melt.rows, pour.rows) == ("rows", "rows")  # type: ignore[attr-defined]

    def test_an_option_that_no_step_has_is_refused_with_those_there_are(self) -> None:
        told = "turning ore into sword has no option 'speed'; there are: heat, atol, mould"
        with pytest.raises(Unsupported, match=told):
            convert.steps("ore", "sword", speed=9)

    @pytest.mark.parametrize(
        ("source", "target", "said"),
        [
            ("iron", "iron", "the model is iron already, so there is nothing to convert"),
            ("ore", "ring", "no conversion leads from ore to ring; from ore these can be reached: steel, iron, sword"),
            ("mud", "ring", "no conversion leads from mud to ring; nothing converts mud"),
        ],
    )
    def test_a_way_that_does_not_exist(self, source: str, target: str, said: str) -> None:
        with pytest.raises(Unsupported) as error:
            convert.steps(source, target)
        assert str(error.value) == said

    def test_a_single_step_is_what_step_gives(self) -> None:
        assert repr(convert.step("ore", "steel", heat=1)) == "Melt(heat=1, atol=1.0)"
        with pytest.raises(Unsupported, match="turning ore into sword takes 2 steps"):
            convert.step("ore", "sword")


def test_without_pytorch_the_command_that_installs_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "has", lambda name: name != "torch")
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it now fails
    with pytest.raises(MissingExtra, match=r"this needs torch .* pip install 'modelkeep\[torch\]'"):
        convert.step("torch", "onnx")
