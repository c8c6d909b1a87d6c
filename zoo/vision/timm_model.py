"""A timm model by name, on a machine without torchvision.

timm takes one class (FrozenBatchNorm2d, for isinstance) and the transforms of its data loaders from torchvision, which
none of its models runs. While timm is imported, an empty torchvision stands in; what then calls into it would fail.
This file is self-contained, since a version keeps the file of its factory and nothing else.
"""

import contextlib
import importlib.util
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from torch import nn

WANTED = ("", ".datasets", ".ops", ".ops.misc", ".transforms", ".transforms.functional")


def create(model: str, **options: Any) -> nn.Module:
    """timm.create_model with random weights, and outputs that are plain logits."""
    with torchvision_stand_in():
        import timm
    built: nn.Module = timm.create_model(model, pretrained=False, **options)
    return built


@contextlib.contextmanager
def torchvision_stand_in() -> Iterator[None]:
    """Modules of torchvision's names whose every attribute is an empty class; gone afterwards."""
    if importlib.util.find_spec("torchvision"):
        yield
        return
    made = {f"torchvision{name}": _Empty(f"torchvision{name}") for name in WANTED}
    sys.modules.update(made)
    try:
        yield
    finally:
        for name in made:
            del sys.modules[name]


class _Named(type):
    """A class whose unknown attributes are their own names, as an enumeration's members are told apart."""

    def __getattr__(cls, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class _Empty(ModuleType):
    __path__: list[str] = []  # noqa: RUF012 - what makes a module a package

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return sys.modules.get(f"{self.__name__}.{name}") or _Named(name, (nn.Module,), {})
