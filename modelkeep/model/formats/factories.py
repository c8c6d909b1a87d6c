"""module:Name, what builds a module: found, kept with the version, and built from what was kept."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelkeep import extras
from modelkeep.errors import BadModel

if TYPE_CHECKING:
    import torch

CODE = "code"
"""The folder inside a model folder that keeps the factory's file."""


def keep(factory: str, into: Path, near: Sequence[Path]) -> tuple[str, ...]:
    """Copy the file of the factory's module to code/<module>.py at ``into``, so that editing yours changes nothing.

    It is looked for in the folders ``near``, then among what Python can import; what pip installed is left there.
    Returns the copied paths, inside ``into``. Raises BadModel when it is nowhere.
    """
    name, colon, attribute = factory.partition(":")
    if not (name and colon and attribute):
        raise BadModel(f"factory '{factory}' is not of the form module:Name")
    file = _find(name, near)
    if file is None:
        return ()
    kept = f"{CODE}/{name}.py"
    (into / CODE).mkdir(parents=True, exist_ok=True)
    if not (into / kept).exists() or not (into / kept).samefile(file):
        shutil.copyfile(file, into / kept)
    return (kept,)


def build(factory: str, arguments: Mapping[str, Any], home: Path) -> torch.nn.Module:
    """Call the factory kept in the model folder ``home``. Raises BadModel where it fails or gives no module."""
    import torch

    try:
        target = extras.load(factory, beside=home / CODE)
    except BadModel as error:
        if isinstance(error.__cause__, ImportError):
            raise BadModel(f"{error}; what the factory's file imports must be installed, or be in that file") from error
        raise
    try:
        built = target(**arguments)
    except Exception as error:  # a person's code may raise anything
        given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        raise BadModel(f"factory {factory}({given}) fails: {error!r}; see --factory-args") from error
    if not isinstance(built, torch.nn.Module):
        raise BadModel(f"factory '{factory}' gives a {type(built).__name__}, which is no torch.nn.Module")
    return built


def parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    """The names of the positional parameters, empty where Python cannot tell."""
    try:
        found = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return ()
    return tuple(p.name for p in found if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD))


@contextlib.contextmanager
def importable(*folders: Path) -> Iterator[None]:
    """These folders first on Python's path, for as long as it takes to load a file that names their modules."""
    before = list(sys.path)
    sys.path[:0] = [str(folder) for folder in folders]
    try:
        yield
    finally:
        sys.path[:] = before


def _find(name: str, near: Sequence[Path]) -> Path | None:
    """The module's own file; None for one that pip installed, which its environment keeps."""
    relative = Path(*name.split("."))
    for folder in near:
        for file in (folder / f"{name}.py", folder / relative.with_suffix(".py"), folder / relative / "__init__.py"):
            if file.is_file():
                return file
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        told = " nor in ".join(dict.fromkeys(str(folder.absolute()) for folder in near))
        raise BadModel(f"module '{name}' of the factory is neither in {told} nor installed")
    origin = Path(spec.origin or "built-in")
    installed = [Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib", "stdlib")]
    if origin.suffix != ".py" or any(origin.is_relative_to(folder) for folder in installed):
        return None
    return origin
