"""What ended its worker twice is refused for a while."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from modelkeep.serve.plane.suspects import MOST, REMEMBERED, Suspects


def x(value: Any, dtype: Any = np.float32) -> dict[str, Any]:
    return {"x": np.array([[value]], dtype)}


@pytest.mark.parametrize(("value", "dtype"), [(1, np.float32), ("a", object), (b"a", object)])
def test_the_same_inputs_are_known_for_a_while_and_others_are_not(value: Any, dtype: Any) -> None:
    suspects = Suspects()
    assert not suspects
    assert suspects.known(x(value, dtype), 0.0) == ""
    suspects.convict(x(value, dtype), "it was ended by SIGSEGV", 0.0)
    assert suspects
    assert suspects.known(x(value, dtype), 1.0).startswith("it was ended by SIGSEGV (so it was each time")
    others = [x(2), x(1, np.int32), {"y": x(1)["x"]}, {"x": np.ones((1, 1, 1), np.float32)}, x("b", object)]
    assert [suspects.known(other, 1.0) for other in others] == [""] * len(others)
    assert suspects.known(x(value, dtype), REMEMBERED) == ""
    assert not suspects


def test_it_remembers_so_many_at_most() -> None:
    suspects = Suspects()
    for value in range(MOST + 1):
        suspects.convict(x(value), "why", 0.0)
    assert suspects.known(x(0), 0.0) == ""
    assert suspects.known(x(1), 0.0)
    assert suspects.known(x(MOST), 0.0)
