"""TorchScript archives (torch.jit.save): code in PyTorch's own small language, and weights, in one file.

Loading one runs no Python, but its language is not harmless: ``torch.save`` and ``torch.from_file`` write any file that
the process may write, and remote calls reach other machines. An archive that names one of them needs --trust.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadModel, Untrusted, first_line
from modelkeep.model.copying import copied
from modelkeep.types import Model

MAIN = "model.ts"
REACHES_OUT = re.compile(rb"\b(save|from_file|rpc_\w+|getattr|torch\s*\.\s*classes\s*\.\s*(?!quantized\b)\w+)\b")
"""What reads or writes files, calls other machines, or could name such an operator in disguise."""


def adopt(
    source: Path, into: Path, *, factory: str | None, factory_args: Mapping[str, Any], data: Dataset | None, trust: bool
) -> Model:
    """See formats.adopt. Raises Untrusted where its code could reach out, BadModel without ``data`` or when damaged."""
    from modelkeep.model.formats import torch as torch_format

    if not trust:
        check(source)
    copied(source, into / MAIN)
    built = _open(into / MAIN, told=source)
    signature = torch_format.observe(built, torch_format.needed(data, source))
    return Model(into, "torchscript", signature, (MAIN,))


def check(source: Path) -> None:
    """Raises Untrusted, which names the member and the word, or BadModel for an archive that cannot be read."""
    try:
        with zipfile.ZipFile(source) as archive:
            for name in archive.namelist():
                if "/code/" in name and not name.endswith(".debug_pkl"):
                    found = REACHES_OUT.search(archive.read(name))
                    if found:
                        raise Untrusted(
                            f"'{name}' of {source} names '{found[0].decode()}', with which TorchScript can reach files "
                            "or other machines; pass --trust if you made the file yourself"
                        )
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError) as error:
        raise BadModel(f"{source} is damaged: {error!r}") from error


def module(model: Model) -> torch.nn.Module:
    """The scripted or traced module, in eval mode."""
    return _open(model.main)


def parameters(built: torch.nn.Module) -> tuple[str, ...]:
    """The names of forward's inputs, which inspect cannot tell of a scripted module."""
    forward: Any = built.forward
    return tuple(argument.name for argument in forward.schema.arguments[1:])


def _open(file: Path, told: Path | None = None) -> torch.nn.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that TorchScript is deprecated is for whoever saved it
            built: torch.nn.Module = torch.jit.load(str(file), map_location="cpu")  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError, OSError) as error:
        raise BadModel(f"{told or file} is not a TorchScript archive that can be read: {first_line(error)}") from error
    return built.eval()
