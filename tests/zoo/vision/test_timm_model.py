"""timm's models are built where torchvision is not installed, and nothing of the stand-in stays."""

from __future__ import annotations

import importlib.util
import sys

import pytest

from zoo.vision import timm_model

here = pytest.mark.skipif(importlib.util.find_spec("torchvision") is not None, reason="torchvision is installed")


@here
def test_what_timm_imports_is_there_inside_and_gone_outside() -> None:
    with timm_model.torchvision_stand_in():
        from torchvision.ops.misc import FrozenBatchNorm2d  # type: ignore[import-not-found]
        from torchvision.transforms import functional  # type: ignore[import-not-found]

        assert not isinstance(3, FrozenBatchNorm2d)
        assert functional.InterpolationMode.BICUBIC == "BICUBIC"
    assert [name for name in sys.modules if name.split(".")[0] == "torchvision"] == []


@here
def test_it_is_gone_after_an_error_too() -> None:
    with pytest.raises(ZeroDivisionError), timm_model.torchvision_stand_in():
        raise ZeroDivisionError
    assert importlib.util.find_spec("torchvision") is None
